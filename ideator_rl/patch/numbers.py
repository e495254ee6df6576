"""Line numbers that a model copied out of its prompt: `12 | code`, `  12: code`, `12→code`, `12<tab>code`.

Numbers are taken off only where each line looked for carries one, counting up by one, and the lines without them
stand in the file while those with them do not.  An added line may carry one too, if it is written the same way and
they count up; one that could be either is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ideator_rl.patch.edit import Hunk, align

_NUMBERED = re.compile(r"\s*(\d{1,7})( ?[|:→]|\t)(.*)", re.S)

Side = list[tuple[int, str] | None]
"""For each line its number and the text behind it; None for a line without one."""


def unnumbered(hunk: Hunk) -> Iterator[Hunk]:
    """The hunk without its line numbers, in each way to read them; nothing if it carries none for certain."""
    form = _form(hunk.old)
    old = _consecutive(hunk.old, form) if form else None
    new = _new_side(hunk, form, old) if form and old else None
    if old is None or new is None:
        return
    first = next(entry[0] for entry in old if entry)
    for gap in ("", " "):
        sides = _texts(hunk.old, old, gap), _texts(hunk.new, new, gap)
        if None not in sides:
            yield replace(hunk, lines=align(*sides), start=first, new_start=None)  # type: ignore[arg-type]


def _new_side(hunk: Hunk, form: str, old: Side) -> Side | None:
    """The entries of the new lines; None where one may be numbered, but not like the others or not in order."""
    numbers = [entry[0] for entry in old if entry]
    styles = {style for text in hunk.old if text.strip() for style in _styles(text)}
    known, last = set(hunk.old), numbers[0] - 1
    entries: Side = []
    for text in hunk.new:
        entry = _number(text, form) if text.strip() else None
        if entry and text not in known:
            if not (last < entry[0] <= numbers[-1] + len(hunk.new) and styles & _styles(text)):
                return None
            last = entry[0]
        entries.append(entry)
    return entries


def _styles(text: str) -> set[tuple[str, int]]:
    """How a number is set: so many blanks before it, or aligned to end there."""
    bare = text.lstrip()
    blanks = len(text) - len(bare)
    return {("blanks", blanks), ("end", blanks + len(bare) - len(bare.lstrip("0123456789")))}


def stray_number(hunk: Hunk, at: int) -> str | None:
    """An added line that carries a line number while the lines looked for, found at index `at`, carry none."""
    added = [text for text in hunk.added if text.strip()]
    form = _form(added)
    if form is None or form == _form(hunk.old) or (entries := _consecutive(added, form)) is None:
        return None
    landing = range(at + 1, at + len(hunk.new) + 1)
    numbers = [entry[0] for entry in entries if entry]
    return added[0] if len(numbers) > 1 or form != ":" or numbers[0] in landing else None


def unnumbered_file(lines: list[str]) -> list[str] | None:
    """A whole file without the line numbers 1, 2, 3 … that all its lines carry; None if they do not."""
    form = _form(lines)
    entries = _consecutive(lines, form) if form and len(lines) > 1 else None
    if not entries or not entries[0] or entries[0][0] != 1:
        return None
    return _texts(lines, entries, " ") or _texts(lines, entries, "")


def _form(lines: list[str]) -> str | None:
    """What stands between number and text in the first line that is not blank."""
    found = next((_NUMBERED.match(text) for text in lines if text.strip()), None)
    return found[2] if found else None


def _number(text: str, form: str) -> tuple[int, str] | None:
    found = _NUMBERED.match(text) or _NUMBERED.match(text.rstrip() + form)
    return (int(found[1]), found[3]) if found and found[2] == form else None


def _consecutive(lines: list[str], form: str) -> Side | None:
    """Each line's entry, where every line that is not blank carries a number and these count up by one a line."""
    entries: Side = []
    start: int | None = None
    for index, text in enumerate(lines):
        entry = _number(text, form) if text.strip() else None
        if entry is None and text.strip():
            return None
        if entry is not None:
            start = entry[0] - index if start is None else start
            if entry[0] != start + index:
                return None
        entries.append(entry)
    return entries


def _texts(lines: list[str], entries: Side, gap: str) -> list[str] | None:
    """The texts behind the numbers and `gap`; None where a text does not begin with it."""
    texts: list[str] = []
    for text, entry in zip(lines, entries, strict=True):
        bare = entry[1] if entry else text
        if entry and bare.strip() and not bare.startswith(gap):
            return None
        texts.append(bare.removeprefix(gap) if entry else bare)
    return texts
