"""Tokens of Python lines, equal for equal code: comments, blanks, kinds of quotes and trailing commas leave no trace.

Works on fragments too: nothing has to parse, and a fragment may begin inside a string of several lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<blank>[\s\\]+)|(?P<comment>\#.*)
    |(?P<prefix>[rbufRBUF]{0,2})(?:(?P<long>\"{3}|'{3})|"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)')
    |(?P<other>[^\W\d]\w*|\d[\w.]*(?:(?<=[eE])[+-]\d+)?|\.\d\w*
    |\*\*=?|//=?|>>=?|<<=?|\.\.\.|->|:=|[=!<>]=|[-+*/%&|^@]=|\S)""",
    re.X,
)
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Token:
    key: str
    """Equal for tokens that mean the same."""
    line: int
    start: int
    end: int
    """Its characters in the line."""
    first: bool
    """Whether no token is before it in its line."""
    statement: bool
    """Whether it begins a statement, as far as the lines show: first, outside brackets and strings."""
    free: bool
    """Whether a line may break before it without a change of meaning: inside brackets, or after a backslash."""
    comma: bool = False
    """Whether a comma follows that only a closing bracket makes superfluous."""


@dataclass(frozen=True)
class Tokens:
    tokens: list[Token]
    comments: dict[int, int]
    """Line -> the column where its comment begins."""
    in_string: set[int]
    """Lines that begin inside a string."""


def tokenize(lines: list[str], quote: str = "") -> Tokens:
    """The tokens of lines; `quote` is the triple quote of the string that the first line begins in."""
    tokens: list[Token] = []
    comments: dict[int, int] = {}
    in_string: set[int] = set()
    depth, continued = 0, False
    for number, line in enumerate(lines):
        at, first = 0, True
        if quote:
            in_string.add(number)
        while at < len(line):
            if quote:
                # A string of several lines is one token a line, and its closing quotes another.
                stop = _closing(line, at, quote)
                end = len(line) if stop < 0 else stop
                # Quotes in it are of no kind either: prose is copied with the quotes of its writer.
                if text := line[at:end].strip().replace('"', "'"):
                    tokens.append(Token('"' + text, number, at, end, first, False, False))
                    first = False
                at = end
                if stop >= 0:
                    tokens.append(Token('"""', number, at, at + 3, first, False, False))
                    at, quote, first = at + 3, "", False
                continue
            match = _TOKEN.match(line, at)
            assert match is not None  # the last alternative takes any character
            at = match.end()
            if match["comment"] is not None:
                comments[number] = match.start()
            if match["comment"] is not None or match["blank"] is not None:
                continue
            text = match[0]
            depth = max(0, depth - (text in _CLOSING))
            free = depth > 0 or (text in _CLOSING) or continued
            tokens.append(Token(_key(match), number, match.start(), at, first, first and not free, free))
            depth += text in _OPENING
            quote, first, continued = match["long"] or "", False, False
        continued = line.rstrip().endswith("\\") and not quote and number not in comments
    return Tokens(_without_trailing_commas(tokens), comments, in_string)


def _key(match: re.Match[str]) -> str:
    if match["other"] is not None:
        return match["other"]
    prefix = match["prefix"].lower().replace("u", "")
    if match["long"]:
        return prefix + '"""'
    body = match["double"] if match["double"] is not None else match["single"]
    # In an f-string the other quotes are inside its braces, and are swapped with the outer ones.
    if "f" in prefix:
        body = body.replace('"', "'")
    return f"{prefix}'" + re.sub(r"\\([\"'])", r"\1", body)


def _closing(line: str, at: int, quote: str) -> int:
    """The column of the closing quotes; -1 if the string goes on."""
    match = re.compile(rf"(?:[^\\]|\\.)*?(?={quote})").match(line, at)
    return match.end() if match else -1


def _without_trailing_commas(tokens: list[Token]) -> list[Token]:
    out: list[Token] = []
    for index, token in enumerate(tokens):
        closes = index + 1 < len(tokens) and tokens[index + 1].key in _CLOSING
        if token.key == "," and closes and out and not token.first:
            last = out[-1]
            out[-1] = Token(last.key, last.line, last.start, last.end, last.first, last.statement, last.free, True)
        else:
            out.append(token)
    return out
