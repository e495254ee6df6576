"""Finds the position of a hunk in a file: exactly, else through drift in whitespace, marks or indentation.

Never by guess: a position is taken if it is the only one of its kind.  Among several, a stated line number decides only
if it can be trusted: each hunk of the file with a single position has the same distance from its number or, if there is
no such hunk, the numbers of the old and the new file agree.  A heading after @@ decides if only one position is under
it.
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
from ideator_rl.patch.indent import BLANKS, reindented
from ideator_rl.patch.tokens import Tokens, tokenize

_DEFINES = re.compile(r"\s*(?:async\s+)?(?:def|class)\b|[A-Za-z_$]")

MAX_POSITIONS = 200
"""Positions considered for one hunk; with more, it is as ambiguous as with so many."""
MAX_WORK = 5_000_000
"""Lines compared for one file: some seconds, whatever the patch contains."""
MAX_QUOTED_LINES = 8
"""Lines of a hunk, and of the file, that a message quotes."""


@dataclass(frozen=True)
class Position:
    """The index of a hunk's first line in the file, and its added lines as they must read there."""

    at: int
    added: tuple[str, ...]
    reindented: bool = False
    """Whether the indentation of the added lines was corrected."""
    other_unit: bool = False
    """Whether the patch may be written in another unit of indentation."""


class FileLines:
    """A file's lines, and their stripped forms, computed once.

    `numbered`: they are those of the codebase, so that stated line numbers apply to them.  `is_stated_blob`: the patch
    states git's name of this very text, so that its line numbers are certain.
    """

    def __init__(self, path: str, lines: list[str], numbered: bool = True, is_stated_blob: bool = False) -> None:
        self.path = path
        self.lines = lines
        self.numbered = numbered
        self.is_stated_blob = is_stated_blob
        self.work = 0
        """Lines compared so far."""
        self.positions: dict[Hunk, list[Position]] = {}
        """Results of `find_positions`; `locate` narrows them to the positions that a reading of a hunk may have."""

    @cached_property
    def right_stripped(self) -> list[str]:
        return _right_stripped(self.lines)

    @cached_property
    def stripped(self) -> list[str]:
        return [line.strip(BLANKS) for line in self.lines]

    @cached_property
    def tokens(self) -> Tokens:
        return tokenize(self.lines)

    def count_search(self, hunk: Hunk, times: int = 1) -> None:
        """Add the work of a search, or of one that takes as long as so many.

        Raises:
            PatchError: placing the hunks would take minutes.
        """
        self.work += times * int(len(self.lines) * (1 + len(hunk.old) / 20))
        if self.work > MAX_WORK:
            raise PatchError(
                f"{self.path}: too many or too long hunks to look for in {len(self.lines)} lines; "
                "state exact line numbers, or write fewer and shorter hunks"
            )


def find_positions(file: FileLines, hunk: Hunk) -> list[Position]:
    """Every position of the strictest kind that has any.

    A looser position at the very line that the hunk states contradicts a strict one elsewhere: then both are returned.
    """
    if hunk not in file.positions:
        file.positions[hunk] = _search(file, hunk)
    return file.positions[hunk]


def _search(file: FileLines, hunk: Hunk) -> list[Position]:
    file.count_search(hunk)
    stated = None if hunk.start is None else hunk.start - 1
    positions: list[Position] = []
    for kind in (_exact, _trailing_blanks, _lost_marks, _other_indent):
        if not positions:
            positions = list(islice(kind(file, hunk, None), MAX_POSITIONS))
            # The stated line may come after the limit.
            if len(positions) == MAX_POSITIONS and stated is not None:
                positions += kind(file, hunk, stated)
        elif stated is not None and all(position.at != stated for position in positions):
            positions += kind(file, hunk, stated)
    if (hunk.old_unterminated or hunk.at_end) and len(positions) > 1:
        positions = [position for position in positions if position.at + len(hunk.old) == len(file.lines)] or positions
    return list(dict.fromkeys(positions))


def stated_positions(file: FileLines, hunks: list[Hunk]) -> list[Position] | None:
    """The positions that the hunks state, if all match there exactly and their numbers agree; else None."""
    positions: list[Position] = []
    for hunk, at in zip(hunks, _consistent_indices(hunks), strict=True):
        if at is None or file.lines[at : at + len(hunk.old)] != hunk.old:
            return None
        positions.append(Position(at, tuple(hunk.added)))
    # Nothing but its number places a hunk without lines of the file (diff -U0): a tool must have written it.
    proven = file.is_stated_blob or any(map(_has_text, hunks))
    if not all(hunk.old or (proven and hunk.counts_match) for hunk in hunks):
        return None
    return positions


def _match_indices(lines: list[str], run: list[str], only: int | None) -> Iterator[int]:
    """The indices at which `run` is in `lines`; if `only` is given, no other index."""
    at = -1 if only is None else max(-1, only - 1)
    while run:
        try:
            at = lines.index(run[0], at + 1)
        except ValueError:
            return
        if only is not None and at != only:
            return
        if lines[at : at + len(run)] == run:
            yield at


