"""From an answer in prose to parsed file edits: git and plain unified diffs, also in mails, SEARCH/REPLACE blocks,
whole files, envelopes.

Guaranteed: lines end at "\\n" only; what is parsed is what stands in the text, nothing is guessed about the
codebase here.  A hunk ends where its counts say; where these are wrong, it takes in every line up to the next
header, fence or paragraph without changes, so that no changed line is dropped in silence.
A hunk or block under no path comes out nameless; context diffs, ed scripts and encoded mails are refused.
Not guaranteed: code under no path and in no diff is prose and ignored.  File modes only serve to refuse links.
"""

from __future__ import annotations

import re

from ideator_rl.patch.blocks import FENCE, SEARCH, closing_fence, fence_path, path_above, read_block
from ideator_rl.patch.edit import FileEdit, Hunk, PatchError, diff_hunk
from ideator_rl.patch.envelope import OPENS, read_envelope
from ideator_rl.patch.paths import diff_git_names, header_name, unquote

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@ ?(.*)")
_BINARY = re.compile(r"(?:GIT binary patch|Binary files .* differ)\s*$")
_ODD_MODE = re.compile(r"(?:(?:new|old|new file|deleted file) mode|index [0-9a-f]+\.\.[0-9a-f]+) (120000|160000)\b")
_CONTEXT_DIFF = re.compile(r"\*{3} \d+(?:,\d+)? \*{4}\s*$")
_MAIL = re.compile(r"From [0-9a-f]{40} Mon Sep 17 00:00:00 2001\s*$")
_ENCODED = re.compile(r"Content-Transfer-Encoding:\s*(quoted-printable|base64)\s*$", re.I)
_EXTENDED = ("index ", "old mode", "new mode", "similarity ", "dissimilarity ")
_HEADERS = ("--- ", "+++ ", "@@ ", "diff --git ", "<<<<<<< ")


def parse(text: str) -> list[FileEdit]:
    """Read every file edit in a text, in order.

    Raises:
        PatchError: the text is empty, binary, asks for a link or submodule, or holds no edit at all.
    """
    if not text.strip():
        raise PatchError("the patch is empty; expected a unified diff, SEARCH/REPLACE blocks or whole files")
    if "\0" in text:
        raise PatchError("the patch holds a NUL character: binary content is not accepted; write text only")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    telling = [line for line in lines if line.startswith(_HEADERS)] or lines[:-1]
    if telling and all(line.endswith("\r") for line in telling):
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
    """Refuse what names no file, and any part that would come to nothing: its changes were lost on the way."""
    if not (edit.nameless or edit.old or edit.new) or "" in (edit.old, edit.new):
        raise PatchError("a file header names no file; write --- a/path and +++ b/path")
    if edit.action == "edit" and not edit.hunks:
        raise PatchError(f"{edit.name}: a header without any change below it; the answer may be cut off")
    for hunk in edit.hunks:
        if all(mark == " " for mark, _ in hunk.lines) and edit.action != "whole":
            raise PatchError(f"{edit.name}, {hunk.label}: it adds and removes no line; mark changed lines with + and -")


