"""Where a hunk stands in a file: exactly, else through drift in whitespace, marks or indentation, never by guess.

A place is taken when it is the only one of its kind.  Among several, a stated line number decides only if it can be
believed: every hunk of the file that has one place of its own is as far from its number, or, where there is none,
the numbers of the old and the new file agree.  A heading after @@ decides if only one place stands under it.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from ideator_rl.patch.edit import Hunk, PatchError
from ideator_rl.patch.indent import BLANKS, indented

_DEFINES = re.compile(r"\s*(?:async\s+)?(?:def|class)\b|[A-Za-z_$]")

MAX_PLACES = 200
"""Places looked at for one hunk; more are as bad as so many."""
MAX_WORK = 5_000_000
"""Lines compared for one file: seconds, whatever a patch was made to look like."""
SHOWN = 8
"""Lines shown of a hunk, and of the file."""


@dataclass(frozen=True)
class Place:
    """The index of a hunk's first line, and its added lines as they must read there."""

    at: int
    added: tuple[str, ...]
    mended: bool = False
    """The indentation drifted."""
    units: bool = False
    """Perhaps because the patch is written in other units of indentation."""


class Lines:
    """A file's lines, and what they look like without blanks at their ends, worked out once.

    `numbered`: they are those of the codebase, so that line numbers tell something.
    """

    def __init__(self, path: str, lines: list[str], numbered: bool = True) -> None:
        self.path = path
        self.lines = lines
        self.numbered = numbered
        self.work = 0
        self.found: dict[Hunk, list[Place]] = {}

    @cached_property
    def bare(self) -> list[str]:
        return _bare(self.lines)

    @cached_property
    def core(self) -> list[str]:
        return [line.strip(BLANKS) for line in self.lines]

    def search(self, hunk: Hunk) -> None:
        """Account for a search.

        Raises:
            PatchError: placing the hunks would take minutes.
        """
        self.work += int(len(self.lines) * (1 + len(hunk.old) / 20))
        if self.work > MAX_WORK:
            raise PatchError(
                f"{self.path}: too many or too long hunks to look for in {len(self.lines)} lines; "
                "state exact line numbers, or write fewer and shorter hunks"
            )


def places(file: Lines, hunk: Hunk) -> list[Place]:
    """Every place of the strictest kind that has any.  A looser place at the very line that the hunk states speaks
    against a strict one elsewhere: then both are returned."""
    if hunk not in file.found:
        file.found[hunk] = _places(file, hunk)
    return file.found[hunk]


def _places(file: Lines, hunk: Hunk) -> list[Place]:
    file.search(hunk)
    stated = None if hunk.start is None else hunk.start - 1
    found: list[Place] = []
    for kind in (_exact, _trailing, _unmarked, _indented):
        if not found:
            found = list(islice(kind(file, hunk, None), MAX_PLACES))
            if len(found) == MAX_PLACES and stated is not None:
                found += kind(file, hunk, stated)
        elif stated is not None and all(place.at != stated for place in found):
            found += kind(file, hunk, stated)
    if (hunk.old_cut or hunk.at_end) and len(found) > 1:
        found = [place for place in found if place.at + len(hunk.old) == len(file.lines)] or found
    return list(dict.fromkeys(found))


def stated_places(file: Lines, hunks: list[Hunk]) -> list[Place] | None:
    """The places that the hunks state, where all stand there exactly and their numbers agree."""
    spots: list[Place] = []
    for hunk, at in zip(hunks, _agreed(hunks), strict=True):
        if at is None or not hunk.old or file.lines[at : at + len(hunk.old)] != hunk.old:
            return None
        spots.append(Place(at, tuple(hunk.added)))
    return spots


def _windows(keys: list[str], wanted: list[str], only: int | None) -> Iterator[int]:
    """The indices at which `wanted` stands; `only` this one, if given."""
    at = -1 if only is None else max(-1, only - 1)
    while wanted:
        try:
            at = keys.index(wanted[0], at + 1)
        except ValueError:
            return
        if only is not None and at != only:
            return
        if keys[at : at + len(wanted)] == wanted:
            yield at