def _right_stripped(lines: list[str]) -> list[str]:
    return [line.rstrip(BLANKS) for line in lines]


def _exact(file: FileLines, hunk: Hunk, only: int | None) -> Iterator[Position]:
    return (Position(at, tuple(hunk.added)) for at in _match_indices(file.lines, hunk.old, only))


def _trailing_blanks(file: FileLines, hunk: Hunk, only: int | None) -> Iterator[Position]:
    """Positions where blanks at line ends differ, or the kind of line ends."""
    old = hunk.old
    for at in _match_indices(file.right_stripped, _right_stripped(old), only):
        file_lines = file.lines[at : at + len(old)]
        pairs = [(text.rstrip("\r"), line.rstrip("\r")) for text, line in zip(old, file_lines, strict=True)]
        different = [(text, line) for text, line in pairs if text != line]
        # A patch that adds blanks to every line that differs adds them to its new lines too.
        padded = bool(different) and all(text.startswith(line) for text, line in different)
        added = [text.rstrip(BLANKS) for text in hunk.added] if padded else hunk.added
        if not hunk.has_marks and different:
            added = _copied_lines_as_in_file(hunk, added, file_lines)
        yield Position(at, with_line_ends(added, file_lines))


def _copied_lines_as_in_file(hunk: Hunk, added: list[str], file_lines: list[str]) -> list[str]:
    """A block's added lines; those that SEARCH has but for blanks at their ends read as in the file."""
    remaining = iter(added)
    new = [text if mark == " " else next(remaining) for mark, text in hunk.lines if mark != "-"]
    is_added = [mark == "+" for mark, _ in hunk.lines if mark != "-"]
    matcher = difflib.SequenceMatcher(None, _right_stripped(file_lines), _right_stripped(new), autojunk=False)
    for match in matcher.get_matching_blocks():
        new[match.b : match.b + match.size] = file_lines[match.a : match.a + match.size]
    return [text for text, keep in zip(new, is_added, strict=True) if keep]


def with_line_ends(added: list[str], file_lines: list[str]) -> tuple[str, ...]:
    """Added lines with the line ends of the file's lines around, if these are all of one kind."""
    has_cr = {line.endswith("\r") for line in file_lines}
    if len(has_cr) != 1:
        return tuple(added)
    return tuple(text.removesuffix("\r") + ("\r" if True in has_cr else "") for text in added)


def _lost_marks(file: FileLines, hunk: Hunk, only: int | None) -> Iterator[Position]:
    """Positions where context lines match once they get back the space that marks them."""
    options = [
        {text.rstrip(BLANKS)} | ({f" {text}".rstrip(BLANKS)} if mark == " " else set())
        for mark, text in hunk.lines
        if mark != "+"
    ]
    lines = file.right_stripped
    starts = range(len(lines) - len(options) + 1 if hunk.has_marks and options else 0)
    for at in starts if only is None else (i for i in (only,) if i in starts):
        if lines[at] in options[0] and all(lines[at + i] in texts for i, texts in enumerate(options)):
            yield Position(at, with_line_ends(hunk.added, file.lines[at : at + len(options)]))


def _other_indent(file: FileLines, hunk: Hunk, only: int | None) -> Iterator[Position]:
    """Positions where the indentation drifted in one way for all lines; one for each way that is possible."""
    size = len(hunk.old)
    for at in _match_indices(file.stripped, [text.strip(BLANKS) for text in hunk.old], only):
        results, other_unit = reindented(hunk, file.right_stripped[at : at + size])
        for added in sorted(results):
            ended = with_line_ends(list(added), file.lines[at : at + size])
            yield Position(at, ended, reindented=True, other_unit=other_unit)


def choose_positions(file: FileLines, hunks: list[Hunk]) -> list[Position]:
    """One position for each hunk, all as indices of the same lines.

    Raises:
        PatchError: naming each hunk without a position, or with several and nothing to choose by.
    """
    if stated := stated_positions(file, hunks):
        return stated
    candidates = [find_positions(file, hunk) for hunk in hunks]
    chosen: list[Position] = []
    faults: list[tuple[Hunk, list[Position]]] = []
    for hunk, positions, trusted in zip(hunks, candidates, _trusted_indices(hunks, candidates), strict=True):
        if len(positions) > 1 or (positions and not _has_text(hunk)):
            hinted = [position for position in positions if position.at == trusted]
            hinted = hinted or _under_heading(file.lines, hunk, positions)
            if len(hinted) == 1:
                chosen += hinted
            else:
                faults.append((hunk, positions))
        elif positions:
            chosen += positions
        else:
            faults.append((hunk, []))
    if faults:
        # Only the first messages are written: each one searches the whole file for the closest lines.
        messages = [
            _ambiguous(file.path, hunk, positions) if positions else _not_found(file, hunk)
            for hunk, positions in faults[:4]
        ]
        raise PatchError("\n".join(messages) + (f"\n… and {len(faults) - 4} more hunks" if len(faults) > 4 else ""))
    return chosen


