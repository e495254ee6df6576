"""Files of a codebase as text, as Python reads them: a byte order mark, or the encoding that a first line declares.

Guaranteed: `encoded(path, decoded(path, data)) == data` for every file that `decoded` accepts, and
`decoded(path, encoded(path, text)) == text` for every text that `encoded` accepts: what is judged is what runs.  A byte
order mark stays the first character of the text, so that patches keep it; what shows or parses a text leaves it out.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize

from ideator_rl.patch.edit import PatchError

BYTE_ORDER_MARK = "\ufeff"
_LINE_END = re.compile("\r\n?|\n")
_ASCII = "xn--#+AA-\\u0041-"
"""An encoding that reads this in another way has escapes: what it shows is not what runs."""


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
    encoding = _declared(path, text.encode("ascii", "replace")) if text[:1] != BYTE_ORDER_MARK else "utf-8"
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError as error:
        raise PatchError(
            f"{path}: its first lines declare {encoding}, which has no {error.object[error.start]!r}; write ASCII "
            "there, or declare utf-8",
            "rejected",
        ) from None
    if encoding != "utf-8" and decoded(path, data) != text:
        raise PatchError(f"{path}: Python would read another text in {encoding}; declare utf-8", "rejected")
    return data


def _declared(path: str, data: bytes) -> str:
    """The encoding that Python reads a file in; UTF-8 for a file that is not Python's, or that Python refuses.

    Raises:
        PatchError: "rejected", the encoding reads ASCII as something else.
    """
    if not path.endswith((".py", ".pyi")):
        return "utf-8"
    # Python's parser ends a line at a lone carriage return too, `tokenize` does not.
    lines = _LINE_END.split(data.decode("latin-1"), 2)[:2]
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO("\n".join(lines).encode("latin-1") + b"\n").readline)
    except SyntaxError:
        return "utf-8"
    try:
        if _ASCII.encode().decode(encoding) == _ASCII:
            return "utf-8" if encoding == "utf-8-sig" else encoding
    except (LookupError, UnicodeError):
        pass  # no encoding of text, or one that fails in its own way
    raise PatchError(f"{path}: declares the encoding {encoding[:40]}, which is not for source code; declare utf-8",
                     "rejected")  # fmt: skip


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
