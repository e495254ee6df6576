"""Where a hunk stands in a file: exactly, else through drift in whitespace, marks or indentation, never by guess.

A place is taken when it is the only one of its kind.  Among several, a stated line number decides only if it can be
believed: every hunk of the file that has one place of its own is as far from its number, or, where there is none,
the numbers of the old and the new file agree.  A heading after @@ decides if only one place stands under it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ideator_rl.patch_edit import Hunk, PatchError
from ideator_rl.patch_indent import BLANKS, indented

_DEFINES = re.compile(r"\s*(?:async\s+)?(?:def|class)\b|[A-Za-z_$]")

SHOWN = 8
"""Lines shown of a hunk, and of the file."""


@dataclass(frozen=True)
class Place:
    """The index of a hunk's first line, and its added lines as they must read there."""

    at: int
    added: tuple[str, ...]
    mended: bool = False
    """The indentation drifted."""


def places(lines: list[str], hunk: Hunk) -> list[Place]:
    """Every place of the strictest kind that has any.  A looser place at the very line that the hunk states speaks
    against a strict one elsewhere: then both are returned."""
    found: list[Place] = []
    for kind in (_exact, _trailing, _unmarked, _indented):
        fresh = list(kind(lines, hunk))
        if not found:
            found = fresh
        elif hunk.start is not None and all(place.at != hunk.start - 1 for place in found):
            found += [place for place in fresh if place.at == hunk.start - 1]
    if hunk.old_cut and len(found) > 1:
        found = [place for place in found if place.at + len(hunk.old) == len(lines)] or found
    return found


def _windows(keys: list[str], wanted: list[str]) -> Iterator[int]:
    at = -1
    while wanted:
        try:
            at = keys.index(wanted[0], at + 1)
        except ValueError:
            return
        if keys[at : at + len(wanted)] == wanted:
            yield at


def _bare(lines: list[str]) -> list[str]:
    return [line.rstrip(BLANKS) for line in lines]


def _exact(lines: list[str], hunk: Hunk) -> Iterator[Place]:
    return (Place(at, tuple(hunk.added)) for at in _windows(lines, hunk.old))


def _trailing(lines: list[str], hunk: Hunk) -> Iterator[Place]:
    """Blanks at line ends drifted, or line ends are of the other kind."""
    old = hunk.old
    for at in _windows(_bare(lines), _bare(old)):
        standing = lines[at : at + len(old)]
        pairs = [(text.rstrip("\r"), line.rstrip("\r")) for text, line in zip(old, standing, strict=True)]
        drifted = [(text, line) for text, line in pairs if text != line]
        padded = bool(drifted) and all(text.startswith(line) for text, line in drifted)
        added = [text.rstrip(BLANKS) for text in hunk.added] if padded else hunk.added
        yield Place(at, _ended(added, standing))


def _ended(added: list[str], standing: list[str]) -> tuple[str, ...]:
    """Added lines with the line ends of the lines they join, where these agree."""
    ends = {line.endswith("\r") for line in standing}
    if len(ends) != 1:
        return tuple(added)
    return tuple(text.removesuffix("\r") + ("\r" if True in ends else "") for text in added)


def _unmarked(lines: list[str], hunk: Hunk) -> Iterator[Place]:
    """Context lines that lost the space in front of them."""
    wanted = [
        {text.rstrip(BLANKS)} | ({f" {text}".rstrip(BLANKS)} if mark == " " else set())
        for mark, text in hunk.lines
        if mark != "+"
    ]
    keys = _bare(lines)
    for at in range(len(keys) - len(wanted) + 1 if hunk.marked and wanted else 0):
        if keys[at] in wanted[0] and all(keys[at + i] in texts for i, texts in enumerate(wanted)):
            yield Place(at, _ended(hunk.added, lines[at : at + len(wanted)]))


def _indented(lines: list[str], hunk: Hunk) -> Iterator[Place]:
    """The indentation drifted in one and the same way; a place comes twice where it may have in two."""
    old = hunk.old
    for at in _windows([line.strip(BLANKS) for line in lines], [text.strip(BLANKS) for text in old]):
        standing = lines[at : at + len(old)]
        for added in indented(hunk, _bare(standing)):
            yield Place(at, _ended(list(added), standing), mended=True)


