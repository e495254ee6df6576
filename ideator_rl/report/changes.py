"""What a patch changes, in figures and in few words: files, lines, and the lines themselves where they are few.

Reads unified diffs as the executor stores them.  Lines are told apart by the counts in hunk headers, since a line that
was taken away may look like a file's head; SEARCH/REPLACE text that was never applied has no figures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_SETTING = re.compile(r"(\s*[A-Za-z_][\w.]*)\s*=(?!=)")
LONGEST = 90
"""Characters of a line that is quoted."""


@dataclass
class FileChange:
    path: str
    added: list[str] = field(default_factory=list)
    """Lines, without their mark."""
    removed: list[str] = field(default_factory=list)


def changes(patch: str) -> list[FileChange]:
    """What each file gained and lost, in the patch's order."""
    found: list[FileChange] = []
    old_left = new_left = 0
    old = ""
    for line in patch.split("\n"):
        if old_left > 0 or new_left > 0:
            mark = line[:1]
            if mark == "\\":
                continue
            old_left, new_left = old_left - (mark != "+"), new_left - (mark != "-")
            if found and mark in ("+", "-"):
                (found[-1].added if mark == "+" else found[-1].removed).append(line[1:])
        elif line.startswith("--- "):
            old = _path(line)
        elif line.startswith("+++ "):
            found.append(FileChange(_path(line) or old))
        elif header := _HUNK.match(line):
            old_left, new_left = int(header[1] or 1), int(header[2] or 1)
            if not found:
                found.append(FileChange(""))
    return found


def in_words(patch: str, most: int = 3) -> str:
    """One sentence: the changed lines themselves if they are at most `most` pairs, else how many in which files, and
    the first `most` names among them that have another value."""
    files = changes(patch)
    added, removed = sum(len(one.added) for one in files), sum(len(one.removed) for one in files)
    if not added and not removed:
        return ""
    where = ", ".join(one.path for one in files if one.path)
    if len(files) == 1 and max(added, removed) <= most:
        return f"{where}: {_quoted(files[0])}" if where else _quoted(files[0])
    values = [_became(*pair) for one in files for pair in _settings(one)][:most]
    among = f", among them {'; '.join(values)}" if values else ""
    return f"{_lines(added, 'added')} and {_lines(removed, 'taken away')} in {where or 'the codebase'}{among}"


def _settings(one: FileChange) -> list[tuple[str, str]]:
    """Lines before and after that give one name its value, of names that have one such line on either side."""
    sides: list[dict[str, list[str]]] = [{}, {}]
    for side, lines in zip(sides, (one.removed, one.added), strict=True):
        for line in lines:
            if name := _SETTING.match(line):
                side.setdefault(name[1], []).append(line)
    before, after = sides
    both = [(before[name], after[name]) for name in before if name in after]
    return [(old[0], new[0]) for old, new in both if len(old) == len(new) == 1 and old != new]


def _quoted(one: FileChange) -> str:
    if len(one.added) == len(one.removed):
        return "; ".join(map(_became, one.removed, one.added))
    parts = [f"took away “{_short(line)}”" for line in one.removed] + [f"added “{_short(line)}”" for line in one.added]
    return "; ".join(parts)


def _became(before: str, after: str) -> str:
    return f"“{_short(before)}” became “{_short(after)}”"


def _lines(count: int, what: str) -> str:
    return f"{count} line{'' if count == 1 else 's'} {what}"


def _short(line: str) -> str:
    flat = " ".join(line.split())
    return flat if len(flat) <= LONGEST else flat[: LONGEST - 1] + "…"


def _path(header: str) -> str:
    name = header[4:].split("\t")[0].strip().strip('"')
    return "" if name == "/dev/null" else re.sub(r"^[ab]/", "", name)
