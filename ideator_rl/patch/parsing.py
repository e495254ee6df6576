"""Parses an answer in prose into file edits: unified diffs, mails, SEARCH/REPLACE blocks, whole files, envelopes.

Guaranteed: lines end at "\\n" only.  The result depends on the text alone; nothing is assumed about the codebase.  A
hunk ends where its counts state.  If these are wrong, it takes every line up to the next header, fence or paragraph
without changes, so that no changed line is dropped silently.
A hunk or block without a path becomes a nameless edit.  Context diffs, ed scripts and encoded mails are refused.
Not covered: code without a path and outside a diff is prose, and ignored.  File modes only serve to refuse links.
"""

from __future__ import annotations

import re

from ideator_rl.patch.blocks import FENCE, SEARCH, closing_fence, fence_path, path_above, read_block
from ideator_rl.patch.edit import FileEdit, Hunk, PatchError, diff_hunk
from ideator_rl.patch.envelope import OPENS, read_envelope
from ideator_rl.patch.paths import diff_git_names, header_name, unquote

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@ ?(.*)")
_BINARY = re.compile(r"(?:GIT binary patch|Binary files .* differ)\s*$")
_REFUSED_MODE = re.compile(r"(?:(?:new|old|new file|deleted file) mode|index [0-9a-f]+\.\.[0-9a-f]+) (120000|160000)\b")
_BLOBS = re.compile(r"index ([0-9a-f]{7,40})\.\.[0-9a-f]{7,40}\b")
_CONTEXT_DIFF = re.compile(r"\*{3} \d+(?:,\d+)? \*{4}\s*$")
_MAIL = re.compile(r"From [0-9a-f]{40} Mon Sep 17 00:00:00 2001\s*$")
_ENCODED = re.compile(r"Content-Transfer-Encoding:\s*(quoted-printable|base64)\s*$", re.I)
_EXTENDED = ("index ", "old mode", "new mode", "similarity ", "dissimilarity ")
_HEADERS = ("--- ", "+++ ", "@@ ", "diff --git ", "<<<<<<< ")


def parse(text: str) -> list[FileEdit]:
    """Read every file edit in a text, in order.

    Raises:
        PatchError: the text is empty, binary, creates a link or submodule, or holds no edit at all.
    """
    if not text.strip():
        raise PatchError("the patch is empty; expected a unified diff, SEARCH/REPLACE blocks or whole files")
    if "\0" in text:
        raise PatchError("the patch holds a NUL character: binary content is not accepted; write text only")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    # Headers show whether the patch itself has CRLF line ends, or only the code in it.
    sample = [line for line in lines if line.startswith(_HEADERS)] or lines[:-1]
    if sample and all(line.endswith("\r") for line in sample):
        lines = [line.removesuffix("\r") for line in lines]
    edits = _Reader(lines).read()
    if not edits:
        raise PatchError(
            "no patch was found in this text; expected a unified diff (---, +++, @@), a path followed by "
            "<<<<<<< SEARCH / ======= / >>>>>>> REPLACE, or a path followed by a fenced file. "
            f"It began: {text.strip()[:80]!r}"
        )
    for edit in edits:
        _check(edit)
    return edits


def _check(edit: FileEdit) -> None:
    """Refuse an edit without a file name, and one without any change: its changes may have been cut off."""
    if not (edit.nameless or edit.old or edit.new) or "" in (edit.old, edit.new):
        raise PatchError("a file header names no file; write --- a/path and +++ b/path")
    if edit.action == "edit" and not edit.hunks:
        raise PatchError(f"{edit.name}: a header without any change below it; the answer may be cut off")
    for hunk in edit.hunks:
        if all(mark == " " for mark, _ in hunk.lines) and edit.action != "whole":
            raise PatchError(f"{edit.name}, {hunk.label}: it adds and removes no line; mark changed lines with + and -")


