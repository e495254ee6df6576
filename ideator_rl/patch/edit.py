"""The shapes that patch text is read into: a `FileEdit` for each file, a `Hunk` for each change; and `PatchError`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from ideator_rl.errors import IdeatorError

MAX_ALIGNED = 10_000_000
"""Lines of SEARCH times lines of REPLACE up to which lines in both are looked for; it takes seconds at most."""

Kind = Literal["unpatchable", "rejected"]
Action = Literal["edit", "create", "delete", "rename", "copy", "whole"]


class PatchError(IdeatorError):
    """No tree comes out of this patch.  The message is written for a person and for the model that revises it.

    `kind` is "unpatchable" (does not parse, or does not fit the files) or "rejected" (breaks a rule).
    """

    def __init__(self, message: str, kind: Kind = "unpatchable") -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True)
class Hunk:
    """One contiguous change: `lines` are (mark, text), mark one of " ", "-", "+"."""

    lines: tuple[tuple[str, str], ...]
    label: str
    """How messages call it."""
    start: int | None = None
    """Stated first line in the old file, counted from 1."""
    new_start: int | None = None
    """Stated first line in the new file, counted from 1."""
    heading: str = ""
    """Text after the second @@: the function or class that the hunk says it stands in."""
    marked: bool = True
    """Lines carried diff marks (False for SEARCH/REPLACE)."""
    old_cut: bool = False
    new_cut: bool = False
    """The old / new file is said to end here without a newline."""
    at_end: bool = False
    """The hunk is said to reach the end of the file."""
    counted: bool = False
    """The header states how many lines the hunk has, and it has so many: written by a tool, or with a tool's care."""

    @property
    def old(self) -> list[str]:
        """The lines looked for."""
        return [text for mark, text in self.lines if mark != "+"]

    @property
    def new(self) -> list[str]:
        """The lines that stand there afterwards."""
        return [text for mark, text in self.lines if mark != "-"]

    @property
    def added(self) -> list[str]:
        return [text for mark, text in self.lines if mark == "+"]


@dataclass
class FileEdit:
    """What the text asks of one file.  Paths are unquoted; None is /dev/null."""

    old: str | None
    new: str | None
    action: Action = "edit"
    style: Literal["diff", "blocks"] = "diff"
    hunks: list[Hunk] = field(default_factory=list)
    plain: bool = False
    """The paths carried git's a/ and b/ for certain, and these are taken off already."""
    stage: int = 0
    """Which mail of a series it stands in; each is applied to what the ones before it have made."""

    @property
    def nameless(self) -> bool:
        return self.action == "edit" and self.old is None and self.new is None

    def take_names(self, old: str | None, new: str | None) -> None:
        """Set the paths; a/ and b/ come off where both sides carry them, or one does below such a git header."""
        carried = (old is None or old.startswith("a/")) and (new is None or new.startswith("b/"))
        self.plain = carried and (self.plain or None not in (old, new))
        self.old = old[2:] if old and self.plain else old
        self.new = new[2:] if new and self.plain else new

    @property
    def name(self) -> str:
        return self.new or self.old or "(no file)"


def diff_hunk(
    body: list[str],
    label: str,
    heading: str,
    numbers: tuple[int | None, int | None] = (None, None),
    counted: bool = False,
) -> Hunk:
    marked: list[tuple[str, str]] = []
    old_cut = new_cut = False
    for line in body:
        if line.startswith("\\") and marked:
            old_cut |= marked[-1][0] in " -"
            new_cut |= marked[-1][0] in " +"
        elif not line.startswith("\\"):
            marked.append((line[:1] or " ", line[1:]))
    cuts = {"old_cut": old_cut, "new_cut": new_cut}
    return Hunk(tuple(marked), label, *numbers, heading=heading, counted=counted, **cuts)


def align(old: list[str], new: list[str]) -> tuple[tuple[str, str], ...]:
    """Marked lines for a replacement, so that lines in both count as context."""
    marked: list[tuple[str, str]] = []
    if len(old) * len(new) > MAX_ALIGNED:
        return tuple([("-", line) for line in old] + [("+", line) for line in new])
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new).get_opcodes():
        if tag == "equal":
            marked += [(" ", line) for line in old[i1:i2]]
        else:
            marked += [("-", line) for line in old[i1:i2]] + [("+", line) for line in new[j1:j2]]
    return tuple(marked)
