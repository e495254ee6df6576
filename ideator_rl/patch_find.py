"""Where a hunk stands in a file: exactly, then through drift in whitespace, marks or indentation, never by guess.

A place is taken when it is the only one of its kind.  Among several, the stated line number decides only where every
hunk of the file that has one place of its own shows the same distance from its own number; else the hunk is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ideator_rl.patch_text import Hunk, PatchError

BLANKS = " \t\r\f"


@dataclass(frozen=True)
class Place:
    """A hunk's place: `at`, the index of its first line, and what repair its added lines need."""

    at: int
    added: tuple[str, ...]


Matcher = Callable[[list[str], Hunk], list[Place]]


def places(lines: list[str], hunk: Hunk) -> list[Place]:
    """Every place of the strictest kind that has any.  A repaired place at the very line that the hunk states counts
    against an exact one elsewhere: then both are returned."""
    found: list[Place] = []
    for matcher in (_exact, _trailing, _unmarked, _indented):
        fresh = matcher(lines, hunk)
        if not found:
            found = fresh
        elif hunk.start is not None and all(place.at != hunk.start - 1 for place in found):
            found = found + [place for place in fresh if place.at == hunk.start - 1]
    if hunk.old_cut and len(found) > 1:
        found = [place for place in found if place.at + len(hunk.old) == len(lines)] or found
    return found


def _windows(keys: list[str], wanted: list[str]) -> Iterator[int]:
    if not wanted:
        return
    size, at = len(wanted), -1
    while True:
        try:
            at = keys.index(wanted[0], at + 1)
        except ValueError:
            return
        if keys[at : at + size] == wanted:
            yield at


def _added(hunk: Hunk) -> tuple[str, ...]:
    return tuple(text for mark, text in hunk.lines if mark == "+")


def _exact(lines: list[str], hunk: Hunk) -> list[Place]:
    return [Place(at, _added(hunk)) for at in _windows(lines, hunk.old)]


def _trailing(lines: list[str], hunk: Hunk) -> list[Place]:
    """Whitespace at line ends drifted, or line ends are of the other kind; added lines take the file's."""
    old = hunk.old
    wanted = [text.rstrip(BLANKS) for text in old]
    keys = [line.rstrip(BLANKS) for line in lines]
    return [Place(at, _file_ends(hunk, lines[at : at + len(old)])) for at in _windows(keys, wanted)]


def _file_ends(hunk: Hunk, standing: list[str]) -> tuple[str, ...]:
    crlf = all(line.endswith("\r") for line in standing)
    differ = [(text, line) for text, line in zip(hunk.old, standing, strict=True) if text.rstrip("\r") != line.rstrip("\r")]
    padded = bool(differ) and all(text.rstrip("\r").startswith(line.rstrip("\r")) for text, line in differ)
    added = []
    for text in _added(hunk):
        text = text.removesuffix("\r")
        added.append((text.rstrip(BLANKS) if padded else text) + ("\r" if crlf else ""))
    return tuple(added)


def _unmarked(lines: list[str], hunk: Hunk) -> list[Place]:
    """Context lines that lost the space in front of them."""
    if not hunk.marked:
        return []
    old = [(mark, text.rstrip(BLANKS)) for mark, text in hunk.lines if mark != "+"]
    keys = [line.rstrip(BLANKS) for line in lines]

    def fits(at: int) -> bool:
        return all(
            text == key or (mark == " " and f" {text}".rstrip() == key)
            for (mark, text), key in zip(old, keys[at : at + len(old)], strict=True)
        )

    return [Place(at, _file_ends_only(hunk, lines[at : at + len(old)])) for at in range(len(keys) - len(old) + 1)
            if old and fits(at)]


def _file_ends_only(hunk: Hunk, standing: list[str]) -> tuple[str, ...]:
    end = "\r" if all(line.endswith("\r") for line in standing) else ""
    return tuple(text.removesuffix("\r") + end for text in _added(hunk))


def _indented(lines: list[str], hunk: Hunk) -> list[Place]:
    """Every line of the hunk is indented by the same amount too much or too little."""
    old = hunk.old
    wanted = [text.strip(BLANKS) for text in old]
    keys = [line.strip(BLANKS) for line in lines]
    found = []
    for at in _windows(keys, wanted):
        standing = lines[at : at + len(old)]
        shifts = {_shift(text, line) for text, line in zip(old, standing, strict=True) if text.strip(BLANKS)}
        if len(shifts) != 1 or None in shifts:
            continue
        added = [_shifted(text, shifts.copy().pop() or (0, "")) for text in _file_ends_only(hunk, standing)]
        if None not in added:
            found.append(Place(at, tuple(text for text in added if text is not None)))
    return found