def _bare(lines: list[str]) -> list[str]:
    return [line.rstrip(BLANKS) for line in lines]


def _exact(file: Lines, hunk: Hunk, only: int | None) -> Iterator[Place]:
    return (Place(at, tuple(hunk.added)) for at in _windows(file.lines, hunk.old, only))


def _trailing(file: Lines, hunk: Hunk, only: int | None) -> Iterator[Place]:
    """Blanks at line ends drifted, or line ends are of the other kind."""
    old = hunk.old
    for at in _windows(file.bare, _bare(old), only):
        standing = file.lines[at : at + len(old)]
        pairs = [(text.rstrip("\r"), line.rstrip("\r")) for text, line in zip(old, standing, strict=True)]
        drifted = [(text, line) for text, line in pairs if text != line]
        padded = bool(drifted) and all(text.startswith(line) for text, line in drifted)
        added = [text.rstrip(BLANKS) for text in hunk.added] if padded else hunk.added
        if not hunk.marked and drifted:
            added = _kept(hunk, added, standing)
        yield Place(at, _ended(added, standing))


def _kept(hunk: Hunk, added: list[str], standing: list[str]) -> list[str]:
    """A block's added lines, those that stand in SEARCH but for blanks at their ends as they stand in the file."""
    fresh = iter(added)
    new = [text if mark == " " else next(fresh) for mark, text in hunk.lines if mark != "-"]
    plus = [mark == "+" for mark, _ in hunk.lines if mark != "-"]
    matcher = difflib.SequenceMatcher(None, _bare(standing), _bare(new), autojunk=False)
    for match in matcher.get_matching_blocks():
        new[match.b : match.b + match.size] = standing[match.a : match.a + match.size]
    return [text for text, own in zip(new, plus, strict=True) if own]


def _ended(added: list[str], standing: list[str]) -> tuple[str, ...]:
    """Added lines with the line ends of the lines they join, where these agree."""
    ends = {line.endswith("\r") for line in standing}
    if len(ends) != 1:
        return tuple(added)
    return tuple(text.removesuffix("\r") + ("\r" if True in ends else "") for text in added)


def _unmarked(file: Lines, hunk: Hunk, only: int | None) -> Iterator[Place]:
    """Context lines that lost the space in front of them."""
    wanted = [
        {text.rstrip(BLANKS)} | ({f" {text}".rstrip(BLANKS)} if mark == " " else set())
        for mark, text in hunk.lines
        if mark != "+"
    ]
    keys = file.bare
    starts = range(len(keys) - len(wanted) + 1 if hunk.marked and wanted else 0)
    for at in starts if only is None else (i for i in (only,) if i in starts):
        if keys[at] in wanted[0] and all(keys[at + i] in texts for i, texts in enumerate(wanted)):
            yield Place(at, _ended(hunk.added, file.lines[at : at + len(wanted)]))


def _indented(file: Lines, hunk: Hunk, only: int | None) -> Iterator[Place]:
    """The indentation drifted in one and the same way; a place comes twice where it may have in two."""
    old = hunk.old
    for at in _windows(file.core, [text.strip(BLANKS) for text in old], only):
        found, units = indented(hunk, file.bare[at : at + len(old)])
        for added in sorted(found):
            yield Place(at, _ended(list(added), file.lines[at : at + len(old)]), mended=True, units=units)


def choose(file: Lines, hunks: list[Hunk]) -> list[Place]:
    """One place for each hunk, all counted in the same lines.

    Raises:
        PatchError: for every hunk with no place, or with several and nothing to choose by.
    """
    if exact := stated_places(file, hunks):
        return exact
    found = [places(file, hunk) for hunk in hunks]
    chosen: list[Place] = []
    faults: list[tuple[Hunk, list[Place]]] = []
    for hunk, spots, trusted in zip(hunks, found, _believed(hunks, found), strict=True):
        if len(spots) > 1 or (spots and not _telling(hunk)):
            stated = [spot for spot in spots if spot.at == trusted] or _headed(file.lines, hunk, spots)
            chosen += stated if len(stated) == 1 else []
            faults += [(hunk, spots)] if len(stated) != 1 else []
        elif spots:
            chosen += spots
        else:
            faults.append((hunk, []))
    if faults:
        said = [_several(file.path, *fault) if fault[1] else _nowhere(file, fault[0]) for fault in faults[:4]]
        raise PatchError("\n".join(said) + (f"\n… and {len(faults) - 4} more hunks" if len(faults) > 4 else ""))
    return chosen


