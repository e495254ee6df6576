"""Drift in indentation: every way in which a hunk's lines may have lost or gained theirs, and nothing in between.

A way counts only if it explains each line looked for.  Where two ways do and would write different lines, both are
given, and the caller refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from ideator_rl.patch.edit import Hunk

BLANKS = " \t\r\f"
"""What counts as blank at the ends of a line."""

Way = Callable[[str], str | None]
"""The indented line for a hunk's line; None where the way has no answer."""

_UNITS = [
    ("\t", " " * 8),
    ("\t", " " * 4),
    ("\t", "  "),
    ("  ", " " * 4),
    (" " * 4, " " * 8),
    ("  ", " " * 8),
]
"""Units of indentation that are mistaken for one another, either way round."""


def indented(hunk: Hunk, standing: list[str]) -> tuple[set[tuple[str, ...]], bool]:
    """The added lines in each way that explains the lines `standing` in the file (blanks at their ends cut off), and
    whether one of these ways is another unit of indentation, which would hold for the whole patch."""
    old = [text.rstrip(BLANKS) for text in hunk.old]
    pairs = [(text, line) for text, line in zip(old, standing, strict=True) if text]
    found, units = set(), False
    lost_mark = hunk.marked and bool(pairs) and pairs[0][1] == " " + pairs[0][0]
    for way, unit in _ways(pairs, not lost_mark and (hunk.marked or _one_level(hunk))):
        added = [way(text) for text in hunk.added]
        if all(way(text) == line for text, line in pairs) and None not in added:
            found.add(tuple(text for text in added if text is not None))
            units |= unit
    if (stripped := _first_line(hunk, pairs)) is not None:
        found.add(stripped)
    nested = {added for added in found if _nests(added)} if len(found) > 1 else found
    return nested or found, units


def _one_level(hunk: Hunk) -> bool:
    """SEARCH and REPLACE show no sign of having lost different amounts: they begin and end with the same lines; or
    lines that stand once on each side stand equally deep; or, where there are none, the first lines do."""
    solid = [mark for mark, text in hunk.lines if text.strip(BLANKS)]
    if len(solid) > 2 and solid[0] == solid[-1] == " ":
        return True
    sides = [[text for text in side if text.strip(BLANKS)] for side in (hunk.old, hunk.new)]
    counts = [Counter(text.strip(BLANKS) for text in side) for side in sides]
    depths = [{text.strip(BLANKS): _depth(text) for text in side} for side in sides]
    shared = [text for text, count in counts[0].items() if count == counts[1][text] == 1]
    if shared:
        return all(depths[0][text] == depths[1][text] for text in shared)
    return len({_depth(side[0]) for side in sides if side}) < 2


def flattened(hunk: Hunk) -> bool:
    """A block whose REPLACE stands at the margin, and begins with the line that SEARCH has further in."""
    sides = [[text for text in side if text.strip(BLANKS)] for side in (hunk.old, hunk.new)]
    if hunk.marked or not all(sides):
        return False
    (old, new), same = [side[0] for side in sides], sides[0][0].strip(BLANKS) == sides[1][0].strip(BLANKS)
    return same and _depth(old) > 0 and _depth(new) < _depth(old) and min(map(_depth, sides[1])) == 0


def _depth(text: str) -> int:
    return len(text) - len(text.lstrip(BLANKS))


def _ways(pairs: list[tuple[str, str]], shifts: bool) -> Iterator[tuple[Way, bool]]:
    """Each way, and whether it is another unit."""
    if not pairs:
        return
    text, line = pairs[0]
    if not shifts:
        pass
    elif line.endswith(text):
        yield _shift_in(line[: len(line) - len(text)]), False
    elif text.endswith(line):
        yield _shift_out(text[: len(text) - len(line)]), False
    if any(text[0].isspace() for text, _ in pairs):
        for have, want in _UNITS:
            yield _convert(have, want), True
            yield _convert(want, have), True


def _shift_in(blanks: str) -> Way:
    return lambda text: blanks + text if text.strip() else text


def _shift_out(blanks: str) -> Way:
    return lambda text: text.removeprefix(blanks) if text.startswith(blanks) or not text.strip() else None


def _convert(have: str, want: str) -> Way:
    def way(text: str) -> str | None:
        depth = 0
        while text.startswith(have, depth):
            depth += len(have)
        blanks = text[depth : _depth(text)]
        if "\t" in blanks or (blanks and "\t" not in have + want):
            return text if not text.strip(BLANKS) else None
        return want * (depth // len(have)) + text[depth:]

    return way


def _first_line(hunk: Hunk, pairs: list[tuple[str, str]]) -> tuple[str, ...] | None:
    """SEARCH and REPLACE were each stripped as a whole: only their first lines lost their indentation."""
    if hunk.marked or not pairs or not hunk.lines[0][1].strip(BLANKS):
        return None
    mark, (text, line) = hunk.lines[0][0], pairs[0]
    if not line.endswith(text) or any(text != line for text, line in pairs[1:]):
        return None
    if mark == " ":
        return tuple(hunk.added)
    first = hunk.new[0] if mark == "-" and hunk.new and hunk.added else ""
    if first != first.strip(BLANKS) or not first or hunk.added[0] != first:
        return tuple(hunk.added) if mark == "-" and not hunk.new else None
    return (line[: len(line) - len(text)] + first, *hunk.added[1:])


def _nests(added: tuple[str, ...]) -> bool:
    """Whether the second line stands deeper than the first exactly where the first opens something."""
    lines = [text for text in added if text.strip(BLANKS)][:2]
    if len(lines) < 2:
        return True
    return (_depth(lines[1]) > _depth(lines[0])) == lines[0].rstrip(BLANKS).endswith((":", "(", "[", "{", ",", "\\"))
