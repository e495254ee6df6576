"""From an answer in prose to parsed file edits: git and plain unified diffs, SEARCH/REPLACE blocks, whole files.

What is guaranteed: text is split at "\\n" only; a hunk's own lines decide where it ends whenever its counts are
wrong; what is parsed is what stands in the text, nothing is guessed about the codebase here (`patch_apply` does
that, with the files at hand).  What is not: code that stands under no path and inside no diff is prose and ignored.
File modes are read only to refuse symbolic links and submodules.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Literal

from ideator_rl.errors import IdeatorError

Kind = Literal["unpatchable", "rejected"]


class PatchError(IdeatorError):
    """No tree comes out of this patch.  The message is written for a person and for the model that revises it.

    `kind` is "unpatchable" (it does not parse or does not fit the files) or "rejected" (it fits, and breaks a rule).
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
    """Stated first line in the old file, counted from 1; None where nothing believable was stated."""
    heading: str = ""
    """Text after the second @@: the function or class the hunk says it stands in."""
    marked: bool = True
    """Lines carried diff marks, so a context line may have lost its leading space."""
    old_cut: bool = False
    new_cut: bool = False
    """The old / new file is said to end here without a newline."""

    @property
    def old(self) -> list[str]:
        return [text for mark, text in self.lines if mark != "+"]

    @property
    def new(self) -> list[str]:
        return [text for mark, text in self.lines if mark != "-"]


@dataclass
class FileEdit:
    """What the text asks of one file.  Paths are unquoted; None is /dev/null."""

    old: str | None
    new: str | None
    action: Literal["edit", "create", "delete", "rename", "copy", "whole"] = "edit"
    style: Literal["diff", "blocks"] = "diff"
    hunks: list[Hunk] = field(default_factory=list)
    plain: bool = False
    """The paths carried git's a/ and b/ for certain, and these are taken off already."""

    def take_prefixes(self, old: str | None, new: str | None) -> None:
        """Set the paths; without a/ and b/ where both sides carry them, or one does under a git header that did."""
        pair = (old is None or old.startswith("a/"), new is None or new.startswith("b/"))
        self.plain = all(pair) and (self.plain or None not in (old, new))
        self.old = old[2:] if old and self.plain else old
        self.new = new[2:] if new and self.plain else new

    @property
    def name(self) -> str:
        return self.new or self.old or "(no file)"


