"""Line numbers that a model copied out of its prompt: `12 | code`, `  12: code`, `12→code`, `12<tab>code`.

Numbers are removed only if each line to look for has one, they count up by one, and the file holds the lines without
numbers but not those with them.  An added line may have a number too, if it is written in the same way and they count
up.  An added line that could be meant either way is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ideator_rl.patch.edit import Hunk, align

_NUMBERED = re.compile(r"\s*(\d{1,7})( ?[|:→]|\t)(.*)", re.S)

Entries = list[tuple[int, str] | None]
"""For each line its number and the text after the separator; None for a line without a number."""


def without_numbers(hunk: Hunk) -> Iterator[Hunk]:
    """The hunk without its line numbers, in each way to read them; no item if it certainly has none."""
    separator = _separator(hunk.old)
    old = _consecutive(hunk.old, separator) if separator else None
    new = _new_entries(hunk, separator, old) if separator and old else None
    if old is None or new is None:
        return
    start = next(entry[0] for entry in old if entry)
    # A space after the separator belongs to it or to the code: both are readings.
    for gap in ("", " "):
        old_texts, new_texts = _texts(hunk.old, old, gap), _texts(hunk.new, new, gap)
        if old_texts is not None and new_texts is not None:
            yield replace(hunk, lines=align(old_texts, new_texts), start=start, new_start=None)


def _new_entries(hunk: Hunk, separator: str, old: Entries) -> Entries | None:
    """The entries of the new lines; None if an added line may have a number in another style or out of order."""
    numbers = [entry[0] for entry in old if entry]
    old_styles = {style for text in hunk.old if text.strip() for style in _styles(text)}
    old_lines, last_number = set(hunk.old), numbers[0] - 1
    entries: Entries = []
    for text in hunk.new:
        entry = _entry(text, separator) if text.strip() else None
        if entry and text not in old_lines:
            in_order = last_number < entry[0] <= numbers[-1] + len(hunk.new)
            if not (in_order and old_styles & _styles(text)):
                return None
            last_number = entry[0]
        entries.append(entry)
    return entries


def _styles(text: str) -> set[tuple[str, int]]:
    """How a number is aligned: by the blanks before it, and by the column where it ends."""
    bare = text.lstrip()
    blanks = len(text) - len(bare)
    return {("blanks", blanks), ("end", blanks + len(bare) - len(bare.lstrip("0123456789")))}


def stray_number(hunk: Hunk, at: int) -> str | None:
    """An added line with a line number, in a hunk whose lines to look for, placed at index `at`, have none."""
    added = [text for text in hunk.added if text.strip()]
    separator = _separator(added)
    if separator is None or separator == _separator(hunk.old):
        return None
    if (entries := _consecutive(added, separator)) is None:
        return None
    # `3: value` alone may be code, such as an entry of a dict, unless the 3 is the number of the line it becomes.
    new_line_numbers = range(at + 1, at + len(hunk.new) + 1)
    numbers = [entry[0] for entry in entries if entry]
    return added[0] if len(numbers) > 1 or separator != ":" or numbers[0] in new_line_numbers else None


def file_without_numbers(lines: list[str]) -> list[str] | None:
    """A whole file without the line numbers 1, 2, 3 … at each line; None if not every line has its number."""
    separator = _separator(lines)
    entries = _consecutive(lines, separator) if separator and len(lines) > 1 else None
    if not entries or not entries[0] or entries[0][0] != 1:
        return None
    return _texts(lines, entries, " ") or _texts(lines, entries, "")


def _separator(lines: list[str]) -> str | None:
    """The characters between number and text in the first line that is not blank."""
    numbered = next((_NUMBERED.match(text) for text in lines if text.strip()), None)
    return numbered[2] if numbered else None


def _entry(text: str, separator: str) -> tuple[int, str] | None:
    # An empty line's entry may have lost its separator with the blanks at its end.
    numbered = _NUMBERED.match(text) or _NUMBERED.match(text.rstrip() + separator)
    return (int(numbered[1]), numbered[3]) if numbered and numbered[2] == separator else None


def _consecutive(lines: list[str], separator: str) -> Entries | None:
    """Each line's entry, if every line that is not blank has a number and these count up by one a line."""
    entries: Entries = []
    start: int | None = None
    for index, text in enumerate(lines):
        entry = _entry(text, separator) if text.strip() else None
        if entry is None and text.strip():
            return None
        if entry is not None:
            start = entry[0] - index if start is None else start
            if entry[0] != start + index:
                return None
        entries.append(entry)
    return entries


def _texts(lines: list[str], entries: Entries, gap: str) -> list[str] | None:
    """The texts after the numbers and `gap`; None if a text does not begin with it."""
    texts: list[str] = []
    for text, entry in zip(lines, entries, strict=True):
        bare = entry[1] if entry else text
        if entry and bare.strip() and not bare.startswith(gap):
            return None
        texts.append(bare.removeprefix(gap) if entry else bare)
    return texts