def _believed(hunks: list[Hunk], found: list[list[Place]]) -> list[int | None]:
    """For each hunk the index its stated number points to, or None where the number is not to be believed."""
    drifts = {
        spots[0].at - hunk.start
        for hunk, spots in zip(hunks, found, strict=True)
        if len(spots) == 1 and hunk.start is not None and _telling(hunk)
    }
    if not drifts:
        return _agreed(hunks)
    if len(drifts) > 1:
        return [None] * len(hunks)
    drift = drifts.pop()
    return [None if hunk.start is None else hunk.start + drift for hunk in hunks]


def _agreed(hunks: list[Hunk]) -> list[int | None]:
    """The stated index of each hunk whose number in the new file is what the hunks before it make of it."""
    grown = 0
    agreed: list[int | None] = []
    for hunk in hunks:
        at = None
        if hunk.start and hunk.new_start is not None:
            new_start = hunk.new_start if hunk.new else hunk.new_start + 1
            at = hunk.start - 1 if new_start - hunk.start == grown else None
        agreed.append(at)
        grown += len(hunk.new) - len(hunk.old)
    return agreed


def _telling(hunk: Hunk) -> bool:
    """A hunk that looks for nothing but blank lines says nothing about its place."""
    return any(text.strip() for text in hunk.old)


def _headed(lines: list[str], hunk: Hunk, spots: list[Place]) -> list[Place]:
    """The places that stand under the hunk's heading, read as git writes it: the closest definition above."""
    heading = hunk.heading.strip()
    if not heading or not _telling(hunk) or len(spots) > SHOWN:
        return []

    def under(at: int, top: bool) -> bool:
        for line in reversed(lines[:at]):
            if _DEFINES.match(line) and (line[0].strip() or not top):
                return line.strip().startswith(heading)
        return False

    return [spot for spot in spots if under(spot.at, True) or under(spot.at, False)]


def _several(path: str, hunk: Hunk, spots: list[Place]) -> str:
    """The hunk fits at more than one index of the file, or in more than one way at one."""
    at = sorted({spot.at + 1 for spot in spots})
    where = ", ".join(map(str, at[:SHOWN])) + (", …" if len(at) > SHOWN else "")
    if len(at) == 1 and len(spots) > 1:
        what = f"it would fit at line {where} if its indentation were mended, but that can be done in several ways"
    elif len(at) == 1:
        what = "it looks for nothing but blank lines, which say nothing about its place"
    else:
        what = f"what it looks for stands at {len(at)} places (lines {where}), and nothing tells which is meant"
    return (
        f"{path}, {hunk.label}: {what}. Looked for:\n{shown(hunk.old)}\n"
        "Copy more of the lines around the change, exactly as they stand, until they stand there only once."
    )


def _nowhere(file: Lines, hunk: Hunk) -> str:
    """The hunk fits nowhere."""
    path, lines = file.path, file.lines
    if not hunk.old:
        return (
            f"{path}, {hunk.label}: it holds no line of the present file, which has {len(lines)} lines, so nothing "
            "says where its lines belong. Give at least one line that stands next to the change, unchanged."
        )
    near = _nearest(lines, hunk.old)
    what = f"The closest lines are:\n{near}" if near else f"No line there is like these; it has {len(lines)} lines."
    return f"{path}, {hunk.label}: these lines do not stand in the file:\n{shown(hunk.old)}\n{what}"


def shown(old: list[str]) -> str:
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
