"""A file's hunks as they can be found in it: as they stand, without copied line numbers, or in parts around what they
leave out; and what their added lines may not hold.

A hunk is read in another way only if it fits nowhere as it stands, and then exactly or but for blanks at line ends.
"""

from __future__ import annotations

from bisect import bisect_left

from ideator_rl.patch.edit import Hunk, PatchError
from ideator_rl.patch.elision import depths, is_mark, parts, stray_mark
from ideator_rl.patch.find import Lines, Place, choose, places, stated_places
from ideator_rl.patch.indent import flattened
from ideator_rl.patch.numbers import stray_number, unnumbered

MAX_PARTS = 50
"""Parts of one hunk, around what it leaves out."""


def located(file: Lines, hunks: list[Hunk]) -> list[tuple[Hunk, Place]]:
    """Each hunk with its place; one that leaves lines out comes as several.

    Raises:
        PatchError: as `find.choose`; or a hunk adds lines that say "as before" or carry line numbers.
    """
    if all(hunk.counted for hunk in hunks) and (spots := stated_places(file, hunks)):
        return list(zip(hunks, spots, strict=True))
    settled = [part for hunk in hunks for part in _settled(file, hunk)]
    placed = list(zip(settled, choose(file, settled), strict=True))
    for hunk, place in placed:
        _check_added(file, hunk, place)
    return placed


def fits(file: Lines, hunk: Hunk) -> bool:
    """Whether a hunk that says something about its place has one in the file, read in any way."""
    if not any(text.strip() for text in hunk.old):
        return False
    try:
        return all(places(file, part) for part in _settled(file, hunk))
    except PatchError:
        return False


def _check_added(file: Lines, hunk: Hunk, place: Place) -> None:
    path = file.path
    if mark := stray_mark(hunk, file.core):
        raise PatchError(
            f"{path}, {hunk.label}: it adds {mark[:120]!r}, which would replace code by a remark; write the lines that "
            "should stand there, or put the same mark on both sides"
        )
    if flattened(hunk):
        raise PatchError(
            f"{path}, {hunk.label}: REPLACE begins with the same line as SEARCH, but at the margin; if its indentation "
            "got lost, write it, else write a unified diff"
        )
    tab = next((text for text in place.added if _led_by_tab(text)), None)
    if tab and any(line.startswith("  ") for line in file.lines) and not any(map(_led_by_tab, file.lines)):
        raise PatchError(f"{path}, {hunk.label}: it adds {tab[:80]!r} to a file indented by spaces; write spaces")
    if number := stray_number(hunk, place.at):
        raise PatchError(
            f"{path}, {hunk.label}: the added line {number.strip()[:120]!r} begins with a line number; write lines "
            "without their numbers"
        )


def _led_by_tab(text: str) -> bool:
    return text.startswith("\t") and bool(text.strip())


def _settled(file: Lines, hunk: Hunk) -> list[Hunk]:
    if places(file, hunk):
        return [hunk]
    readings = list(unnumbered(hunk))
    for reading in readings:
        spots = [place for place in places(file, reading) if not place.mended]
        at_number = [place for place in spots if place.at + 1 == reading.start and file.numbered]
        if spots:
            file.found[reading] = at_number or spots
            return [reading]
    splits = [split for reading in [*readings, hunk] if (split := _split(file, reading))]
    return next((split for split in splits if all(file.found[part] for part in split)), [*splits, [hunk]][0])


def _split(file: Lines, hunk: Hunk) -> list[Hunk]:
    """The hunk's parts around what it leaves out, each with the places that it may have in their order."""
    found = parts(hunk, set(file.core)) if any(map(is_mark, hunk.old)) else None
    if not found:
        return []
    if len(found) > MAX_PARTS:
        raise PatchError(f"{file.path}, {hunk.label}: it leaves lines out {len(found) - 1} times; write shorter hunks")
    if lost := next((part for part in found if not part.old), None):
        raise PatchError(
            f"{file.path}, {lost.label}: it adds lines next to what is left out, and nothing says where; copy a line "
            "that stands next to them"
        )
    spots = [[place for place in places(file, part) if not place.mended] for part in found]
    _in_order(file, found, spots, depths(hunk))
    changed = [(part, options) for part, options in zip(found, spots, strict=True) if part.old != part.new]
    for part, options in changed:
        file.found[part] = options
    return [part for part, _ in changed]


def _in_order(file: Lines, found: list[Hunk], spots: list[list[Place]], depth: int) -> None:
    """Cut each part's places down to those that come after one of the part above and before one of the part below,
    with nothing left out in between that is shallower than the marks."""
    shallow = [i for i, line in enumerate(file.lines) if line.strip() and len(line) - len(line.lstrip()) < depth]

    def follows(one: Hunk, first: Place, second: Place) -> bool:
        end = first.at + len(one.old)
        return end <= second.at and bisect_left(shallow, end) == bisect_left(shallow, second.at)

    pairs = [*range(1, len(found))]
    for low in pairs:
        spots[low] = [p for p in spots[low] if any(follows(found[low - 1], q, p) for q in spots[low - 1])]
    for high in reversed(pairs):
        spots[high - 1] = [p for p in spots[high - 1] if any(follows(found[high - 1], p, q) for q in spots[high])]
