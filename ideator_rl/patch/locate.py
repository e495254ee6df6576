"""Places a file's hunks: as they are, without copied line numbers, or in pieces around the lines that they leave out.

A hunk is read in another way only if it fits nowhere as it is, and then only exactly or but for blanks at line ends.
Also checks what the added lines may not contain: marks for left-out lines, line numbers, lost indentation.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import replace

from ideator_rl.patch.edit import Hunk, PatchError
from ideator_rl.patch.elision import is_mark, least_mark_indent, pieces_between_marks, stray_mark
from ideator_rl.patch.find import (
    FileLines,
    Position,
    choose_positions,
    find_positions,
    stated_positions,
    with_line_ends,
)
from ideator_rl.patch.indent import is_flattened
from ideator_rl.patch.line_numbers import stray_number, without_numbers
from ideator_rl.patch.spelling import respelled

_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#39;": "'", "&#x27;": "'", "&apos;": "'"}
_ENTITY = re.compile("|".join(_ENTITIES))
TOKENS_A_LINE = 20
"""Work of comparing a line by its tokens, in lines compared."""
MAX_PIECES = 50
"""Pieces of one hunk around the lines that it leaves out."""


def locate_hunks(file: FileLines, hunks: list[Hunk]) -> list[tuple[Hunk, Position]]:
    """Each hunk with its position; a hunk that leaves lines out becomes several.

    Raises:
        PatchError: as `find.choose_positions`; or the added lines cannot be meant as they are.
    """
    if all(hunk.counts_match for hunk in hunks) and (positions := stated_positions(file, hunks)):
        return list(zip(hunks, positions, strict=True))
    readings = [piece for hunk in hunks for piece in _reading(file, hunk)]
    placed = list(zip(readings, choose_positions(file, readings), strict=True))
    for hunk, position in placed:
        _check_added(file, hunk, position)
    return placed


def fits(file: FileLines, hunk: Hunk) -> bool:
    """Whether a hunk that looks for more than blank lines has a position in the file, in any reading."""
    if not any(text.strip() for text in hunk.old):
        return False
    try:
        return all(find_positions(file, piece) for piece in _reading(file, hunk, respell=False))
    except PatchError:
        return False


def _check_added(file: FileLines, hunk: Hunk, position: Position) -> None:
    path = file.path
    if mark := stray_mark(hunk, file.stripped):
        raise PatchError(
            f"{path}, {hunk.label}: it adds {mark[:120]!r}, which would replace code by a remark; write the lines that "
            "it means, or put the same mark on both sides"
        )
    if is_flattened(hunk):
        raise PatchError(
            f"{path}, {hunk.label}: REPLACE begins with the same line as SEARCH, but at the margin; if its indentation "
            "got lost, write it, else write a unified diff"
        )
    tabbed = next((text for text in position.added if _is_tab_indented(text)), None)
    # Lines are compared only if needed: this runs once for each hunk.
    if tabbed and any(line.startswith("  ") for line in file.lines) and not any(map(_is_tab_indented, file.lines)):
        raise PatchError(f"{path}, {hunk.label}: it adds {tabbed[:80]!r} to a file indented by spaces; write spaces")
    if number := stray_number(hunk, position.at):
        raise PatchError(
            f"{path}, {hunk.label}: the added line {number.strip()[:120]!r} begins with a line number; write lines "
            "without their numbers"
        )


def _is_tab_indented(text: str) -> bool:
    return text.startswith("\t") and bool(text.strip())


def _reading(file: FileLines, hunk: Hunk, respell: bool = True) -> list[Hunk]:
    """The hunk in the first reading that has positions: as it is, without line numbers, split at its marks, without
    HTML entities; or, unless `respell` is false, as the file spells the same code."""
    if find_positions(file, hunk):
        return [hunk]
    unnumbered = list(without_numbers(hunk))
    for reading in unnumbered:
        positions = [position for position in find_positions(file, reading) if not position.reindented]
        # The numbers taken off state the position, as long as earlier blocks have not moved the lines.
        at_number = [position for position in positions if position.at + 1 == reading.start and file.numbered]
        if positions:
            file.positions[reading] = at_number or positions
            return [reading]
    splits = [split for reading in [*unnumbered, hunk] if (split := _split_at_marks(file, reading))]
    fitting = [split for split in splits if all(file.positions[piece] for piece in split)]
    if fitting:
        return fitting[0]
    for reading in _unescaped(hunk):
        if any(not position.reindented for position in find_positions(file, reading)):
            return [reading]
    if respell and not splits and (written := _respelled_once(file, hunk)):
        return [written]
    # If no reading fits, the first one explains best why.
    return [*splits, [hunk]][0]


def _unescaped(hunk: Hunk) -> list[Hunk]:
    """The hunk without HTML entities, if its lines to look for have any."""
    if not any(_ENTITY.search(text) for text in hunk.old):
        return []
    return [replace(hunk, lines=tuple((mark, _without_entities(text)) for mark, text in hunk.lines), unescaped=True)]


def has_entity(hunk: Hunk) -> bool:
    """Whether the added lines hold an HTML entity."""
    return any(_ENTITY.search(text) for text in hunk.added)


def _without_entities(text: str) -> str:
    return _ENTITY.sub(lambda entity: _ENTITIES[entity[0]], text)


def _respelled_once(file: FileLines, hunk: Hunk) -> Hunk | None:
    """The hunk in the file's spelling, if exactly one place holds its code."""
    for reading in [hunk, *_unescaped(hunk)]:
        file.count_search(reading, times=TOKENS_A_LINE)
        places = respelled(file.path, file.lines, file.tokens, reading)
        if len(places) != 1:
            continue
        written, at = places[0].hunk, places[0].at
        # The lines that the header states and the hunk lacks are those of the file between the others, or cut off.
        if hunk.old_count is not None and hunk.old_count > len(hunk.old) and hunk.old_count not in places[0].counts:
            return None
        ended = with_line_ends(written.added, file.lines[at : at + len(written.old)])
        file.positions[written] = [Position(at, ended)]
        return written
    return None


