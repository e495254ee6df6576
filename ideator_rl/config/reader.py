"""The reader of every file and every JSON text that a person, a bucket or an earlier run hands in.

`read_bytes` and `read_text` never wait for a pipe or a device, and stop at a size.  `parse_json` refuses what Python's
own reader takes in silence or answers with a traceback: a key twice, numbers without end, deep nesting.  YAML is read
by `yaml_reader`, with the same limits.  Every error is one sentence: the file, what came, what was expected, what to
do.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError

MAX_BYTES = 1 << 20
"""Bytes of a file that a person writes by hand: a recipe, a manifest, settings."""
MAX_DATA_BYTES = 512 << 20
"""Bytes of a file that a program writes: ideas, journals, states."""
MAX_DEPTH = 50
"""Mappings and lists inside one another."""
MAX_DIGITS = 300
"""Digits of a number; Python refuses to print whole numbers of more than 4,300."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class ReadError(IdeatorError, ValueError):
    """A file or a text cannot be read as what it should be."""


def read_bytes(
    path: Path | str, name: str = "", error: type[IdeatorError] = ReadError, max_bytes: int = MAX_BYTES
) -> bytes:
    """A regular file's content.

    Args:
        name: how a message begins, such as `The recipe r.yaml`; the path by default.

    Raises:
        error: no such file, no regular file, one of more than `max_bytes`, or one that the system cannot read.
    """
    name = name or str(path)
    try:
        # Without waiting: to open a pipe that no process writes to would never return.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"{name} cannot be read: {reason}. Give the path of a file.") from problem
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            kind = next((text for check, text in _KINDS if check(info.st_mode)), "no regular file")
            raise error(f"{name} cannot be read: it is {kind}. Give the path of a file.")
        with open(handle, "rb", closefd=False) as file:
            data = b"" if info.st_size > max_bytes else file.read(max_bytes + 1)
    except OSError as problem:
        raise error(f"{name} cannot be read: {problem.strerror}. Give the path of another file.") from problem
    finally:
        os.close(handle)
    if max(info.st_size, len(data)) > max_bytes:
        size = max(info.st_size, len(data))
        raise error(f"{name} has {size} bytes; at most {max_bytes} are read. Give a smaller file.")
    return data


def read_text(
    path: Path | str, name: str = "", error: type[IdeatorError] = ReadError, max_bytes: int = MAX_BYTES
) -> str:
    """A file's text, without a byte order mark, and with `\\n` at the end of each line.

    Raises:
        error: as `read_bytes`, or bytes that are not UTF-8.
    """
    text = decode(read_bytes(path, name, error, max_bytes), name or str(path), error)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes, name: str, error: type[IdeatorError] = ReadError) -> str:
    """UTF-8 as text, without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        form = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else f"binary at line {line}, byte {problem.start}"
        raise error(f"{name} is not UTF-8 text ({form}). Give a text file, saved as UTF-8.") from None


def read_json(path: Path | str, name: str = "", error: type[IdeatorError] = ReadError, finite: bool = True) -> Any:
    """The value in a JSON file of at most `MAX_DATA_BYTES`.

    Args:
        finite: as `parse_json`.

    Raises:
        error: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, name, error, MAX_DATA_BYTES), name or str(path), error, finite)


def parse_json(text: str | bytes, name: str, error: type[IdeatorError] = ReadError, finite: bool = True) -> Any:
    """The value in a JSON text.

    Args:
        name: how a message begins.
        finite: refuse NaN and Infinity, which are no JSON; else they are read, as in records of 0.1.0.

    Raises:
        error: no JSON, nesting deeper than `MAX_DEPTH`, a key twice, or a number that is too long or not finite.
    """
    text = decode(text, name, error) if isinstance(text, bytes) else text

    def constant(word: str) -> float:
        if finite:
            raise ReadError(f"the number {word}, and a finite number was expected")
        return float(word)

    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_decimal, parse_constant=constant
        )
    except json.JSONDecodeError as problem:
        place = f"line {problem.lineno}, column {problem.colno}: {problem.msg}"
        raise error(f"{name} is not JSON ({place}). Correct it there.") from None
    except ReadError as problem:
        raise error(f"{name} has {problem}. Correct it there.") from None
    except RecursionError:
        raise error(f"{name} is nested too deeply. Expected at most {MAX_DEPTH} levels.") from None
    if is_deeper(value, MAX_DEPTH):
        raise error(f"{name} is nested too deeply. Expected at most {MAX_DEPTH} levels.")
    return value


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """A JSON object, which may hold NaN and infinities.

    Raises:
        ValueError: it is none.
    """
    value = parse_json(raw, "it", finite=False)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def is_deeper(value: Any, depth: int) -> bool:
    """Whether mappings and lists are inside one another more than `depth` times."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def quoted(text: object, limit: int = 80) -> str:
    """A value for a message: the start of one that is long."""
    shown = repr(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ReadError(f"the key {quoted(double)} twice; keep one")
    return mapping


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ReadError(f"a number of {len(digits)} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def _decimal(digits: str) -> float:
    number = float(digits) if len(digits) <= MAX_DIGITS else math.inf
    if not math.isfinite(number):
        raise ReadError(f"the number {quoted(digits)}, which is too large or too long")
    return number