_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)")
_SEARCH = re.compile(r"(<{5,9}) ?SEARCH:?\s*$")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})([^`]*)$")
_PATH = re.compile(r"[\w.+@-]+(?:/[\w.+@-]+)*/?\.?\w+")
_BINARY = re.compile(r"GIT binary patch$|Binary files .* differ$")
_ODD_MODE = re.compile(r"(?:(?:new|old|new file|deleted file) mode|index [0-9a-f]+\.\.[0-9a-f]+) (120000|160000)\b")
_ESCAPES = {"n": 10, "t": 9, "r": 13, '"': 34, "\\": 92, "a": 7, "b": 8, "f": 12, "v": 11}


def parse(text: str) -> list[FileEdit]:
    """Read every file edit in a text, in order.

    Raises:
        PatchError: the text is empty, binary, asks for a link or submodule, or holds no edit at all.
    """
    if not text.strip():
        raise PatchError("the patch is empty; expected a unified diff, SEARCH/REPLACE blocks or whole files")
    if "\0" in text:
        raise PatchError("the patch holds a NUL character: binary content is not accepted, write text only")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    headers = [line for line in lines if line.startswith(("--- ", "+++ ", "@@ ", "diff --git ", "<<<<<<< "))]
    if headers and all(line.endswith("\r") for line in headers):
        lines = [line.removesuffix("\r") for line in lines]
    edits = _Reader(lines).read()
    if not edits:
        raise PatchError(
            "no patch was found in this text; expected a unified diff (---, +++, @@), a path followed by "
            f"<<<<<<< SEARCH / ======= / >>>>>>> REPLACE, or a path followed by a fenced file. It began: {text[:80]!r}"
        )
    return edits


class _Reader:
    """Walks the lines once; `at` is the next line to read, `edit` the file that a hunk would belong to."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0
        self.edits: list[FileEdit] = []
        self.edit: FileEdit | None = None

    def read(self) -> list[FileEdit]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith("diff --git "):
                self._git_header(line)
            elif self._is_file_header(self.at):
                self._file_header()
            elif line.startswith("@@"):
                self._hunk(line)
            elif _SEARCH.match(line):
                self._block(line)
            elif _FENCE.match(line) and (path := path_line(self.lines[self.at - 1] if self.at else "")):
                self._fenced_file(path)
            else:
                self.at += 1
        return self.edits

    def _open(self, edit: FileEdit) -> None:
        self.edit = edit
        self.edits.append(edit)

    def _git_header(self, line: str) -> None:
        old, new = _git_names(line[len("diff --git ") :])
        edit = FileEdit(None, None)
        edit.take_prefixes(old, new)
        self._open(edit)
        self.at += 1
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if found := _ODD_MODE.match(line):
                what = "a symbolic link" if found[1] == "120000" else "a submodule"
                raise PatchError(f"{edit.name}: {what} (mode {found[1]}) is not accepted; regular text files only", "rejected")
            if _BINARY.match(line):
                raise PatchError(f"{edit.name}: a binary patch is not accepted; write text only")
            if line.startswith("new file mode"):
                edit.action, edit.old = "create", None
            elif line.startswith("deleted file mode"):
                edit.action, edit.new = "delete", None
            elif line.startswith(("rename from ", "copy from ")):
                edit.action = "rename" if line.startswith("rename") else "copy"
                edit.old, edit.plain = _unquote(line.split(" from ", 1)[1]), True
            elif line.startswith(("rename to ", "copy to ")):
                edit.new, edit.plain = _unquote(line.split(" to ", 1)[1]), True
            elif not line.startswith(("index ", "old mode", "new mode", "similarity ", "dissimilarity ")):
                return
            self.at += 1

    def _is_file_header(self, at: int) -> bool:
        pair = self.lines[at : at + 2]
        return len(pair) == 2 and pair[0].startswith("--- ") and pair[1].startswith("+++ ")

    def _file_header(self) -> None:
        old, new = _header_name(self.lines[self.at]), _header_name(self.lines[self.at + 1])
        fresh = self.edit is None or self.edit.hunks or self.edit.style != "diff" or not self._after_git_header()
        edit = FileEdit(None, None) if fresh or self.edit is None else self.edit
        if edit.action not in ("rename", "copy"):
            edit.take_prefixes(old, new)
            edit.action = "create" if old is None else "delete" if new is None else "edit"
        if edit is not self.edit:
            self._open(edit)
        self.at += 2

    def _after_git_header(self) -> bool:
        starts = ("diff --git ", "index ", "old mode", "new ", "deleted ", "similarity ", "dissim", "rename ", "copy ")
        return self.at > 0 and self.lines[self.at - 1].startswith(starts)

    def _hunk(self, line: str) -> None:
        if self.edit is None or self.edit.style != "diff":
            raise PatchError(f"line {self.at + 1}: {line!r} comes before any file header; write --- a/path and +++ b/path first")
        self.at += 1
        stated = _HUNK.match(line)
        number = len(self.edit.hunks) + 1
        if stated is None:
            body, at = self._body(self.at, None)
            start, heading = None, line.strip("@ ")
        else:
            counts = [1 if stated[i] is None else int(stated[i]) for i in (2, 4)]
            strict = self._body(self.at, (counts[0], counts[1]))
            body, at = strict if strict[1] >= 0 else self._body(self.at, None)
            start, heading = int(stated[1]), stated[5].strip()
        self.at = at
        self.edit.hunks.append(_make_hunk(body, f"hunk {number} ({line.strip()[:60]})", start, heading))

    def _body(self, at: int, counts: tuple[int, int] | None) -> tuple[list[str], int]:
        """Lines of one hunk and where it ends; -1 where `counts` (old, new) do not fit what stands there."""
        body: list[str] = []
        left = list(counts) if counts else [0, 0]
        while at < len(self.lines) and not (counts and left == [0, 0]):
            line = self.lines[at]
            if not self._in_body(at) or (not counts and self._is_signature(at)):
                break
            left[0] -= line[:1] in ("", " ", "-")
            left[1] -= line[:1] in ("", " ", "+")
            if counts and min(left) < 0:
                break
            body.append(line)
            at += 1
            if at < len(self.lines) and self.lines[at].startswith("\\"):
                body.append(self.lines[at])
                at += 1
        if counts:
            more = at < len(self.lines) and self.lines[at] != "" and self._in_body(at) and not self._is_signature(at)
            return (body, at) if left == [0, 0] and not more else (body, -1)
        while body and not body[-1].strip():
            body.pop()
        return body, at

    def _in_body(self, at: int) -> bool:
        line = self.lines[at]
        if line == "":
            return True
        below = self.lines[at + 2] if at + 2 < len(self.lines) else ""
        return line[0] in " +-" and not (self._is_file_header(at) and below.startswith("@@"))

    def _is_signature(self, at: int) -> bool:
        """The end that git format-patch writes: "-- " and git's version."""
        return self.lines[at].rstrip() == "--" and at + 3 >= len(self.lines)

    def _block(self, line: str) -> None:
        found = _SEARCH.match(line)
        assert found is not None
        size, opened = len(found[1]), self.at
        path = self._path_before(opened)
        if path is None and self.edit is not None and self.edit.style == "blocks":
            path = self.edit.new
        if path is None:
            raise PatchError(f"line {opened + 1}: a SEARCH block names no file; write its path on the line before")
        end = next((i for i in range(opened + 1, len(self.lines))
                    if re.fullmatch(rf">{{{size}}} ?REPLACE\s*", self.lines[i])), None)
        if end is None:
            raise PatchError(f"{path}: the SEARCH block at line {opened + 1} has no closing {'>' * size} REPLACE line")
        inside = self.lines[opened + 1 : end]
        cuts = [i for i, text in enumerate(inside) if text.rstrip() == "=" * size]
        if len(cuts) != 1 or any(_SEARCH.match(text) for text in inside):
            raise PatchError(
                f"{path}: the SEARCH block at line {opened + 1} has {len(cuts)} lines {'=' * size}, expected exactly one "
                "between SEARCH and REPLACE; where the code itself holds such a line, write a unified diff"
            )
        if self.edit is None or self.edit.style != "blocks" or self.edit.new != path:
            self._open(FileEdit(path, path, style="blocks"))
        assert self.edit is not None
        label = f"SEARCH block {len(self.edit.hunks) + 1}"
        marked = tuple(_align(inside[: cuts[0]], inside[cuts[0] + 1 :]))
        self.edit.hunks.append(Hunk(marked, label, marked=False))
        self.at = end + 1

    def _path_before(self, at: int) -> str | None:
        before = self.lines[max(0, at - 3) : at]
        while before and (not before[-1].strip() or _FENCE.match(before[-1])):
            before.pop()
        return path_line(before[-1]) if before else None

    def _fenced_file(self, path: str) -> None:
        fence = _FENCE.match(self.lines[self.at])
        assert fence is not None
        first = self.lines[self.at + 1] if self.at + 1 < len(self.lines) else ""
        if first.startswith(("--- ", "diff --git ", "@@")) or _SEARCH.match(first) or fence[2].strip() in ("diff", "patch"):
            self.at += 1
            return
        close = next((i for i in range(self.at + 1, len(self.lines)) if self.lines[i].strip() == fence[1]), None)
        if close is None:
            raise PatchError(f"{path}: the fenced file at line {self.at + 1} is never closed; the answer may be cut off")
        content = self.lines[self.at + 1 : close]
        self._open(FileEdit(path, path, "whole", hunks=[Hunk(tuple(("+", line) for line in content), "whole file")]))
        self.edit = None
        self.at = close + 1


def path_line(line: str) -> str | None:
    """The path, where a line holds a path and nothing else but decoration (`**`, backticks, "File:", ":")."""
    bare = re.sub(r"^(?:#+\s*)?(?:[Ff]ile(?:name)?:\s*)?", "", line.strip().strip("*").strip())
    bare = bare.strip("*").rstrip(":").strip("*`'\" ")
    return bare if ("." in bare or "/" in bare) and _PATH.fullmatch(bare) else None


def _make_hunk(body: list[str], label: str, start: int | None, heading: str) -> Hunk:
    marked: list[tuple[str, str]] = []
    cut = {"-": False, "+": False}
    for line in body:
        if line.startswith("\\"):
            mark = marked[-1][0] if marked else " "
            cut["-"] |= mark in " -"
            cut["+"] |= mark in " +"
        else:
            marked.append((line[:1] or " ", line[1:]))
    return Hunk(tuple(marked), label, start, heading, True, cut["-"], cut["+"])


def _align(old: list[str], new: list[str]) -> list[tuple[str, str]]:
    marked: list[tuple[str, str]] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new).get_opcodes():
        if tag == "equal":
            marked += [(" ", line) for line in old[i1:i2]]
        else:
            marked += [("-", line) for line in old[i1:i2]] + [("+", line) for line in new[j1:j2]]
    return marked


def _header_name(line: str) -> str | None:
    name = line[4:].split("\t", 1)[0].rstrip("\r") if line[4:5] != '"' else line[4:].rstrip()
    name = _unquote(name)
    return None if name == "/dev/null" else name


def _git_names(rest: str) -> tuple[str, str]:
    rest = rest.rstrip("\r")
    if rest.startswith('"'):
        end = re.match(r'"(?:[^"\\]|\\.)*"', rest)
        if end:
            return _unquote(end[0]), _unquote(rest[end.end() :].strip())
    half = len(rest) // 2
    if rest[2:half] == rest[half + 3 :]:
        return rest[:half], rest[half + 1 :]
    old, _, new = rest.partition(" ")
    return old, new


def _unquote(name: str) -> str:
    """Undo git's C-style quoting of a path."""
    if len(name) < 2 or name[0] != '"' or name[-1] != '"':
        return name
    def byte(found: re.Match[bytes]) -> bytes:
        code = found[1].decode()
        return bytes([int(code, 8) & 255 if code[0].isdigit() else _ESCAPES.get(code, ord(code[-1]))])
    raw = re.sub(rb"\\([0-7]{3}|[\x20-\x7e])", byte, name[1:-1].encode("utf-8", "surrogatepass"))
    return raw.decode("utf-8", "replace")
