"""The form `*** Begin Patch`, `*** Update File: path`, `@@ heading`, … `*** End Patch`, which some models answer in.

Its hunks have no line numbers: the text after @@ is a heading, and `*** End of File` marks a hunk that reaches the
end.  An envelope that is opened must be closed.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ideator_rl.patch.edit import FileEdit, Hunk, PatchError, diff_hunk

OPENS = re.compile(r"\*\*\* (?:Begin Patch|(?:Update|Add|Delete) File: .*)\s*$")
_FILE = re.compile(r"\*\*\* (Update|Add|Delete) File: (.*?)\s*$")
_MOVE = re.compile(r"\*\*\* Move to: (.*?)\s*$")


def read_envelope(lines: list[str], at: int) -> tuple[list[FileEdit], int]:
    """The file edits of the envelope that opens at index `at`, and the index after it.

    Raises:
        PatchError: the envelope is not closed, or a line in it belongs to no file.
    """
    first_line = at + 1
    edits: list[FileEdit] = []
    has_begin = lines[at].startswith("*** Begin Patch")
    at = _skip_blanks(lines, at + has_begin)
    while at < len(lines) and (header := _FILE.match(lines[at])):
        end = next((i for i in range(at + 1, len(lines)) if _ends_file(lines[i], has_begin)), len(lines))
        edits.append(_file_edit(header[1], header[2].strip("`"), lines[at + 1 : end]))
        at = _skip_blanks(lines, end)
    closed = at < len(lines) and lines[at].startswith("*** End Patch")
    if has_begin and not closed:
        obstacle = f"{lines[at].strip()[:80]!r} follows" if at < len(lines) else "the text ends"
        raise PatchError(
            f"line {first_line}: after *** Begin Patch, {obstacle}, where *** Update File, Add File, Delete File or "
            "*** End Patch was expected; the answer may be cut off"
        )
    return edits, at + closed


def _skip_blanks(lines: list[str], at: int) -> int:
    while at < len(lines) and not lines[at].strip():
        at += 1
    return at


def _ends_file(line: str, has_begin: bool) -> bool:
    if _FILE.match(line) or line.startswith("*** End Patch"):
        return True
    # Without *** Begin Patch there is no closing line: any prose ends the file.
    return not has_begin and line[:1] not in ("", " ", "+", "-") and not line.startswith(("@@", "*** "))


def _file_edit(verb: str, path: str, body: list[str]) -> FileEdit:
    while body and not body[-1].strip():
        body = body[:-1]
    if verb == "Delete":
        if body:
            raise PatchError(f"{path}: *** Delete File needs no lines, but {body[0][:80]!r} follows")
        return FileEdit(path, None, "delete", prefix_removed=True)
    if verb == "Add":
        unmarked = next((line for line in body if not line.startswith("+")), None)
        if unmarked is not None:
            raise PatchError(f"{path}: each line of a file to add begins with +, but {unmarked[:80]!r} does not")
        return FileEdit(None, path, "create", hunks=[diff_hunk(body, "new file", "")], prefix_removed=True)
    move = _MOVE.match(body[0]) if body else None
    edit = FileEdit(path, path, prefix_removed=True, hunks=_hunks(path, body[1:] if move else body))
    if move:
        edit.action, edit.new = "rename", move[1]
    return edit


def _hunks(path: str, body: list[str]) -> list[Hunk]:
    hunks: list[Hunk] = []
    heading, rows, at_end = "", list[str](), False

    def close_hunk() -> None:
        while rows and not rows[-1].strip():
            rows.pop()
        if rows:
            label = f"hunk {len(hunks) + 1}" + (f" (@@ {heading[:60]})" if heading else "")
            hunks.append(replace(diff_hunk(rows, label, heading), at_end=at_end))
        rows.clear()

    for line in [*body, "@@"]:  # the last one closes the last hunk
        if line.startswith("@@"):
            close_hunk()
            heading, at_end = line.strip("@ "), False
        elif line.rstrip() == "*** End of File":
            at_end = True
        elif line.startswith("*** "):
            raise PatchError(f"{path}: {line[:80]!r} is not known here; close a file with the next *** Update File")
        else:
            rows.append(line if line[:1] in ("", " ", "+", "-") else " " + line)
    return hunks
