"""The weights of an experiment, where its code takes no part in the measurement: a safetensors file that is checked.

Covered, before any library opens the file:
- a regular file, not a link, of a size that follows from the base's tensors: no sparse terabyte
- a header of bounded length, without duplicate names
- names, shapes and types equal to the base's; their bytes one after another, without overlap or gap, to the file's end
- finite values

Not covered: what the weights compute.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ideator_rl.scoring.scoring import ScorerFailed, ScoringRun

MAX_BASE_HEADER = 100 << 20
"""Bytes; the limit of the format."""
SPARE_HEADER_BYTES = 64 << 10
"""How much longer than the base's a header may be: other spacing, metadata."""
CHUNK_BYTES = 16 << 20
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_EXPONENT = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}
"""Of the types with infinities: an integer type of equal size, and the bits that are all set in what is not finite."""


class _Refused(ValueError):
    """The file is not as expected; the message completes the sentence "the weights file …"."""


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def weights(run: ScoringRun, like: Path, name: str = "model.safetensors") -> Path:
    """The path of the artifact's weights, once they are known to be like the base's in all but their values.

    Args:
        like: the base's safetensors file, or a folder with one or several of them.
        name: of the file in the artifact.

    Raises:
        ScorerFailed: the file is missing or differs in form from the base.
        ValueError: `like` holds no safetensors file, or one of an unknown type.
    """
    files = sorted(like.glob("*.safetensors")) if like.is_dir() else [like]
    if not files:
        raise ValueError(f"{like} holds no *.safetensors file; expected the base's weights")
    expected: dict[str, _Tensor] = {}
    header_bytes = SPARE_HEADER_BYTES
    for file in files:
        with file.open("rb") as reader:
            length, tensors = _read_header(reader, MAX_BASE_HEADER)
        header_bytes += length
        expected |= {name: tensor for name, (tensor, _, _) in tensors.items()}
    path = run.artifact / name
    try:
        _check(path, expected, header_bytes)
    except FileNotFoundError:
        raise ScorerFailed(f"it left no {name} in the artifact folder") from None
    except OSError as error:
        raise ScorerFailed(f"its {name} cannot be read: {error.strerror}") from None
    except _Refused as error:
        raise ScorerFailed(f"its {name} {error}") from None
    return path


def _check(path: Path, expected: dict[str, _Tensor], max_header: int) -> None:
    # Neither follow a link nor wait for the other end of a pipe.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as reader:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise _Refused("is not a regular file")
        total = sum(tensor.size for tensor in expected.values())
        if info.st_size > 8 + max_header + total:
            raise _Refused(f"is {info.st_size} bytes; expected at most {8 + max_header + total}")
        length, tensors = _read_header(reader, max_header)
        _compare({name: tensor for name, (tensor, _, _) in tensors.items()}, expected)
        _check_places(tensors, info.st_size - 8 - length)
        for name, (tensor, begin, _) in sorted(tensors.items(), key=lambda item: item[1][1]):
            reader.seek(8 + length + begin)
            if not all(_is_finite(chunk, tensor.dtype) for chunk in _chunks(reader, tensor.size)):
                raise _Refused(f"holds values that are not finite, in {name!r}")


def _read_header(reader: BinaryIO, most: int) -> tuple[int, dict[str, tuple[_Tensor, int, int]]]:
    """The header's length, and by name each tensor with the begin and end of its bytes."""
    prefix = reader.read(8)
    if len(prefix) < 8:
        raise _Refused("ends before its header")
    length = struct.unpack("<Q", prefix)[0]
    if length > most:
        raise _Refused(f"has a header of {length} bytes; expected at most {most}")
    text = reader.read(length)
    if len(text) < length:
        raise _Refused("ends within its header")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except _Refused:
        raise
    except (ValueError, RecursionError):  # Python's limit on the digits of a number is a ValueError too
        raise _Refused("has a header that is not JSON") from None
    if not isinstance(header, dict):
        raise _Refused("has a header that is no JSON object")
    _check_metadata(header.pop("__metadata__", {}))
    return length, {name: _entry(entry) for name, entry in header.items()}


def _check_metadata(metadata: Any) -> None:
    """Refuse what the library cannot read: the generator would break, which is no fault of an experiment."""
    texts = [*metadata, *metadata.values()] if isinstance(metadata, dict) else [None]
    # A half of a surrogate pair is text for Python's JSON alone.
    if not all(isinstance(text, str) and text.encode(errors="ignore").decode() == text for text in texts):
        raise _Refused("has a header with metadata that is no text by name")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Libraries differ in which of two equal names they take.
    if len({name for name, _ in pairs}) < len(pairs):
        raise _Refused("has a header with duplicate names")
    return dict(pairs)


def _no_constant(text: str) -> None:
    raise _Refused(f"has a header with {text}")


def _entry(entry: Any) -> tuple[_Tensor, int, int]:
    """A tensor and its place, from one entry of the header.

    Exact types: `1.0` and `true` equal 1 in Python, and another library may read them differently.
    """
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _Refused("has a header with an entry that is no tensor")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = isinstance(shape, list) and isinstance(offsets, list) and all(type(n) is int for n in [*shape, *offsets])
    if not numbers or len(offsets) != 2 or min([*shape, *offsets]) < 0:
        raise _Refused("has a header with a shape or place that is no list of natural numbers")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _Refused("has a header with a type that is none of " + ", ".join(ITEM_BYTES))
    return _Tensor(dtype, tuple(shape)), offsets[0], offsets[1]


def _compare(tensors: dict[str, _Tensor], expected: dict[str, _Tensor]) -> None:
    # Only the base's names are shown: those of the file could be of any text.
    missing, extra = sorted(expected.keys() - tensors.keys()), len(tensors.keys() - expected.keys())
    if missing:
        raise _Refused(f"lacks {len(missing)} of the base's tensors, {missing[0]!r} first")
    if extra:
        raise _Refused(f"holds {extra} tensors that the base has not")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise _Refused(f"has another shape for {name!r}; expected {tensor.shape}")
        if tensors[name].dtype != tensor.dtype:
            raise _Refused(f"has {name!r} as {tensors[name].dtype}; expected {tensor.dtype}")


def _check_places(tensors: dict[str, tuple[_Tensor, int, int]], data_bytes: int) -> None:
    """Refuse overlaps, gaps, and bytes that belong to no tensor."""
    at = 0
    for tensor, begin, end in sorted(tensors.values(), key=lambda entry: entry[1:]):
        if begin != at or end - begin != tensor.size:
            raise _Refused("has tensors that overlap, leave a gap, or differ in size from their shape")
        at = end
    if at != data_bytes:
        raise _Refused(f"has {data_bytes} bytes of data; its tensors take {at}")


def _chunks(reader: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        chunk = reader.read(min(size, CHUNK_BYTES))
        if not chunk:
            raise _Refused("ends within its data")
        size -= len(chunk)
        yield chunk


def _is_finite(chunk: bytes, dtype: str) -> bool:
    if dtype not in _EXPONENT:
        return True
    integer, exponent = _EXPONENT[dtype]
    bits = np.frombuffer(chunk, integer) & np.array(exponent, integer)
    return not bool((bits == np.array(exponent, integer)).any())
