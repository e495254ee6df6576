"""Finds the place of a hunk whose code the file spells otherwise, and writes the hunk as the file spells it.

Spelling is what leaves no trace in `tokens`: comments, blank lines, kinds of quotes, trailing commas, and how the
inside of brackets is broken into lines.  Indentation of statements must agree, and so must all other tokens.

The file's spelling stays everywhere but in what the hunk changes: in a changed line only changed tokens are replaced,
and its comment stays, unless the hunk changes the comment itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ideator_rl.patch.comments import FileComments
from ideator_rl.patch.edit import Hunk
from ideator_rl.patch.splice import (
    Marked,
    Spellings,
    UncertainChange,
    changed_lines,
    check_comments,
    filled_gap,
    paired,
    token_keys,
)
from ideator_rl.patch.tokens import Token, Tokens, tokenize

_QUOTES = ("", '"""', "'''")
_SUFFIXES = (".py", ".pyi")


@dataclass(frozen=True)
class Respelled:
    """A hunk whose lines to look for are lines of the file, and the index of the first of them."""

    hunk: Hunk
    at: int
    counts: range
    """How many lines of the file the hunk may have meant: it may have left out comments at its top."""


def respelled(path: str, lines: list[str], file: Tokens, hunk: Hunk) -> list[Respelled]:
    """The hunk in the spelling of each place that holds its code; `file` holds the tokens of the lines.

    Empty if there is none; also if, at one of them, it is not certain what a change of the hunk means.
    """
    if not path.endswith(_SUFFIXES) or not hunk.old:
        return []
    places = {(place.start, place.end): place for place in _places(file, hunk)}
    try:
        return [_written(lines, file, place, hunk) for place in places.values()]
    except UncertainChange:
        return []


@dataclass(frozen=True)
class _Place:
    """Tokens of a file that are those of a hunk, one for one."""

    hunk: Tokens
    tokens: list[Token]

    @property
    def start(self) -> int:
        return self.tokens[0].line

    @property
    def end(self) -> int:
        return self.tokens[-1].line + 1

    def runs(self) -> Iterator[tuple[range, range]]:
        """(lines of the hunk, lines of the file) that hold the same tokens, as few lines as possible each time."""
        pairs = list(zip(self.hunk.tokens, self.tokens, strict=True))
        first = 0
        for index in range(1, len(pairs) + 1):
            ends = index == len(pairs) or all(
                now.line > before.line for now, before in zip(pairs[index], pairs[index - 1], strict=True)
            )
            if ends:
                (old, line), (last_old, last_line) = pairs[first], pairs[index - 1]
                yield range(old.line, last_old.line + 1), range(line.line, last_line.line + 1)
                first = index


def _places(file: Tokens, hunk: Hunk) -> Iterator[_Place]:
    keys = [token.key for token in file.tokens]
    # A hunk may begin inside a string of several lines, which its own lines do not always show.
    for quote in _QUOTES:
        old = tokenize(hunk.old, quote)
        tokens, ends_in_comma = old.tokens, False
        if tokens and tokens[-1].key == ",":
            # What follows decides whether this comma is a trailing one, and it is not in the hunk.
            tokens, ends_in_comma = tokens[:-1], True
            old = Tokens(tokens, old.comments, old.in_string)
        if not any(token.key[0].isalnum() or token.key[0] in "_'\"" for token in tokens):
            continue
        wanted = [token.key for token in tokens]
        for at in (index for index, key in enumerate(keys) if key == wanted[0]):
            if keys[at : at + len(wanted)] != wanted:
                continue
            place = _Place(old, file.tokens[at : at + len(wanted)])
            following = file.tokens[at + len(wanted)] if at + len(wanted) < len(keys) else None
            if ends_in_comma and following and following.key == "," and not following.first:
                following = next(iter(file.tokens[at + len(wanted) + 1 :]), None)
            elif ends_in_comma and not place.tokens[-1].comma:
                continue
            if (following is None or following.first) and _fits(place):
                yield place


def _fits(place: _Place) -> bool:
    """Whether lines begin where they may: each statement in a line of its own, with the indentation of the file."""
    if not place.tokens[0].first:
        return False
    for old, token in zip(place.hunk.tokens, place.tokens, strict=True):
        if token.statement and not (old.first and old.start == token.start):
            return False
        if old.first and not token.first and not token.free:
            return False
        if old.doubtful and not token.comma:
            return False
    return True