class _Reader:
    """Reads the lines once, from top to bottom."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0
        """The next line to read."""
        self.edits: list[FileEdit] = []
        self.edit: FileEdit | None = None
        """The edit that a hunk would belong to."""
        self.fenced = False
        """Whether `at` is inside a fence."""
        self.fence_path: str | None = None
        """The path that belongs to the fence around `at`."""
        self.stage = 0
        """Mails so far."""

    def read(self) -> list[FileEdit]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith("diff --git "):
                self._git_header(line)
            elif self._is_file_header(self.at):
                self._file_header()
            elif self._is_half_header(self.at):
                self._half_header()
            elif OPENS.match(line):
                self._envelope()
            elif line.startswith("@@"):
                self._hunk(line)
            elif SEARCH.match(line):
                self._block(line)
            elif fence := FENCE.match(line):
                self._fence(fence)
            elif _MAIL.match(line):
                self._mail()
            else:
                self._refuse_unsupported(line)
                self.at += 1
        return self.edits

    def _add(self, edit: FileEdit) -> None:
        edit.stage = self.stage
        self.edit = edit
        self.edits.append(edit)

    def _mail(self) -> None:
        """Skip the headers of the next mail of a series."""
        self.stage, self.edit, self.at = self.stage + 1, None, self.at + 1
        while self.at < len(self.lines) and self.lines[self.at].strip():
            if _ENCODED.match(self.lines[self.at]):
                encoding = self.lines[self.at].strip()[27:]
                raise PatchError(f"a mail in {encoding} is not read; send its text as it is")
            self.at += 1

    def _refuse_unsupported(self, line: str) -> None:
        name = self.edit.name if self.edit else f"line {self.at + 1}"
        if header := _REFUSED_MODE.match(line):
            file_type = "a symbolic link" if header[1] == "120000" else "a submodule"
            raise PatchError(f"{name}: {file_type} (mode {header[1]}) is refused; regular text files only", "rejected")
        if _CONTEXT_DIFF.match(line):
            raise PatchError(f"{name}: a context diff ({line.strip()!r}) is not read; write a unified diff (diff -u)")
        if _BINARY.match(line):
            raise PatchError(f"{name}: a binary patch is not accepted; write text only")

    def _git_header(self, line: str) -> None:
        edit = FileEdit(None, None)
        edit.take_names(*diff_git_names(line[len("diff --git ") :]))
        self._add(edit)
        self.at += 1
        while self.at < len(self.lines):
            line = self.lines[self.at].rstrip("\r")
            self._refuse_unsupported(line)
            if line.startswith("new file mode"):
                edit.action, edit.old = "create", None
            elif line.startswith("deleted file mode"):
                edit.action, edit.new = "delete", None
            elif line.startswith(("rename from ", "copy from ")):
                edit.action = "rename" if line.startswith("rename") else "copy"
                edit.old, edit.prefix_removed = unquote(line.split(" from ", 1)[1]), True
            elif line.startswith(("rename to ", "copy to ")):
                edit.new, edit.prefix_removed = unquote(line.split(" to ", 1)[1]), True
            elif blobs := _BLOBS.match(line):
                edit.old_blob = blobs[1]
            elif not line.startswith(_EXTENDED):
                break
            self.at += 1
        # The lines --- and +++ belong to the same edit; half of them may be missing.
        if self.at < len(self.lines) and self._is_file_header(self.at):
            self._file_header(edit)
        elif self.at < len(self.lines) and self._is_half_header(self.at) and self._half_name() in (edit.old, edit.new):
            self.at += 1

    def _is_file_header(self, at: int) -> bool:
        pair = self.lines[at : at + 2]
        return len(pair) == 2 and pair[0].startswith("--- ") and pair[1].startswith("+++ ")

    def _file_header(self, git_edit: FileEdit | None = None) -> None:
        """The lines --- and +++; `git_edit` is the edit of the `diff --git` line above them."""
        old, new = header_name(self.lines[self.at]), header_name(self.lines[self.at + 1])
        edit = git_edit or FileEdit(None, None)
        if edit.action not in ("rename", "copy"):
            edit.take_names(old, new)
            edit.action = "create" if old is None else "delete" if new is None else "edit"
        if git_edit is None:
            self._add(edit)
        self.at += 2

    def _is_half_header(self, at: int) -> bool:
        """Whether only one of the two lines of a file header is above a hunk."""
        pair = self.lines[at : at + 2]
        return len(pair) == 2 and pair[0].startswith(("--- ", "+++ ")) and pair[1].startswith("@@")

    def _half_name(self) -> str | None:
        line = self.lines[self.at]
        name = header_name(line)
        if name is None:
            raise PatchError(f"line {self.at + 1}: {line.strip()!r} alone names no file; write --- a/path, +++ b/path")
        return name.removeprefix("a/" if line.startswith("---") else "b/")

    def _half_header(self) -> None:
        name = self._half_name()
        self._add(FileEdit(name, name))
        self.at += 1

    def _hunk(self, line: str) -> None:
        # Without a file header above, the path of the fence or the line above decides; else the edit is nameless.
        if self.edit is None or self.edit.style != "diff":
            path = self.fence_path or path_above(self.lines, self.at)
            self._add(FileEdit(path, path))
        assert self.edit is not None
        if line.startswith("@@@"):
            raise PatchError(f"{self.edit.name}: a combined (merge) diff is not accepted; write a plain unified diff")
        self.at += 1
        label = f"hunk {len(self.edit.hunks) + 1} ({line.strip()[:60]})"
        stated = _HUNK.match(line)
        if stated is None:  # no numbers: the text after @@ is a heading
            body, self.at = self._open_body(self.at, (0, 0))
            self.edit.hunks.append(diff_hunk(body, label, line.strip("@ ")))
            return
        counts = (int(stated[2] or 1), int(stated[4] or 1))
        # Counts are often wrong in a model's diff: then the hunk ends where the text shows it.
        counted = self._counted_body(self.at, counts)
        body, self.at = counted or self._open_body(self.at, counts)
        if counted is None and self.fenced and self.at == len(self.lines):
            raise PatchError(f"{self.edit.name}, {label}: the text ends within it; the answer may be cut off")
        starts = (int(stated[1]), int(stated[3]))
        cut = counted is None and self.at == len(self.lines)
        old_count = counts[0] if cut else None
        self.edit.hunks.append(diff_hunk(body, label, stated[5].strip(), starts, counted is not None, old_count))

    def _counted_body(self, at: int, counts: tuple[int, int]) -> tuple[list[str], int] | None:
        """The lines of a hunk with `counts` (old, new) lines, and the index after them; None if these are wrong."""
        body: list[str] = []
        old, new = counts
        while (old or new) and at < len(self.lines) and self._in_body(at):
            line = self.lines[at]
            old -= line[:1] in ("", " ", "-")
            new -= line[:1] in ("", " ", "+")
            body.append(line)
            at += 1
            if old < 0 or new < 0:
                return None
            at = self._take_end_mark(at, body)
        if old or new:
            return None
        # Right counts end at a blank line, a fence or a header; any other line shows that the hunk goes on.
        after = at
        while self.fenced and after < len(self.lines) and self.lines[after] == "":
            after += 1
        ends = after == len(self.lines) or self.lines[after] == "" or FENCE.match(self.lines[after])
        return (body, at) if ends or self._is_end(after) or self._is_half_header(after) else None

    def _open_body(self, at: int, counts: tuple[int, int]) -> tuple[list[str], int]:
        """The lines of a hunk whose counts are wrong, and the index after them.

        It ends at a header, a fence or a paragraph of prose.  Prose counts only outside fences, with no change below,
        after a hunk that is no shorter than its counts state.
        """
        body: list[str] = []
        old, new = counts
        end = next((i for i in range(at, len(self.lines)) if self._is_end(i)), len(self.lines))
        last_change = max((i for i in range(at, end) if self.lines[i][:1] in ("+", "-")), default=-1)
        while at < end:
            line = self.lines[at]
            if not self._in_body(at):
                new_paragraph = bool(body) and body[-1] == "" and not self.fenced
                if new_paragraph and old <= 0 and new <= 0 and at > last_change:
                    break
                line = " " + line  # a context line that lost its mark
            old -= line[:1] in ("", " ", "-")
            new -= line[:1] in ("", " ", "+")
            body.append(line)
            at = self._take_end_mark(at + 1, body)
        while body and not body[-1].strip():
            body.pop()
        return body, at

    def _take_end_mark(self, at: int, body: list[str]) -> int:
        r"""Append a line such as `\ No newline at end of file`; the index after it."""
        if at < len(self.lines) and self.lines[at].startswith("\\"):
            body.append(self.lines[at])
            return at + 1
        return at

    def _in_body(self, at: int) -> bool:
        line = self.lines[at]
        return line == "" or (line[0] in " +-" and not self._is_full_header(at))

    def _is_full_header(self, at: int) -> bool:
        """Whether --- and +++ have @@ below; without it, they may be a removed "-- a" and an added "++ b"."""
        return self._is_file_header(at) and at + 2 < len(self.lines) and self.lines[at + 2].startswith("@@")

    def _is_end(self, at: int) -> bool:
        """Whether a hunk must end here: at a header, a block, a fence, or the signature of git format-patch."""
        line = self.lines[at]
        if line.startswith(("@@", "diff ", "Index: ", "Only in ")) or self._is_full_header(at):
            return True
        if SEARCH.match(line) or OPENS.match(line) or _MAIL.match(line):
            return True
        # A fence with marked lines below it is part of the code, such as one in a docstring.
        if FENCE.match(line):
            return not (at + 1 < len(self.lines) and self.lines[at + 1][:1] in (" ", "+", "-"))
        return line.rstrip() == "--" and (at + 3 >= len(self.lines) or any(map(_MAIL.match, self.lines[at : at + 5])))

    def _block(self, line: str) -> None:
        path = path_above(self.lines, self.at) or self.fence_path
        previous = self.edit if self.edit is not None and self.edit.style == "blocks" else None
        # A block without a path belongs to the file of the block before it.
        if path is None and previous is not None:
            path = previous.new
        if previous is None or previous.new != path:
            self._add(FileEdit(path, path, style="blocks"))
        assert self.edit is not None
        hunk, self.at = read_block(self.lines, self.at, path or "(no file)")
        self.edit.hunks.append(hunk)

    def _envelope(self) -> None:
        edits, self.at = read_envelope(self.lines, self.at)
        for edit in edits:
            self._add(edit)
        self.edit = None

    def _fence(self, fence: re.Match[str]) -> None:
        """Skip the line of a fence; or read the whole file in it, if a path belongs to the fence."""
        path = path_above(self.lines, self.at) or fence_path(self.lines[self.at])
        self.fenced = not self.fenced
        self.at += 1
        self.fence_path = path if self.fenced else None
        # Hunks in a fence of their own do not belong to the file of the fence before.
        if self.fenced and self.edit is not None and self.edit.style == "diff" and self.edit.hunks:
            self.edit = None
        if path is None or not self.fenced or fence[3].strip() in ("diff", "patch"):
            return
        close = closing_fence(self.lines, self.at, fence)
        content = self.lines[self.at : close]
        # A fence that holds a patch is read line by line, as if it were not there.
        first = next((i for i in range(len(content)) if content[i].strip()), 0) + self.at
        if self._begins_patch(first) or any(SEARCH.match(text) for text in content):
            return
        if close is None:
            raise PatchError(f"{path}: the fenced file at line {self.at} is never closed; the answer may be cut off")
        added = tuple(("+", line) for line in content)
        self._add(FileEdit(path, path, "whole", hunks=[Hunk(added, "whole file")]))
        self.edit, self.fenced, self.fence_path, self.at = None, False, None, close + 1

    def _begins_patch(self, at: int) -> bool:
        if at >= len(self.lines):
            return False
        line = self.lines[at]
        return line.startswith(_HEADERS) or OPENS.match(line) is not None