class _Reader:
    """Walks the lines once: `at` is the next line to read, `edit` the file that a hunk would belong to."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0
        self.edits: list[FileEdit] = []
        self.edit: FileEdit | None = None
        self.fenced = False
        self.heading: str | None = None
        self.stage = 0

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
                self._refuse_odd(line)
                self.at += 1
        return self.edits

    def _open(self, edit: FileEdit) -> None:
        edit.stage = self.stage
        self.edit = edit
        self.edits.append(edit)

    def _mail(self) -> None:
        """The next mail of a series, up to the end of its headers."""
        self.stage, self.edit, self.at = self.stage + 1, None, self.at + 1
        while self.at < len(self.lines) and self.lines[self.at].strip():
            if _ENCODED.match(self.lines[self.at]):
                raise PatchError(f"a mail in {self.lines[self.at].strip()[27:]} is not read; send its text as it is")
            self.at += 1

    def _refuse_odd(self, line: str) -> None:
        name = self.edit.name if self.edit else f"line {self.at + 1}"
        if found := _ODD_MODE.match(line):
            what = "a symbolic link" if found[1] == "120000" else "a submodule"
            raise PatchError(f"{name}: {what} (mode {found[1]}) is refused; regular text files only", "rejected")
        if _CONTEXT_DIFF.match(line):
            raise PatchError(f"{name}: a context diff ({line.strip()!r}) is not read; write a unified diff (diff -u)")
        if _BINARY.match(line):
            raise PatchError(f"{name}: a binary patch is not accepted; write text only")

    def _git_header(self, line: str) -> None:
        edit = FileEdit(None, None)
        edit.take_names(*diff_git_names(line[len("diff --git ") :]))
        self._open(edit)
        self.at += 1
        while self.at < len(self.lines):
            line = self.lines[self.at].rstrip("\r")
            self._refuse_odd(line)
            if line.startswith("new file mode"):
                edit.action, edit.old = "create", None
            elif line.startswith("deleted file mode"):
                edit.action, edit.new = "delete", None
            elif line.startswith(("rename from ", "copy from ")):
                edit.action = "rename" if line.startswith("rename") else "copy"
                edit.old, edit.plain = unquote(line.split(" from ", 1)[1]), True
            elif line.startswith(("rename to ", "copy to ")):
                edit.new, edit.plain = unquote(line.split(" to ", 1)[1]), True
            elif not line.startswith(_EXTENDED):
                break
            self.at += 1
        if self.at < len(self.lines) and self._is_file_header(self.at):
            self._file_header(edit)
        elif self.at < len(self.lines) and self._is_half_header(self.at) and self._half_name() in (edit.old, edit.new):
            self.at += 1

    def _is_file_header(self, at: int) -> bool:
        pair = self.lines[at : at + 2]
        return len(pair) == 2 and pair[0].startswith("--- ") and pair[1].startswith("+++ ")

    def _file_header(self, below: FileEdit | None = None) -> None:
        old, new = header_name(self.lines[self.at]), header_name(self.lines[self.at + 1])
        edit = below or FileEdit(None, None)
        if edit.action not in ("rename", "copy"):
            edit.take_names(old, new)
            edit.action = "create" if old is None else "delete" if new is None else "edit"
        if below is None:
            self._open(edit)
        self.at += 2

    def _is_half_header(self, at: int) -> bool:
        """One of the two lines of a file header alone."""
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
        self._open(FileEdit(name, name))
        self.at += 1

    def _hunk(self, line: str) -> None:
        if self.edit is None or self.edit.style != "diff":
            path = self.heading or path_above(self.lines, self.at)
            self._open(FileEdit(path, path))
        assert self.edit is not None
        if line.startswith("@@@"):
            raise PatchError(f"{self.edit.name}: a combined (merge) diff is not accepted; write a plain unified diff")
        self.at += 1
        label = f"hunk {len(self.edit.hunks) + 1} ({line.strip()[:60]})"
        stated = _HUNK.match(line)
        if stated is None:
            body, self.at = self._open_body(self.at, (0, 0))
            self.edit.hunks.append(diff_hunk(body, label, line.strip("@ ")))
            return
        counts = (int(stated[2] or 1), int(stated[4] or 1))
        exact = self._counted_body(self.at, counts)
        body, self.at = exact or self._open_body(self.at, counts)
        if exact is None and self.fenced and self.at == len(self.lines):
            raise PatchError(f"{self.edit.name}, {label}: the text ends within it; the answer may be cut off")
        numbers = (int(stated[1]), int(stated[3]))
        self.edit.hunks.append(diff_hunk(body, label, stated[5].strip(), numbers, exact is not None))

    def _counted_body(self, at: int, counts: tuple[int, int]) -> tuple[list[str], int] | None:
        """The lines of a hunk of `counts` (old, new) lines and where they end; None where the counts do not fit."""
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
            at = self._take_cut(at, body)
        if old or new:
            return None
        after = at
        while self.fenced and after < len(self.lines) and self.lines[after] == "":
            after += 1
        ends = after == len(self.lines) or self.lines[after] == "" or FENCE.match(self.lines[after])
        return (body, at) if ends or self._is_end(after) or self._is_half_header(after) else None

    def _open_body(self, at: int, counts: tuple[int, int]) -> tuple[list[str], int]:
        """The lines of a hunk whose counts do not fit, and where they end: at a header, a fence, or a paragraph
        of prose: outside fences, with no change below it, after a hunk no shorter than its counts say."""
        body: list[str] = []
        old, new = counts
        end = next((i for i in range(at, len(self.lines)) if self._is_end(i)), len(self.lines))
        last_change = max((i for i in range(at, end) if self.lines[i][:1] in ("+", "-")), default=-1)
        while at < end:
            line = self.lines[at]
            if not self._in_body(at):
                apart = bool(body) and body[-1] == "" and not self.fenced
                if apart and old <= 0 and new <= 0 and at > last_change:
                    break
                line = " " + line
            old -= line[:1] in ("", " ", "-")
            new -= line[:1] in ("", " ", "+")
            body.append(line)
            at = self._take_cut(at + 1, body)
        while body and not body[-1].strip():
            body.pop()
        return body, at

    def _take_cut(self, at: int, body: list[str]) -> int:
        if at < len(self.lines) and self.lines[at].startswith("\\"):
            body.append(self.lines[at])
            return at + 1
        return at

    def _in_body(self, at: int) -> bool:
        line = self.lines[at]
        return line == "" or (line[0] in " +-" and not self._is_full_header(at))

    def _is_full_header(self, at: int) -> bool:
        """A removed "-- a" and an added "++ b" look like a file header; with @@ below they are one."""
        return self._is_file_header(at) and at + 2 < len(self.lines) and self.lines[at + 2].startswith("@@")

    def _is_end(self, at: int) -> bool:
        """No hunk goes on here: a header, a block, a fence, or the signature of git format-patch."""
        line = self.lines[at]
        if line.startswith(("@@", "diff ", "Index: ", "Only in ")) or self._is_full_header(at):
            return True
        if SEARCH.match(line) or OPENS.match(line) or _MAIL.match(line):
            return True
        if FENCE.match(line):
            return not (at + 1 < len(self.lines) and self.lines[at + 1][:1] in (" ", "+", "-"))
        return line.rstrip() == "--" and (at + 3 >= len(self.lines) or any(map(_MAIL.match, self.lines[at : at + 5])))

    def _block(self, line: str) -> None:
        path = path_above(self.lines, self.at) or self.heading
        blocks = self.edit is not None and self.edit.style == "blocks"
        if path is None and blocks:
            path = self.edit.new  # type: ignore[union-attr]
        if not blocks or self.edit is None or self.edit.new != path:
            self._open(FileEdit(path, path, style="blocks"))
        assert self.edit is not None
        hunk, self.at = read_block(self.lines, self.at, path or "(no file)")
        self.edit.hunks.append(hunk)

    def _envelope(self) -> None:
        edits, self.at = read_envelope(self.lines, self.at)
        for edit in edits:
            self._open(edit)
        self.edit = None

    def _fence(self, fence: re.Match[str]) -> None:
        """Step over a fence, or take in the whole file that stands in it below a path of its own."""
        path = path_above(self.lines, self.at) or fence_path(self.lines[self.at])
        self.fenced = not self.fenced
        self.at += 1
        self.heading = path if self.fenced else None
        if self.fenced and self.edit is not None and self.edit.style == "diff" and self.edit.hunks:
            self.edit = None
        if path is None or not self.fenced or fence[3].strip() in ("diff", "patch"):
            return
        close = closing_fence(self.lines, self.at, fence)
        content = self.lines[self.at : close]
        first = next((i for i in range(len(content)) if content[i].strip()), 0) + self.at
        if self._holds_patch(first) or any(SEARCH.match(text) for text in content):
            return
        if close is None:
            raise PatchError(f"{path}: the fenced file at line {self.at} is never closed; the answer may be cut off")
        whole = tuple(("+", line) for line in content)
        self._open(FileEdit(path, path, "whole", hunks=[Hunk(whole, "whole file")]))
        self.edit, self.fenced, self.heading, self.at = None, False, None, close + 1

    def _holds_patch(self, at: int) -> bool:
        if at >= len(self.lines):
            return False
        line = self.lines[at]
        return line.startswith(_HEADERS) or OPENS.match(line) is not None