def _trusted_indices(hunks: list[Hunk], candidates: list[list[Position]]) -> list[int | None]:
    """For each hunk the index that its stated number means, or None if the number cannot be trusted."""
    drifts = {
        positions[0].at - hunk.start
        for hunk, positions in zip(hunks, candidates, strict=True)
        if len(positions) == 1 and hunk.start is not None and _has_text(hunk)
    }
    if not drifts:
        return _consistent_indices(hunks)
    if len(drifts) > 1:
        return [None] * len(hunks)
    drift = drifts.pop()
    return [None if hunk.start is None else hunk.start + drift for hunk in hunks]


def _consistent_indices(hunks: list[Hunk]) -> list[int | None]:
    """The stated index of each hunk; None unless its number in the new file follows from the hunks before it."""
    growth = 0
    indices: list[int | None] = []
    for hunk in hunks:
        at = None
        if hunk.start is not None and hunk.new_start is not None and (hunk.start or not hunk.old):
            # A hunk with no old or no new lines states the line before it.
            start = hunk.start if hunk.old else hunk.start + 1
            new_start = hunk.new_start if hunk.new else hunk.new_start + 1
            at = start - 1 if new_start - start == growth else None
        indices.append(at)
        growth += len(hunk.new) - len(hunk.old)
    return indices


def _has_text(hunk: Hunk) -> bool:
    """Whether a hunk looks for more than blank lines, which do not determine a position."""
    return any(text.strip() for text in hunk.old)


def _under_heading(lines: list[str], hunk: Hunk, positions: list[Position]) -> list[Position]:
    """The positions under the hunk's heading, read as git writes it: the closest definition above."""
    heading = hunk.heading.strip()
    if not heading or not _has_text(hunk) or len(positions) > MAX_QUOTED_LINES:
        return []

    def is_under(at: int, top_level: bool) -> bool:
        for line in reversed(lines[:at]):
            if _DEFINES.match(line) and (line[0].strip() or not top_level):
                return line.strip().startswith(heading)
        return False

    return [position for position in positions if is_under(position.at, True) or is_under(position.at, False)]


def _ambiguous(path: str, hunk: Hunk, positions: list[Position]) -> str:
    """The message for a hunk that fits at more than one index of the file, or in more than one way at one."""
    numbers = sorted({position.at + 1 for position in positions})
    listed = ", ".join(map(str, numbers[:MAX_QUOTED_LINES])) + (", …" if len(numbers) > MAX_QUOTED_LINES else "")
    if len(numbers) == 1 and len(positions) > 1:
        reason = f"it would fit at line {listed} if its indentation were mended, but that can be done in several ways"
    elif len(numbers) == 1:
        reason = "it looks for nothing but blank lines, which do not determine its position"
    else:
        reason = f"what it looks for is at {len(numbers)} positions (lines {listed}), and nothing decides between them"
    return (
        f"{path}, {hunk.label}: {reason}. Looked for:\n{quote_lines(hunk.old)}\n"
        "Copy more of the lines around the change, exactly as they are, until they are there only once."
    )


def _not_found(file: FileLines, hunk: Hunk) -> str:
    """The message for a hunk that fits nowhere."""
    path, lines = file.path, file.lines
    if not hunk.old:
        return (
            f"{path}, {hunk.label}: it holds no line of the present file, which has {len(lines)} lines, so its "
            "position is unknown. Give at least one unchanged line next to the change."
        )
    closest = _closest_lines(lines, hunk.old)
    hint = f"The closest lines are:\n{closest}" if closest else f"No line of its {len(lines)} lines is like these."
    return f"{path}, {hunk.label}: these lines are not in the file:\n{quote_lines(hunk.old)}\n{hint}"


def quote_lines(lines: list[str]) -> str:
    """The first lines of a hunk for a message."""
    more = f"\n    … and {len(lines) - MAX_QUOTED_LINES} more" if len(lines) > MAX_QUOTED_LINES else ""
    return "\n".join(f"    | {text[:160]}" for text in lines[:MAX_QUOTED_LINES]) + more


def _closest_lines(lines: list[str], old: list[str]) -> str:
    """The run of lines that shares most with `old`, else single lines that share words; with their numbers."""
    indices_by_text: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        if line.strip():
            indices_by_text.setdefault(line.strip(), []).append(index)
    # Each common line votes for the start of the run that would put it at its position in the hunk.
    votes: Counter[int] = Counter()
    for offset, text in enumerate(old[:200]):
        votes.update(max(0, index - offset) for index in indices_by_text.get(text.strip(), [])[:50])
    if votes:
        start = votes.most_common(1)[0][0]
        closest = list(range(start, min(len(lines), start + min(MAX_QUOTED_LINES, len(old) + 2))))
    else:
        identifiers = _identifiers(max(old, key=len))
        shared = Counter({i: len(identifiers & _identifiers(line)) for i, line in enumerate(lines)})
        closest = sorted(i for i, count in shared.most_common(3) if count)
    return "\n".join(f"    {i + 1:>5}| {lines[i][:160]}" for i in closest)


def _identifiers(line: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in line).split())
