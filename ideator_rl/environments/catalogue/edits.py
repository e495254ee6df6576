"""Edits of a catalogue and their merge: each edit is located in the original text, and all are applied at once.

Edits compose when none changes a line that another needs; insertions at the same line follow the catalogue's order.
So a set of edits gives one tree for every order in the idea, and a contradiction fails for every order, as in a merge
of patches.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import textwrap
from dataclasses import dataclass

from ideator_rl.patch import PatchError

Value = int | float | None


@dataclass(frozen=True)
class Parameter:
    """The one number of an edit."""

    whole: bool
    """Whether it takes whole numbers only."""
    low: float
    high: float
    sample: tuple[int | float, ...]
    """Values to draw from when ideas are sampled."""
    default: int | float | None = None
    """Value of an algorithm where the idea names none."""

    def accept(self, key: str, value: float) -> int | float:
        """Raises: PatchError when the value is not finite, outside the range, or not whole where it must be."""
        if not (self.low <= value <= self.high and math.isfinite(value)):
            raise PatchError(f"{key} = {value:g} is outside the range of this edit, {self.low:g} … {self.high:g}.")
        if self.whole and value != int(value):
            raise PatchError(
                f"{key} = {value:g} is not a whole number; this edit takes one, {self.low:g} … {self.high:g}."
            )
        return int(value) if self.whole else float(value)


@dataclass(frozen=True)
class Block:
    """Lines to find, exactly once, and their replacement; both without the indentation that the file has there."""

    find: tuple[str, ...]
    replace: tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    key: str
    kind: str
    """`number` or `algorithm`."""
    family: str
    says: tuple[str, ...]
    """Phrasings for an idea's experiment section; `{value}` is filled in."""
    changes: tuple[str, ...]
    """Phrasings for its section of code changes."""
    names: tuple[re.Pattern[str], ...]
    """Patterns of a text that names the edit."""
    assign: str | None
    """Name whose assignment a number edit changes; None for an algorithm."""
    blocks: tuple[Block, ...]
    parameter: Parameter | None
    up: tuple[re.Pattern[str], ...] = ()
    """Patterns that mean twice the baseline's number, such as "deeper"."""
    down: tuple[re.Pattern[str], ...] = ()
    """Patterns that mean half of it."""
    absent: tuple[re.Pattern[str], ...] = ()
    """Patterns that name the edit where a sentence removes them ("without dropout"), with `absent_value`."""
    absent_value: int | float | None = None
    guard: re.Pattern[str] | None = None
    """A sentence that matches speaks of a change over time: its "to 0" is not the number."""
    unless: tuple[str, ...] = ()
    """Keys of edits that this one gives way to."""
    weak: tuple[re.Pattern[str], ...] = ()
    """Patterns that name the edit only if no other edit of the family is named."""

    @property
    def needs_value(self) -> bool:
        """Whether a text that names it without a number is ignored."""
        return self.assign is not None and (self.parameter is None or self.parameter.default is None)

    def located(self, lines: list[str], value: Value) -> list[Change]:
        """The changes of the text by this edit.

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
    """Lines `start` to `end` become `lines`; no other edit may change lines `needs_start` to `needs_end`."""

    edit: str
    """The edit's key, with its value: changes of one edit never contradict each other."""
    start: int
    end: int
    needs_start: int
    needs_end: int
    lines: tuple[str, ...]

    def disturbs(self, other: Change) -> bool:
        """Whether this change alters, or splits, lines that the other needs."""
        if self.start == self.end:
            return other.needs_start < self.start < other.needs_end
        return self.start < other.needs_end and self.end > other.needs_start


def merge(lines: list[str], changes: list[Change]) -> list[str]:
    """The lines after all changes; insertions at one line keep the order of `changes`.

    Raises:
        PatchError: two edits contradict each other.
    """
    for first, second in itertools.combinations(changes, 2):
        if first.edit != second.edit and (first.disturbs(second) or second.disturbs(first)):
            line = max(first.start, second.start)
            raise PatchError(
                f"The edits {first.edit} and {second.edit} contradict each other: both change "
                f"line {line + 1}, `{lines[min(line, len(lines) - 1)].strip()}`. Choose one of them."
            )
    result: list[str] = []
    position = 0
    for change in sorted(changes, key=lambda c: (c.start, c.end)):
        result += [*lines[position : change.start], *change.lines]
        position = change.end
    return result + lines[position:]


def assignment(lines: list[str], name: str, key: str) -> tuple[int, re.Match[str]]:
    """The line that assigns a number to `name`, with groups left, old and tail.

    Raises:
        PatchError: no such line, or several.
    """
    pattern = re.compile(rf"^(?P<left>\s*{re.escape(name)}\s*(?::[^=]+)?=\s*)(?P<old>[-+.\deE_]+)(?P<tail>\s*(#.*)?)$")
    matches = [(i, match) for i, line in enumerate(lines) if (match := pattern.match(line))]
    if len(matches) != 1:
        raise PatchError(f"The edit {key} needs one line `{name} = <number>`, but the file has {len(matches)}.")
    return matches[0]


def _locate(name: str, block: Block, lines: list[str], value: Value) -> list[Change]:
    size = len(block.find)
    starts = [i for i in range(len(lines) - size + 1) if _dedent(lines[i : i + size]) == list(block.find)]
    if len(starts) != 1:
        raise PatchError(f"The edit {name} does not fit: `{block.find[0]}` was found {len(starts)} times, not once.")
    line = starts[0]
    indent = lines[line][: len(lines[line]) - len(lines[line].lstrip())]
    replace = [line.replace("{value}", repr(value)) for line in block.replace]
    matcher = difflib.SequenceMatcher(None, list(block.find), replace, autojunk=False)
    return [
        Change(name, line + i1, line + i2, line, line + size, tuple(indent + s if s else s for s in replace[j1:j2]))
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    ]


def _dedent(lines: list[str]) -> list[str]:
    return textwrap.dedent("\n".join(lines)).split("\n")
