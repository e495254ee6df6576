"""Drift in indentation: every way in which a hunk's lines may have lost or gained theirs, and nothing in between.

A way counts only if it explains each line looked for.  Where two ways do and would write different lines, both are
given, and the caller refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ideator_rl.patch_edit import Hunk

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


def indented(hunk: Hunk, standing: list[str]) -> set[tuple[str, ...]]:
    """The added lines in each way that explains the lines `standing` in the file (blanks at their ends cut off)."""
    old = [text.rstrip(BLANKS) for text in hunk.old]
    pairs = [(text, line) for text, line in zip(old, standing, strict=True) if text]
    found = set()
    for way in _ways(pairs):
        added = [way(text) for text in hunk.added]
        if all(way(text) == line for text, line in pairs) and None not in added:
            found.add(tuple(text for text in added if text is not None))
    if (stripped := _first_line(hunk, pairs)) is not None:
        found.add(stripped)
    return {added for added in found if _nests(added)} or found if len(found) > 1 else found


def _ways(pairs: list[tuple[str, str]]) -> Iterator[Way]:
    if not pairs:
        return
    text, line = pairs[0]
    if line.endswith(text):
        yield _shift_in(line[: len(line) - len(text)])
    elif text.endswith(line):
        yield _shift_out(text[: len(text) - len(line)])
    if any(text[0].isspace() for text, _ in pairs):
        for have, want in _UNITS:
            yield _convert(have, want)
            yield _convert(want, have)


def _shift_in(blanks: str) -> Way:
    return lambda text: blanks + text if text.strip() else text


def _shift_out(blanks: str) -> Way:
    return lambda text: text.removeprefix(blanks) if text.startswith(blanks) or not text.strip() else None


def _convert(have: str, want: str) -> Way:
    def way(text: str) -> str | None:
        body = text.lstrip()
        blanks = text[: len(text) - len(body)]
        count = len(blanks) // len(have)
        return text if not body else want * count + body if blanks == have * count else None

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
    depths = [len(text) - len(text.lstrip()) for text in lines]
    return (depths[1] > depths[0]) == lines[0].rstrip(BLANKS).endswith((":", "(", "[", "{", ",", "\\"))
