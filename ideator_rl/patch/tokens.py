"""Tokens of Python lines, equal for equal code: comments, blanks, kinds of quotes and trailing commas leave no trace.

Works on fragments too: nothing has to parse, and a fragment may begin inside a string of several lines.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, replace

_TOKEN = re.compile(
    r"""(?P<blank>[\s\\]+)|(?P<comment>\#.*)
    |(?P<prefix>[rbufRBUF]{0,2})(?:(?P<long>\"{3}|'{3})|"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)')
    |(?P<other>[^\W\d]\w*|\d[\w.]*(?:(?<=[eE])[+-]\d+)?|\.\d\w*
    |\*\*=?|//=?|>>=?|<<=?|\.\.\.|->|:=|[=!<>]=|[-+*/%&|^@]=|\S)""",
    re.X,
)
_OPENING, _CLOSING = "([{", ")]}"
_NAME = re.compile(r"[^\W\d]\w*")
_BEFORE_TUPLES = {*keyword.kwlist, "match", "case"} - {"import"}
"""Words after which a parenthesis is no call; in `from a import (b,)` the comma makes no tuple."""


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
    doubtful: bool = False
    """Whether that comma may make a tuple: its bracket begins before the lines."""


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
                # Each blank and quote in it counts, except in a line of blanks, which is often lost.
                text = line[at:end]
                if text.strip() or (text and stop >= 0):
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
    # In a raw string a backslash stays, and the quotes in an f-string may be text: then no other spelling is equal.
    if ("r" in prefix or "f" in prefix) and re.search(r"[\"'\\]", body):
        return match[0]
    return f"{prefix}'" + re.sub(r"\\(.)", lambda escape: escape[1] if escape[1] in "\"'" else escape[0], body)


def _closing(line: str, at: int, quote: str) -> int:
    """The column of the closing quotes; -1 if the string goes on."""
    match = re.compile(rf"(?:[^\\]|\\.)*?(?={quote})").match(line, at)
    return match.end() if match else -1


@dataclass
class _Bracket:
    ignores_comma: bool
    """Whether a comma after a single element means nothing."""
    began: bool = True
    """Whether its opening bracket is in the lines."""
    commas: int = 0


def _without_trailing_commas(tokens: list[Token]) -> list[Token]:
    out: list[Token] = []
    brackets = [_Bracket(ignores_comma=False, began=False)]
    for index, token in enumerate(tokens):
        bracket = brackets[-1]
        closes = index + 1 < len(tokens) and tokens[index + 1].key in _CLOSING
        if token.key == "," and closes and out and not token.first:
            is_certain = bracket.ignores_comma or bracket.commas > 0
            if is_certain or not bracket.began:
                out[-1] = replace(out[-1], comma=True, doubtful=not is_certain)
                continue
        if token.key == ",":
            bracket.commas += 1
        elif token.key in _OPENING:
            brackets.append(_Bracket(_ignores_comma(token, tokens[index - 1] if index else None)))
        elif token.key in _CLOSING:
            brackets.pop()
            # What the next bracket out holds before these lines is not known.
            brackets = brackets or [_Bracket(ignores_comma=False, began=False)]
        out.append(token)
    return out


def _ignores_comma(opening: Token, before: Token | None) -> bool:
    """Whether a comma after the only element makes no tuple: in calls, definitions and displays, not in subscripts."""
    if opening.key == "{":
        return True
    if before is None or opening.statement:
        return False
    is_name = _NAME.fullmatch(before.key) is not None and before.key not in _BEFORE_TUPLES
    if opening.key == "(":
        return is_name or before.key in _CLOSING
    # A string may be subscripted too.
    return not is_name and before.key not in _CLOSING and not re.search(r"[\"']", before.key)
