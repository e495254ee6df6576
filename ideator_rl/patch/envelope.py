"""The form `*** Begin Patch`, `*** Update File: path`, `@@ heading`, … `*** End Patch`, in which some models answer.

Its hunks carry no line numbers: a line after @@ is the heading of the place, and `*** End of File` says that a hunk
reaches the end.  An envelope that is opened must be closed.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ideator_rl.patch.edit import FileEdit, Hunk, PatchError, diff_hunk

OPENS = re.compile(r"\*\*\* (?:Begin Patch|(?:Update|Add|Delete) File: .*)\s*$")
_FILE = re.compile(r"\*\*\* (Update|Add|Delete) File: (.*?)\s*$")
_MOVE = re.compile(r"\*\*\* Move to: (.*?)\s*$")


def read_envelope(lines: list[str], at: int) -> tuple[list[FileEdit], int]:
    """The file edits of the envelope that opens at index `at`, and the index behind it.

    Raises:
        PatchError: it is not closed, or a line in it belongs to no file.
    """
    opened, edits = at, []
    begun = lines[at].startswith("*** Begin Patch")
    at = _past_blanks(lines, at + begun)
    while at < len(lines) and (found := _FILE.match(lines[at])):
        end = next((i for i in range(at + 1, len(lines)) if _ends(lines[i], begun)), len(lines))
        edits.append(_edit(found[1], found[2].strip("`"), lines[at + 1 : end]))
        at = _past_blanks(lines, end)
    closed = at < len(lines) and lines[at].startswith("*** End Patch")
    if begun and not closed:
        what = f"{lines[at].strip()[:80]!r} stands there" if at < len(lines) else "the text ends"
        raise PatchError(
            f"line {opened + 1}: after *** Begin Patch, {what}, where *** Update File, Add File, Delete File or "
            "*** End Patch was expected; the answer may be cut off"
        )
    return edits, at + closed


def _past_blanks(lines: list[str], at: int) -> int:
    while at < len(lines) and not lines[at].strip():
        at += 1
    return at


def _ends(line: str, begun: bool) -> bool:
    if _FILE.match(line) or line.startswith("*** End Patch"):
        return True
    return not begun and line[:1] not in ("", " ", "+", "-") and not line.startswith(("@@", "*** "))


def _edit(verb: str, path: str, body: list[str]) -> FileEdit:
    while body and not body[-1].strip():
        body = body[:-1]
    if verb == "Delete":
        if body:
            raise PatchError(f"{path}: *** Delete File needs no lines, but {body[0][:80]!r} follows")
        return FileEdit(path, None, "delete", plain=True)
    if verb == "Add":
        stray = next((line for line in body if not line.startswith("+")), None)
        if stray is not None:
            raise PatchError(f"{path}: each line of a file to add begins with +, but {stray[:80]!r} does not")
        return FileEdit(None, path, "create", hunks=[diff_hunk(body, "new file", "")], plain=True)
    moved = _MOVE.match(body[0]) if body else None
    edit = FileEdit(path, path, plain=True, hunks=_hunks(path, body[1:] if moved else body))
    if moved:
        edit.action, edit.new = "rename", moved[1]
    return edit


def _hunks(path: str, body: list[str]) -> list[Hunk]:
    hunks: list[Hunk] = []
    heading, rows, at_end = "", list[str](), False

    def close() -> None:
        while rows and not rows[-1].strip():
            rows.pop()
        if rows:
            label = f"hunk {len(hunks) + 1}" + (f" (@@ {heading[:60]})" if heading else "")
            hunks.append(replace(diff_hunk(rows, label, heading), at_end=at_end))
        rows.clear()

    for line in [*body, "@@"]:
        if line.startswith("@@"):
            close()
            heading, at_end = line.strip("@ "), False
        elif line.rstrip() == "*** End of File":
            at_end = True
        elif line.startswith("*** "):
            raise PatchError(f"{path}: {line[:80]!r} is not known here; close a file with the next *** Update File")
        else:
            rows.append(line if line[:1] in ("", " ", "+", "-") else " " + line)
    return hunks
