"""What a patch changes: files, added and removed lines, and a sentence that quotes the lines where they are few.

Reads unified diffs as the executor stores them.  The counts in hunk headers decide which lines belong to a hunk, since
a removed line may look like the head of a file.  A text of SEARCH/REPLACE blocks that was never applied has no changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ideator_rl.patch.size import HUNK_HEADER
from ideator_rl.text.display import shorten

_ASSIGNMENT = re.compile(r"(\s*[A-Za-z_][\w.]*)\s*=(?!=)")
QUOTE_LENGTH = 90
"""Characters of a line that is quoted."""
MAX_QUOTES = 3
"""Changed lines that are quoted, at most."""


@dataclass
class FileChange:
    """The changed lines of one file, without their mark."""

    path: str
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def changes(patch: str) -> list[FileChange]:
    """The files of a patch, in its order."""
    files: list[FileChange] = []
    old_left = new_left = 0  # lines of the hunk that are still to come, before and after the change
    old_path = ""
    for line in patch.split("\n"):
        if old_left > 0 or new_left > 0:
            mark = line[:1]
            if mark == "\\":  # "\ No newline at end of file" is counted in no header
                continue
            old_left, new_left = old_left - (mark != "+"), new_left - (mark != "-")
            if mark in ("+", "-"):
                (files[-1].added if mark == "+" else files[-1].removed).append(line[1:])
            continue
        # Between hunks: the head of a file, or the head of a hunk.
        if line.startswith("--- "):
            old_path = _path(line)
        if line.startswith("+++ "):
            files.append(FileChange(_path(line) or old_path))
        if header := HUNK_HEADER.match(line):
            old_left, new_left = int(header[2] or 1), int(header[4] or 1)
            files = files or [FileChange("")]
    return files


def describe_patch(patch: str) -> str:
    """One sentence without its full stop: the changed lines if they are few, else their number by file and the first
    names that have another value; empty for a patch without changed lines."""
    files = changes(patch)
    added, removed = sum(len(file.added) for file in files), sum(len(file.removed) for file in files)
    if not added and not removed:
        return ""
    paths = ", ".join(file.path for file in files if file.path)
    if len(files) == 1 and max(added, removed) <= MAX_QUOTES:
        return f"{paths}: {_quote_all(files[0])}" if paths else _quote_all(files[0])
    values = [_quote_change(*pair) for file in files for pair in _changed_values(file)][:MAX_QUOTES]
    examples = f", among them {'; '.join(values)}" if values else ""
    return f"{_lines(added, 'added')} and {_lines(removed, 'taken away')} in {paths or 'the codebase'}{examples}"


def _changed_values(file: FileChange) -> list[tuple[str, str]]:
    """Assignments before and after, of names that are assigned once on either side."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for lines_by_name, lines in ((before, file.removed), (after, file.added)):
        for line in lines:
            if assignment := _ASSIGNMENT.match(line):
                lines_by_name.setdefault(assignment[1], []).append(line)
    pairs = [(before[name], after[name]) for name in before if name in after]
    return [(old[0], new[0]) for old, new in pairs if len(old) == len(new) == 1 and old != new]


def _quote_all(file: FileChange) -> str:
    if len(file.added) == len(file.removed):
        return "; ".join(map(_quote_change, file.removed, file.added))
    quotes = [f"took away “{shorten(line, QUOTE_LENGTH)}”" for line in file.removed]
    return "; ".join([*quotes, *(f"added “{shorten(line, QUOTE_LENGTH)}”" for line in file.added)])


def _quote_change(before: str, after: str) -> str:
    return f"“{shorten(before, QUOTE_LENGTH)}” became “{shorten(after, QUOTE_LENGTH)}”"


def _lines(count: int, verb: str) -> str:
    return f"{count} line{'' if count == 1 else 's'} {verb}"


def _path(header: str) -> str:
    path = header[4:].split("\t")[0].strip().strip('"')
    return "" if path == "/dev/null" else re.sub(r"^[ab]/", "", path)
