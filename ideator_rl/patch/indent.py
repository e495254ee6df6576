"""Drift in indentation: every way in which a hunk's lines may have lost or gained theirs as a whole.

A way counts only if it explains each line to look for.  If two ways do and would write different lines, both are
returned, and the caller refuses the hunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from ideator_rl.patch.edit import Hunk

BLANKS = " \t\r\f"
"""The characters that count as blank at the ends of a line."""

Way = Callable[[str], str | None]
"""From a hunk's line to that line as the file is indented; None if the way does not apply to it."""

_UNITS = [
    ("\t", " " * 8),
    ("\t", " " * 4),
    ("\t", "  "),
    ("  ", " " * 4),
    (" " * 4, " " * 8),
    ("  ", " " * 8),
]
"""Units of indentation that are mistaken for one another, in both directions."""


def reindented(hunk: Hunk, file_lines: list[str]) -> tuple[set[tuple[str, ...]], bool]:
    """The added lines by each way that turns the lines to look for into `file_lines` (without blanks at their ends),
    and whether one of these ways is another unit of indentation, which would then hold for the whole patch."""
    old = [text.rstrip(BLANKS) for text in hunk.old]
    pairs = [(text, line) for text, line in zip(old, file_lines, strict=True) if text]
    results, other_unit = set(), False
    # A context line that only lost its mark is no shift by one blank.
    lost_mark = hunk.has_marks and bool(pairs) and pairs[0][1] == " " + pairs[0][0]
    for way, changes_unit in _ways(pairs, not lost_mark and (hunk.has_marks or _same_shift(hunk))):
        added = [way(text) for text in hunk.added]
        if all(way(text) == line for text, line in pairs) and None not in added:
            results.add(tuple(text for text in added if text is not None))
            other_unit |= changes_unit
    if (stripped := _stripped_block(hunk, pairs)) is not None:
        results.add(stripped)
    # Of several results, those that nest as code does are preferred.
    nested = {added for added in results if _nests(added)} if len(results) > 1 else results
    return nested or results, other_unit


def _same_shift(hunk: Hunk) -> bool:
    """Whether SEARCH and REPLACE seem to have lost the same amount of indentation.

    They begin and end with the same lines; or lines that each side has once have equal depth; or, without such lines,
    the first lines have.
    """
    marks = [mark for mark, text in hunk.lines if text.strip(BLANKS)]
    if len(marks) > 2 and marks[0] == marks[-1] == " ":
        return True
    sides = [[text for text in side if text.strip(BLANKS)] for side in (hunk.old, hunk.new)]
    counts = [Counter(text.strip(BLANKS) for text in side) for side in sides]
    depths = [{text.strip(BLANKS): _depth(text) for text in side} for side in sides]
    shared = [text for text, count in counts[0].items() if count == counts[1][text] == 1]
    if shared:
        return all(depths[0][text] == depths[1][text] for text in shared)
    return len({_depth(side[0]) for side in sides if side}) < 2


def is_flattened(hunk: Hunk) -> bool:
    """Whether REPLACE of a block is at the margin, and begins with a line that is indented in SEARCH."""
    old, new = ([text for text in side if text.strip(BLANKS)] for side in (hunk.old, hunk.new))
    if hunk.has_marks or not old or not new:
        return False
    same_line = old[0].strip(BLANKS) == new[0].strip(BLANKS)
    return same_line and _depth(old[0]) > 0 and _depth(new[0]) < _depth(old[0]) and min(map(_depth, new)) == 0


def _depth(text: str) -> int:
    return len(text) - len(text.lstrip(BLANKS))


def _ways(pairs: list[tuple[str, str]], shifts: bool) -> Iterator[tuple[Way, bool]]:
    """Each way that the first pair allows, and whether it changes the unit of indentation."""
    if not pairs:
        return
    text, line = pairs[0]
    if not shifts:
        pass
    elif line.endswith(text):
        yield _shift_in(line[: len(line) - len(text)]), False
    elif text.endswith(line):
        yield _shift_out(text[: len(text) - len(line)]), False
    # Other units can only be seen in an indented line.
    if any(text[0].isspace() for text, _ in pairs):
        for unit, replacement in _UNITS:
            yield _convert(unit, replacement), True
            yield _convert(replacement, unit), True


def _shift_in(blanks: str) -> Way:
    return lambda text: blanks + text if text.strip() else text


def _shift_out(blanks: str) -> Way:
    return lambda text: text.removeprefix(blanks) if text.startswith(blanks) or not text.strip() else None


def _convert(unit: str, replacement: str) -> Way:
    def way(text: str) -> str | None:
        depth = 0
        while text.startswith(unit, depth):
            depth += len(unit)
        blanks = text[depth : _depth(text)]
        if "\t" in blanks or (blanks and "\t" not in unit + replacement):
            return text if not text.strip(BLANKS) else None
        return replacement * (depth // len(unit)) + text[depth:]

    return way


def _stripped_block(hunk: Hunk, pairs: list[tuple[str, str]]) -> tuple[str, ...] | None:
    """The added lines of a block whose sides were each stripped as a text, so that only their first lines lost their
    indentation; None for any other hunk."""
    if hunk.has_marks or not pairs or not hunk.lines[0][1].strip(BLANKS):
        return None
    mark, (text, line) = hunk.lines[0][0], pairs[0]
    if not line.endswith(text) or any(text != line for text, line in pairs[1:]):
        return None
    # The first line of both sides is a context line, or REPLACE has its own first line, which lost its indentation too.
    if mark == " ":
        return tuple(hunk.added)
    first_added = hunk.new[0] if mark == "-" and hunk.new and hunk.added else ""
    if first_added != first_added.strip(BLANKS) or not first_added or hunk.added[0] != first_added:
        return tuple(hunk.added) if mark == "-" and not hunk.new else None
    return (line[: len(line) - len(text)] + first_added, *hunk.added[1:])


def _nests(added: tuple[str, ...]) -> bool:
    """Whether the second line is deeper than the first exactly if the first opens a body or bracket."""
    lines = [text for text in added if text.strip(BLANKS)][:2]
    if len(lines) < 2:
        return True
    return (_depth(lines[1]) > _depth(lines[0])) == lines[0].rstrip(BLANKS).endswith((":", "(", "[", "{", ",", "\\"))
