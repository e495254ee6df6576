"""Edits of a catalogue and how they meet: each is located in the text it is applied to, and all land at once.

Edits compose when none changes a line that another one needs; where they insert at the same place, they land
in the catalogue's order.  So a set of edits gives one tree, however the idea orders them, and a
contradiction fails for every order, as a merge of real patches does.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from dataclasses import dataclass

from ideator_rl.patch import PatchError

Value = int | float | None


@dataclass(frozen=True)
class Parameter:
    """The one number of an edit."""

    whole: bool
    """Only whole numbers."""
    low: float
    high: float
    sample: tuple[int | float, ...]
    """Values to draw from when ideas are made up."""
    default: int | float | None = None
    """What an algorithm takes when the idea names no value."""

    def accept(self, key: str, value: float) -> int | float:
        """Raises: PatchError when the value is outside the range, or not whole where it must be."""
        if not self.low <= value <= self.high:
            raise PatchError(f"{key} = {value:g} is outside the range of this edit, {self.low:g} … {self.high:g}.")
        if self.whole and value != int(value):
            raise PatchError(
                f"{key} = {value:g} is not a whole number; this edit takes one, {self.low:g} … {self.high:g}."
            )
        return int(value) if self.whole else float(value)


@dataclass(frozen=True)
class Block:
    """Whole lines to find, exactly once, and the lines to put there; indentation is that of the place."""

    find: tuple[str, ...]
    replace: tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    key: str
    kind: str
    """`number` or `algorithm`."""
    family: str
    says: tuple[str, ...]
    changes: tuple[str, ...]
    names: tuple[re.Pattern[str], ...]
    assign: str | None
    blocks: tuple[Block, ...]
    parameter: Parameter | None
    up: tuple[re.Pattern[str], ...] = ()
    down: tuple[re.Pattern[str], ...] = ()
    absent: tuple[re.Pattern[str], ...] = ()
    absent_value: int | float | None = None
    guard: re.Pattern[str] | None = None
    unless: tuple[str, ...] = ()
    weak: tuple[re.Pattern[str], ...] = ()

    @property
    def needs_value(self) -> bool:
        """Words that name it without a number mean nothing."""
        return self.assign is not None and (self.parameter is None or self.parameter.default is None)

    def located(self, lines: list[str], value: Value) -> list[Change]:
        """Where this edit changes the text.

        Raises:
            PatchError: a block is not found exactly once.
        """
        name = self.key if value is None else f"{self.key} = {value}"
        if self.assign is not None:
            i, match = assignment(lines, self.assign, self.key)
            new = match["left"] + repr(value) + match["tail"]
            return [] if float(match["old"]) == value else [Change(name, i, i + 1, i, i + 1, (new,))]
        return [change for block in self.blocks for change in _locate(name, block, lines, value)]


@dataclass(frozen=True)
class Choice:
    """An edit with its value (None when it takes none)."""

    key: str
    value: Value = None


@dataclass(frozen=True)
class Change:
    """Lines `start` to `end` become `lines`; nothing else may change `needs_start` to `needs_end`."""

    edit: str
    """The edit's key, with its value: changes of one edit never contradict each other."""
    start: int
    end: int
    needs_start: int
    needs_end: int
    lines: tuple[str, ...]

    def disturbs(self, other: Change) -> bool:
        """Whether this one changes, or splits, lines that the other needs."""
        if self.start == self.end:
            return other.needs_start < self.start < other.needs_end
        return self.start < other.needs_end and self.end > other.needs_start


def merge(lines: list[str], changes: list[Change]) -> list[str]:
    """All changes at once; those that insert at one place land in the order given.

    Raises:
        PatchError: two edits contradict each other.
    """
    for n, one in enumerate(changes):
        for other in changes[:n]:
            if one.edit != other.edit and (one.disturbs(other) or other.disturbs(one)):
                at = max(one.start, other.start)
                raise PatchError(
                    f"The edits {other.edit} and {one.edit} contradict each other: both change "
                    f"line {at + 1}, `{lines[min(at, len(lines) - 1)].strip()}`. Choose one of them."
                )
    result, here = [], 0
    for change in sorted(changes, key=lambda c: (c.start, c.end)):
        result += lines[here : change.start]
        result += change.lines
        here = change.end
    return result + lines[here:]


def assignment(lines: list[str], name: str, key: str) -> tuple[int, re.Match[str]]:
    """The line that assigns a number to `name`, with groups left, old and tail.

    Raises:
        PatchError: no such line, or several.
    """
    pattern = re.compile(rf"^(?P<left>\s*{re.escape(name)}\s*(?::[^=]+)?=\s*)(?P<old>[-+.\deE_]+)(?P<tail>\s*(#.*)?)$")
    found = [(i, match) for i, line in enumerate(lines) if (match := pattern.match(line))]
    if len(found) != 1:
        raise PatchError(f"The edit {key} wants one line `{name} = <number>`, but the file has {len(found)}.")
    return found[0]


def _locate(name: str, block: Block, lines: list[str], value: Value) -> list[Change]:
    size = len(block.find)
    starts = [i for i in range(len(lines) - size + 1) if _dedent(lines[i : i + size]) == list(block.find)]
    if len(starts) != 1:
        raise PatchError(f"The edit {name} does not fit: `{block.find[0]}` was found {len(starts)} times, not once.")
    at = starts[0]
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    replace = [line.replace("{value}", repr(value)) for line in block.replace]
    matcher = difflib.SequenceMatcher(None, list(block.find), replace, autojunk=False)
    return [
        Change(name, at + i1, at + i2, at, at + size, tuple(indent + s if s else s for s in replace[j1:j2]))
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    ]


def _dedent(lines: list[str]) -> list[str]:
    return textwrap.dedent("\n".join(lines)).split("\n")
