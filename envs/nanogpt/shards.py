"""Shards of tokens, in the format of the published GPT-2 shards of FineWeb.

    256 x int32, little endian    20240520, 1, the count of tokens, zeros
    count x uint16                tokens

Trusted: the evaluator reads the hidden shards with it.  Nothing here depends on a file's name.
"""

import os
from pathlib import Path

import numpy as np

from ideator_rl.environments.data import SourceError

MAGIC, FORMAT = 20240520, 1
HEADER = 1024
"""Bytes."""
VOCAB = 50257
"""GPT-2's tokens; models may have more classes, which no target has."""
SEPARATOR = 50256
"""The token before each document."""


def read_header(path: Path) -> int:
    """The count of tokens of a shard, whose size is checked.

    Raises:
        SourceError: the file is no such shard, or is cut off.
    """
    with open(path, "rb") as file:
        head = file.read(HEADER)
        size = os.fstat(file.fileno()).st_size
    if len(head) < HEADER:
        raise SourceError(f"{path} has {size} bytes, less than a header of {HEADER}. Copy the file again.")
    magic, form, count = (int(number) for number in np.frombuffer(head, "<i4")[:3])
    if (magic, form) != (MAGIC, FORMAT):
        raise SourceError(
            f"{path} begins with {magic}, {form}; a shard of tokens begins with {MAGIC}, {FORMAT}. "
            "Give files of the published format."
        )
    expected = HEADER + 2 * count
    if count < 1 or size != expected:
        raise SourceError(
            f"{path} has {size} bytes, but its header says {count} tokens, which are {expected} bytes. "
            "It is cut off or damaged: copy the file again."
        )
    return count


def read_tokens(path: Path, start: int = 0, count: int | None = None) -> np.ndarray:
    """Tokens of a shard from `start` on, uint16 (count,); None reads to the end.

    Raises:
        SourceError: the file is no shard, or holds fewer tokens.
    """
    length = read_header(path)
    count = length - start if count is None else count
    if start < 0 or count < 0 or start + count > length:
        raise SourceError(f"{path} holds {length} tokens; tokens {start} to {start + count} were asked for.")
    return np.fromfile(path, "<u2", count, offset=HEADER + 2 * start)


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Write tokens, int (N,), as a shard, whole or not at all.

    Raises:
        ValueError: no tokens, too many for the header, or one that has no place in two bytes.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not 0 < len(tokens) < 2**31 or tokens.min() < 0 or tokens.max() > 65535:
        raise ValueError(f"Got tokens of shape {tokens.shape}; expected (N,), N >= 1, each from 0 to 65535.")
    head = np.zeros(HEADER // 4, "<i4")
    head[:3] = MAGIC, FORMAT, len(tokens)
    scratch = path.with_name(f".{path.name}.partial")
    with open(scratch, "wb") as file:
        file.write(head.tobytes())
        file.write(tokens.astype("<u2").tobytes())
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