def respelled_places(file: FileLines, hunk: Hunk) -> int:
    """The places in a file that hold the code of a hunk, however it is spelled."""
    return max(len(respelled(file.path, file.lines, file.tokens, reading)) for reading in [hunk, *_unescaped(hunk)])


def _split_at_marks(file: FileLines, hunk: Hunk) -> list[Hunk]:
    """The changed pieces between the hunk's marks, each with the positions that it may have in their order.

    Empty if the hunk has no marks.
    """
    pieces = pieces_between_marks(hunk, set(file.stripped)) if any(map(is_mark, hunk.old)) else None
    if not pieces:
        return []
    if len(pieces) > MAX_PIECES:
        raise PatchError(f"{file.path}, {hunk.label}: it leaves lines out {len(pieces) - 1} times; write shorter hunks")
    if unplaced := next((piece for piece in pieces if not piece.old), None):
        raise PatchError(
            f"{file.path}, {unplaced.label}: it adds lines next to what is left out, at an unknown position; copy a "
            "line that is next to them"
        )
    candidates = [[position for position in find_positions(file, piece) if not position.reindented] for piece in pieces]
    _keep_ordered(file, pieces, candidates, least_mark_indent(hunk))
    changed = [
        (piece, positions) for piece, positions in zip(pieces, candidates, strict=True) if piece.old != piece.new
    ]
    for piece, positions in changed:
        file.positions[piece] = positions
    return [piece for piece, _ in changed]


def _keep_ordered(file: FileLines, pieces: list[Hunk], candidates: list[list[Position]], mark_indent: int) -> None:
    """Remove each position that is not after a position of the piece above and before one of the piece below.

    Nothing left out in between may be less indented than the marks.
    """
    shallow = [i for i, line in enumerate(file.lines) if line.strip() and len(line) - len(line.lstrip()) < mark_indent]

    def follows(piece: Hunk, first: Position, second: Position) -> bool:
        end = first.at + len(piece.old)
        return end <= second.at and bisect_left(shallow, end) == bisect_left(shallow, second.at)

    # Downwards, then upwards: after both passes every position left belongs to a complete order.
    for i in range(1, len(pieces)):
        above = candidates[i - 1]
        candidates[i] = [
            position for position in candidates[i] if any(follows(pieces[i - 1], p, position) for p in above)
        ]
    for i in reversed(range(1, len(pieces))):
        below = candidates[i]
        candidates[i - 1] = [
            position for position in candidates[i - 1] if any(follows(pieces[i - 1], position, p) for p in below)
        ]
