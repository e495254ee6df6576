"""Files of a codebase as text, as Python reads them: a byte order mark, or the encoding that a first line declares.

Guaranteed: `encoded(path, decoded(path, data)) == data` for every file that `decoded` accepts.  A byte order mark stays
the first character of the text, so that patches keep it; what shows or parses a text leaves it out.
"""

from __future__ import annotations

import ast
import io
import tokenize

from ideator_rl.patch.edit import PatchError

BYTE_ORDER_MARK = "\ufeff"


def decoded(path: str, data: bytes) -> str:
    """The text of a file.

    Raises:
        PatchError: "rejected", it is not text in UTF-8 or, for a Python file, in the encoding that it declares.
    """
    encoding = _declared(path, data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = {"utf-8": "UTF-8"}.get(encoding, encoding)
        raise PatchError(f"{path}: not {name} text (byte {error.start}); a codebase holds text files only",
                         "rejected") from None  # fmt: skip
    if "\0" in text:
        raise PatchError(f"{path}: holds a NUL character; a codebase holds text files only", "rejected")
    # Some encodings write one text in several ways: such a file would not be the same after it was read and written.
    if encoding != "utf-8" and text.encode(encoding, "replace") != data:
        raise PatchError(
            f"{path}: its {encoding} text would not be written as it was read; save it as UTF-8", "rejected"
        )
    return text


def encoded(path: str, text: str) -> bytes:
    """The bytes of a file: UTF-8, or what the first lines of a Python file declare.

    Raises:
        PatchError: "rejected", the declared encoding lacks a character of the text.
    """
    # A declaration is ASCII, and other characters of its lines do not matter.
    first_lines = "".join(text.split("\n", 2)[i] + "\n" for i in range(min(2, text.count("\n") + 1)))
    encoding = _declared(path, first_lines.encode("ascii", "replace")) if text[:1] != BYTE_ORDER_MARK else "utf-8"
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise PatchError(
            f"{path}: its first lines declare {encoding}, which has no {error.object[error.start]!r}; write ASCII "
            "there, or declare utf-8",
            "rejected",
        ) from None


def _declared(path: str, data: bytes) -> str:
    """The encoding that Python reads a file in; UTF-8 for a file that is not Python's, or that Python refuses."""
    if not path.endswith((".py", ".pyi")):
        return "utf-8"
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError:
        return "utf-8"
    return "utf-8" if encoding == "utf-8-sig" else encoding


def shown(text: str) -> str:
    """A text without its byte order mark, which no reader sees."""
    return text.removeprefix(BYTE_ORDER_MARK)


def parsed(text: str) -> ast.Module:
    """The syntax tree of a Python file.

    Raises:
        SyntaxError, ValueError, RecursionError: Python cannot read it.
    """
    try:
        return ast.parse(shown(text))
    except MemoryError:  # the parser's own stack, not the machine's memory
        raise SyntaxError("too deeply nested") from None
