"""Paths as patches write them, and which file of a tree they mean.

A path that does not exist is read as another one only if a single file can be meant: the only one of that name, or
the only one whose path ends alike.  A path that leaves the codebase is rejected, never bent.
"""

from __future__ import annotations

import re

from ideator_rl.patch.edit import FileEdit, PatchError

Tree = dict[str, str]
"""POSIX relative path -> UTF-8 text."""

_PATH = re.compile(r"[\w.+@-]+(?:/[\w.+@-]+)*")
_ESCAPES = {"n": 10, "t": 9, "r": 13, '"': 34, "\\": 92, "a": 7, "b": 8, "f": 12, "v": 11}
_ESCAPED = re.compile(rb"\\([0-7]{3}|[\x20-\x7e])")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


def header_name(line: str) -> str | None:
    """The path in a `---` or `+++` line, without the time stamp that a tab sets off; None for /dev/null."""
    rest = line[4:].rstrip("\r")
    name = unquote(rest.strip()) if rest.startswith('"') else rest.split("\t", 1)[0]
    name = name if rest.startswith('"') else name.strip()
    return None if name == "/dev/null" else name


def diff_git_names(rest: str) -> tuple[str, str]:
    """Both paths of a `diff --git` line."""
    rest = rest.strip()
    if found := _QUOTED.match(rest):
        return unquote(found[0]), unquote(rest[found.end() :].strip())
    half = len(rest) // 2
    if rest[2:half] == rest[half + 3 :]:
        return rest[:half], rest[half + 1 :]
    old, _, new = rest.partition(" ")
    return old, unquote(new)


def path_line(line: str) -> str | None:
    """The path, where a line holds a path and nothing else but decoration (`**`, backticks, "File:", a colon)."""
    bare = re.sub(r"^(?:#+\s*)?(?:\*\*)?(?:[Ff]ile(?:name)?:\s*)?", "", line.strip()).strip("*`'\" ")
    bare = bare.rstrip(":").strip("*`'\" ")
    return bare if ("." in bare.strip(".") or "/" in bare) and _PATH.fullmatch(bare) else None


def unquote(name: str) -> str:
    """Undo git's C-style quoting of a path."""
    if len(name) < 2 or name[0] != '"' or name[-1] != '"':
        return name

    def byte(found: re.Match[bytes]) -> bytes:
        code = found[1].decode()
        return bytes([int(code, 8) & 255 if code.isdigit() else _ESCAPES.get(code, ord(code))])

    return _ESCAPED.sub(byte, name[1:-1].encode("utf-8", "surrogatepass")).decode("utf-8", "replace")


def quote(name: str) -> str:
    """A path as git writes it: in C-style quotes where a reader could mistake it."""
    if not re.search(r'[\x00-\x1f\x7f"\\]|^\s|\s$', name):
        return name
    odd = {c: f"\\{ord(c):03o}" for c in map(chr, (*range(32), 127))} | {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(odd.get(c, c) for c in name) + '"'


def meant(tree: Tree, edit: FileEdit) -> str:
    """The present file that an edit is for: the header's two names must agree on it."""
    names = list(dict.fromkeys(plain(tree, edit, name) for name in (edit.new, edit.old) if name is not None))
    present = [name for name in names if name in tree]
    if len({_stem(name) for name in names}) > 1 or len(present) > 1:
        raise PatchError(
            f"the header names two files, {edit.old} and {edit.new}; name one, or say 'rename from' and 'rename to'"
        )
    return present[0] if present else existing(tree, names[-1])


def _stem(path: str) -> str:
    """A file's name, without its folder and what backup copies are called."""
    return re.sub(r"\.(?:orig|old|bak|new|modified)$|~$", "", path.rsplit("/", 1)[-1])


def plain(tree: Tree, edit: FileEdit, name: str) -> str:
    """A stated path from the root of the codebase; a/ and b/ go where they cannot be a folder's name."""
    if name.startswith("/") or ".." in name.split("/"):
        raise PatchError(f"{name!r}: leaves the codebase; write a path relative to its root", "rejected")
    if not edit.plain and edit.style == "diff" and name[:2] in ("a/", "b/") and name not in tree:
        folder = any(path.startswith(name[:2]) for path in tree)
        name = name if folder and name[2:] not in tree else name[2:]
    return re.sub(r"^(?:\./)+", "", name)


def moved(tree: Tree, path: str, shifts: dict[str, str]) -> str:
    """Where a new file goes, if present ones were found elsewhere than the patch said (`shifts`: said -> found).

    Raises:
        PatchError: the folder that was too much is not the same for all, or not this path's.
    """
    dropped = {said.removesuffix(found) for said, found in shifts.items()}
    extra = dropped.pop() if len(dropped) == 1 else ""
    for folder in {extra, "a/", "b/"} if extra in ("a/", "b/") else {extra}:
        if folder.endswith("/") and path.startswith(folder) and not any(name.startswith(folder) for name in tree):
            return path.removeprefix(folder)
    said, found = next(iter(shifts.items()))
    raise PatchError(
        f"{path}: where this new file belongs is not certain, because the patch says {said} for {found}; write all "
        "paths from the root of the codebase"
    )


def existing(tree: Tree, path: str, certain: bool = False) -> str:
    """The file that a path names: itself, else the only one of its name, else the only one whose path ends alike."""
    if path in tree:
        return path
    parts = path.split("/")
    same = sorted(p for p in tree if p.rsplit("/", 1)[-1] == parts[-1])
    if not certain and len(same) == 1:
        return same[0]
    alike = [p for p in same if _ends_alike(p.split("/"), parts)]
    if not certain and len(alike) == 1 and len(parts) > 1 and "/" in alike[0]:
        return alike[0]
    some = ", ".join(same[:6] or sorted(tree)[:12])
    what = f"it could be {some}" if same else f"the files are {some}"
    raise PatchError(f"{path}: no such file; {what}. Write the path as it stands in the codebase")


def _ends_alike(one: list[str], other: list[str]) -> bool:
    shorter = min(len(one), len(other))
    return one[-shorter:] == other[-shorter:]