def _written(lines: list[str], file: Tokens, place: _Place, hunk: Hunk) -> Respelled:
    """The hunk with the lines of the file at a place.

    Raises:
        UncertainChange: it is not certain what a change between lines of code means.
    """
    entries = paired(list(hunk.lines))
    entry_of_row = [index for index, (mark, _) in enumerate(entries) if mark != "+"]
    removed = _removed_spellings(lines, place, entries, entry_of_row)
    top, bottom = _margins(lines, file, place)
    comments = FileComments(lines, file)
    marked: Marked = []
    next_entry, next_line = 0, top.start
    for rows, span in place.runs():
        start, stop = entry_of_row[rows[0]], entry_of_row[rows[-1]] + 1
        # The line that replaces a single one belongs to it, so that the file's spelling of the rest can stay.
        if _is_replaced(entries, start, stop):
            stop += 1
        is_string, code = span.start in file.in_string, lines[span.start : span.stop]
        above = entries[next_entry - 1] if next_entry else None
        gap = entries[next_entry:start], lines[next_line : span.start]
        marked += filled_gap(*gap, above, code[0], removed, comments, is_string)
        if not is_string:
            check_comments([text for mark, text in entries[start:stop] if mark != "+"], code, comments)
        marked += _code(entries[start:stop], code, is_string)
        next_entry, next_line = stop, span.stop
    rest = entries[next_entry:], lines[next_line : bottom.stop]
    marked += filled_gap(*rest, entries[next_entry - 1], "", removed, comments, in_string=False)
    # Blank lines and comments at both ends are only there for changes among them.
    start, stop = 0, len(marked)
    while start < len(top) and marked[start][0] == " ":
        start += 1
    while stop > len(marked) - len(bottom) and marked[stop - 1][0] == " ":
        stop -= 1
    written = replace(
        hunk,
        lines=tuple(marked[start:stop]),
        start=None,
        new_start=None,
        heading="",
        counts_match=False,
        respelled=True,
    )
    first, last = place.hunk.tokens[0].line, place.hunk.tokens[-1].line
    outside = first + len(hunk.old) - 1 - last
    most = outside + max(0, len(top) - first) if first else outside
    counts = range(place.end - place.start + outside, place.end - place.start + most + 1)
    return Respelled(written, top.start + start, counts)


def _margins(lines: list[str], file: Tokens, place: _Place) -> tuple[range, range]:
    """The blank lines and comments right above and right below a place."""
    code = {token.line for token in file.tokens}
    start, stop = place.start, place.end
    while start > 0 and start - 1 not in code:
        start -= 1
    while stop < len(lines) and stop not in code:
        stop += 1
    return range(start, place.start), range(place.end, stop)


def _is_replaced(entries: Marked, start: int, stop: int) -> bool:
    marks = [mark for mark, _ in entries[start : stop + 2]]
    return stop - start == 1 and marks[:2] == ["-", "+"] and marks[2:] != ["+"]


def _removed_spellings(lines: list[str], place: _Place, entries: Marked, entry_of_row: list[int]) -> Spellings:
    """Removed lines by their tokens, as the file spells them: an added line may be one of them, moved or indented."""
    spellings: Spellings = {}
    for rows, span in place.runs():
        mark, text = entries[entry_of_row[rows[0]]]
        if mark == "-" and len(rows) == len(span) == 1:
            spellings.setdefault(token_keys(text), (text, lines[span.start]))
    return spellings


def _code(entries: Marked, code: list[str], in_string: bool) -> Marked:
    """Lines of code with the changes of the hunk's lines that hold the same tokens."""
    marks = {mark for mark, _ in entries}
    if len(marks) == 1:
        return [(entries[0][0], line) for line in code]
    old = [text for mark, text in entries if mark != "+"]
    new = [text for mark, text in entries if mark != "-"]
    result = new if in_string else changed_lines(code, old, new)
    if result == code:
        return [(" ", line) for line in code]
    return [*(("-", line) for line in code), *(("+", line) for line in result)]
