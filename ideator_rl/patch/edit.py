"""The data that patch text is parsed into: a `FileEdit` for each file, a `Hunk` for each change; and `PatchError`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from ideator_rl.errors import IdeatorError

MAX_ALIGNED = 10_000_000
"""Lines of SEARCH times lines of REPLACE; above this, common lines are not looked for, which would take minutes."""

Kind = Literal["unpatchable", "rejected"]
Action = Literal["edit", "create", "delete", "rename", "copy", "whole"]


class PatchError(IdeatorError):
    """A patch that leads to no tree.  The message is for a person, and for the model that revises the patch.

    `kind` is "unpatchable" (does not parse, or does not fit the files) or "rejected" (breaks a rule).
    """

    def __init__(self, message: str, kind: Kind = "unpatchable") -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True)
class Hunk:
    """One contiguous change: `lines` are (mark, text), with one of the marks " ", "-", "+"."""

    lines: tuple[tuple[str, str], ...]
    label: str
    """Its name in messages."""
    start: int | None = None
    """The first line in the old file as the header states it, counted from 1."""
    new_start: int | None = None
    """The first line in the new file as the header states it, counted from 1."""
    heading: str = ""
    """Text after the second @@: the function or class around the hunk."""
    has_marks: bool = True
    """Whether its lines carried diff marks (False for SEARCH/REPLACE)."""
    old_unterminated: bool = False
    new_unterminated: bool = False
    """Whether the patch states that the old / new file ends with the hunk, without a newline."""
    at_end: bool = False
    """Whether the patch states that the hunk reaches the end of the file."""
    counts_match: bool = False
    """Whether the header states the right number of lines: then a tool wrote the hunk, or a careful model."""

    old_count: int | None = None
    """The lines to look for that the header states, if the text ends within the hunk: it may be cut off."""
    respelled: bool = False
    """Whether its lines were written as the file spells them."""
    unescaped: bool = False
    """Whether HTML entities in its lines were replaced by the characters that they mean."""

    @property
    def old(self) -> list[str]:
        """The lines to look for."""
        return [text for mark, text in self.lines if mark != "+"]

    @property
    def new(self) -> list[str]:
        """The lines to put in their place."""
        return [text for mark, text in self.lines if mark != "-"]

    @property
    def added(self) -> list[str]:
        return [text for mark, text in self.lines if mark == "+"]


@dataclass
class FileEdit:
    """The change of one file.  Paths are unquoted; None is /dev/null."""

    old: str | None
    new: str | None
    action: Action = "edit"
    style: Literal["diff", "blocks"] = "diff"
    hunks: list[Hunk] = field(default_factory=list)
    old_blob: str = ""
    """First digits of the name that git gives the old file's text, from a line `index`."""
    prefix_removed: bool = False
    """Whether the paths certainly had git's prefixes a/ and b/, which are then removed already."""
    stage: int = 0
    """Index of its mail in a series; each mail is applied to the result of those before it."""

    @property
    def nameless(self) -> bool:
        return self.action == "edit" and self.old is None and self.new is None

    def take_names(self, old: str | None, new: str | None) -> None:
        """Set the paths, without a/ and b/ if both have them, or if one has and a `diff --git` line did before."""
        prefixed = (old is None or old.startswith("a/")) and (new is None or new.startswith("b/"))
        self.prefix_removed = prefixed and (self.prefix_removed or None not in (old, new))
        self.old = old[2:] if old and self.prefix_removed else old
        self.new = new[2:] if new and self.prefix_removed else new

    @property
    def name(self) -> str:
        return self.new or self.old or "(no file)"


def diff_hunk(
    body: list[str],
    label: str,
    heading: str,
    starts: tuple[int | None, int | None] = (None, None),
    counts_match: bool = False,
    old_count: int | None = None,
) -> Hunk:
    """A hunk from the lines of a diff, which carry their marks; `starts` are the stated first lines (old, new)."""
    marked_lines: list[tuple[str, str]] = []
    old_unterminated = new_unterminated = False
    for line in body:
        if not line.startswith("\\"):
            marked_lines.append((line[:1] or " ", line[1:]))
        elif marked_lines:
            # "\ No newline at end of file" is about the line above, on the sides that have that line.
            old_unterminated |= marked_lines[-1][0] in " -"
            new_unterminated |= marked_lines[-1][0] in " +"
    return Hunk(
        tuple(marked_lines),
        label,
        *starts,
        heading=heading,
        counts_match=counts_match,
        old_count=old_count,
        old_unterminated=old_unterminated,
        new_unterminated=new_unterminated,
    )


def align(old: list[str], new: list[str]) -> tuple[tuple[str, str], ...]:
    """The marked lines of a replacement; lines that both sides share become context."""
    marked_lines: list[tuple[str, str]] = []
    if len(old) * len(new) > MAX_ALIGNED:
        return tuple([("-", line) for line in old] + [("+", line) for line in new])
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new).get_opcodes():
        if tag == "equal":
            marked_lines += [(" ", line) for line in old[i1:i2]]
        else:
            marked_lines += [("-", line) for line in old[i1:i2]] + [("+", line) for line in new[j1:j2]]
    return tuple(marked_lines)