def _shift(text: str, line: str) -> tuple[int, str] | None:
    """(1, blanks): the file has these in front of the hunk's line; (-1, blanks): the hunk has them too much."""
    text, line = text.rstrip(BLANKS), line.rstrip(BLANKS)
    if line.endswith(text):
        return (1, line[: len(line) - len(text)])
    if text.endswith(line):
        return (-1, text[: len(text) - len(line)])
    return None


def _shifted(text: str, shift: tuple[int, str]) -> str | None:
    sign, blanks = shift
    if not text.strip(BLANKS):
        return text
    if sign > 0:
        return blanks + text
    return text[len(blanks) :] if text.startswith(blanks) else None


def choose(path: str, lines: list[str], hunks: list[Hunk]) -> list[Place]:
    """One place for each hunk, all counted in the same lines.

    Raises:
        PatchError: for every hunk with no place or with several and no number to be believed.
    """
    found = [places(lines, hunk) for hunk in hunks]
    drifts = {
        spots[0].at - (hunk.start - 1)
        for hunk, spots in zip(hunks, found, strict=True)
        if len(spots) == 1 and hunk.start is not None and _telling(hunk)
    } or {0}
    chosen, faults = [], []
    for hunk, spots in zip(hunks, found, strict=True):
        if len(spots) > 1 or (spots and not _telling(hunk)):
            stated = [s for s in spots if hunk.start is not None and drifts == {s.at - (hunk.start - 1)}]
            if len(stated) != 1:
                faults.append(_several(path, lines, hunk, spots))
                continue
            spots = stated
        if spots:
            chosen.append(spots[0])
        else:
            faults.append(_nowhere(path, lines, hunk))
    if faults:
        raise PatchError("\n".join(faults[:4]) + (f"\n… and {len(faults) - 4} more hunks" if len(faults) > 4 else ""))
    return chosen


def _telling(hunk: Hunk) -> bool:
    """A hunk that holds nothing but blank lines says nothing about its place."""
    return any(text.strip() for text in hunk.old)


def _several(path: str, lines: list[str], hunk: Hunk, spots: list[Place]) -> str:
    at = ", ".join(str(place.at + 1) for place in spots[:8]) + (", …" if len(spots) > 8 else "")
    return (
        f"{path}, {hunk.label}: what it replaces stands at {len(spots)} places (lines {at}) and nothing tells which is "
        f"meant. Looked for:\n{_quote(hunk.old)}\nAdd lines around the change until they stand only once in the file."
    )


def _nowhere(path: str, lines: list[str], hunk: Hunk) -> str:
    if not hunk.old:
        return (
            f"{path}, {hunk.label}: it has no line of the present file, so nothing says where its lines belong; "
            f"the file has {len(lines)} lines. Give at least one line that stands next to the change, unchanged."
        )
    near = _nearest(lines, hunk.old)
    what = f"The closest lines there are:\n{near}" if near else f"No line there resembles it; the file has {len(lines)} lines."
    return f"{path}, {hunk.label}: these lines do not stand in the file:\n{_quote(hunk.old)}\n{what}"


def _quote(old: list[str], limit: int = 8) -> str:
    more = f"\n    … {len(old) - limit} more" if len(old) > limit else ""
    return "\n".join(f"    | {text[:160]}" for text in old[:limit]) + more


def _nearest(lines: list[str], old: list[str], limit: int = 8) -> str:
    """The lines of the file that share most with `old`, with their numbers; empty where none is shared."""
    at_line: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        if line.strip():
            at_line.setdefault(line.strip(), []).append(index)
    votes: Counter[int] = Counter()
    for offset, text in enumerate(old[:200]):
        votes.update(index - offset for index in at_line.get(text.strip(), [])[:50])
    if not votes:
        return _resembling(lines, old)
    start = max(0, votes.most_common(1)[0][0])
    return "\n".join(f"    {start + i + 1}| {line[:160]}" for i, line in enumerate(lines[start : start + min(limit, len(old) + 2)]))


def _resembling(lines: list[str], old: list[str]) -> str:
    """Lines that share most words with the longest line looked for."""
    wanted = set(max(old, key=len).replace("(", " ").replace(".", " ").split())
    shared = Counter({i: len(wanted & set(line.replace("(", " ").replace(".", " ").split())) for i, line in enumerate(lines)})
    best = sorted(i for i, count in shared.most_common(3) if count)
    return "\n".join(f"    {i + 1}| {lines[i][:160]}" for i in best)