def choose(path: str, lines: list[str], hunks: list[Hunk]) -> list[Place]:
    """One place for each hunk, all counted in the same lines.

    Raises:
        PatchError: for every hunk with no place, or with several and nothing to choose by.
    """
    found = [places(lines, hunk) for hunk in hunks]
    believed = _believed(hunks, found)
    chosen, faults = [], []
    for hunk, spots, trusted in zip(hunks, found, believed, strict=True):
        if len(spots) > 1 or (spots and not _telling(hunk)):
            stated = [spot for spot in spots if spot.at == trusted] or _headed(lines, hunk, spots)
            if len(stated) != 1:
                faults.append(_several(path, hunk, [spot.at for spot in spots]))
                continue
            spots = stated
        if spots:
            chosen.append(spots[0])
        else:
            faults.append(_nowhere(path, lines, hunk))
    if faults:
        more = f"\n… and {len(faults) - 4} more hunks" if len(faults) > 4 else ""
        raise PatchError("\n".join(faults[:4]) + more)
    return chosen


def _believed(hunks: list[Hunk], found: list[list[Place]]) -> list[int | None]:
    """For each hunk the index its stated number points to, or None where the number is not to be believed."""
    drifts = {
        spots[0].at - hunk.start
        for hunk, spots in zip(hunks, found, strict=True)
        if len(spots) == 1 and hunk.start is not None and _telling(hunk)
    }
    if len(drifts) > 1:
        return [None] * len(hunks)
    drift = drifts.copy().pop() if drifts else -1
    grown = 0
    trusted: list[int | None] = []
    for hunk in hunks:
        if hunk.start is None or hunk.new_start is None:
            trusted.append(None)
            continue
        new_start = hunk.new_start if hunk.new else hunk.new_start + 1
        agree = new_start - hunk.start == grown
        trusted.append(hunk.start + drift if drifts or agree else None)
        grown += len(hunk.new) - len(hunk.old)
    return trusted


def _telling(hunk: Hunk) -> bool:
    """A hunk that looks for nothing but blank lines says nothing about its place."""
    return any(text.strip() for text in hunk.old)


def _headed(lines: list[str], hunk: Hunk, spots: list[Place]) -> list[Place]:
    """The places that stand under the hunk's heading, read as git writes it: the closest definition above."""
    heading = hunk.heading.strip()
    if not heading or not _telling(hunk):
        return []

    def under(at: int, top: bool) -> bool:
        for line in reversed(lines[:at]):
            if _DEFINES.match(line) and (line[0].strip() or not top):
                return line.strip().startswith(heading)
        return False

    return [spot for spot in spots if under(spot.at, True) or under(spot.at, False)]


def _several(path: str, hunk: Hunk, spots: list[int]) -> str:
    """The hunk fits at more than one index of the file, or in more than one way at one."""
    at = sorted({spot + 1 for spot in spots})
    where = ", ".join(map(str, at[:SHOWN])) + (", …" if len(at) > SHOWN else "")
    if len(at) == 1 and len(spots) > 1:
        what = f"it would fit at line {where} if its indentation were mended, but that can be done in several ways"
    elif len(at) == 1:
        what = "it looks for nothing but blank lines, which say nothing about its place"
    else:
        what = f"what it looks for stands at {len(at)} places (lines {where}), and nothing tells which is meant"
    return (
        f"{path}, {hunk.label}: {what}. Looked for:\n{_shown(hunk.old)}\n"
        "Copy more of the lines around the change, exactly as they stand, until they stand there only once."
    )


def _nowhere(path: str, lines: list[str], hunk: Hunk) -> str:
    """The hunk fits nowhere."""
    if not hunk.old:
        return (
            f"{path}, {hunk.label}: it holds no line of the present file, which has {len(lines)} lines, so nothing "
            "says where its lines belong. Give at least one line that stands next to the change, unchanged."
        )
    near = _nearest(lines, hunk.old)
    what = f"The closest lines are:\n{near}" if near else f"No line there is like these; it has {len(lines)} lines."
    return f"{path}, {hunk.label}: these lines do not stand in the file:\n{_shown(hunk.old)}\n{what}"


def _shown(old: list[str]) -> str:
    more = f"\n    … and {len(old) - SHOWN} more" if len(old) > SHOWN else ""
    return "\n".join(f"    | {text[:160]}" for text in old[:SHOWN]) + more


def _nearest(lines: list[str], old: list[str]) -> str:
    """The run of lines that shares most with `old`, else single lines that share words; with their numbers."""
    where: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        if line.strip():
            where.setdefault(line.strip(), []).append(index)
    votes: Counter[int] = Counter()
    for offset, text in enumerate(old[:200]):
        votes.update(max(0, index - offset) for index in where.get(text.strip(), [])[:50])
    if votes:
        start = votes.most_common(1)[0][0]
        best = list(range(start, min(len(lines), start + min(SHOWN, len(old) + 2))))
    else:
        wanted = _words(max(old, key=len))
        shared = Counter({i: len(wanted & _words(line)) for i, line in enumerate(lines)})
        best = sorted(i for i, count in shared.most_common(3) if count)
    return "\n".join(f"    {i + 1:>5}| {lines[i][:160]}" for i in best)


def _words(line: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in line).split())
