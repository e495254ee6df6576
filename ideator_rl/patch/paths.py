"""Paths as patches write them, and the file of a tree that each one means.

A path that does not exist is read as another one only if a single file can be meant: the only one of that name, or the
only one with the same last components.  A path that leaves the codebase is rejected, never corrected.
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
    """The path in a `---` or `+++` line, without a time stamp after a tab; None for /dev/null."""
    rest = line[4:].rstrip("\r")
    name = unquote(rest.strip()) if rest.startswith('"') else rest.split("\t", 1)[0].strip()
    return None if name == "/dev/null" else name


def diff_git_names(rest: str) -> tuple[str, str]:
    """Both paths of a `diff --git` line."""
    rest = rest.strip()
    if quoted := _QUOTED.match(rest):
        return unquote(quoted[0]), unquote(rest[quoted.end() :].strip())
    # Equal halves, but for a/ and b/, are two paths even if they contain spaces.
    half = len(rest) // 2
    if rest[2:half] == rest[half + 3 :]:
        return rest[:half], rest[half + 1 :]
    old, _, new = rest.partition(" ")
    return old, unquote(new)


def path_line(line: str) -> str | None:
    """The path, if a line holds only a path and decoration (`**`, backticks, "File:", a colon)."""
    bare = re.sub(r"^(?:#+\s*)?(?:\*\*)?(?:[Ff]ile(?:name)?:\s*)?", "", line.strip()).strip("*`'\" ")
    bare = bare.rstrip(":").strip("*`'\" ")
    return bare if ("." in bare.strip(".") or "/" in bare) and _PATH.fullmatch(bare) else None


def unquote(name: str) -> str:
    """Undo git's C-style quoting of a path."""
    if len(name) < 2 or name[0] != '"' or name[-1] != '"':
        return name

    def unescape(escape: re.Match[bytes]) -> bytes:
        code = escape[1].decode()
        return bytes([int(code, 8) & 255 if code.isdigit() else _ESCAPES.get(code, ord(code))])

    return _ESCAPED.sub(unescape, name[1:-1].encode("utf-8", "surrogatepass")).decode("utf-8", "replace")


def quote(name: str) -> str:
    """A path as git writes it: in C-style quotes where a reader could mistake it."""
    if not re.search(r'[\x00-\x1f\x7f"\\]|^\s|\s$', name):
        return name
    escapes = {c: f"\\{ord(c):03o}" for c in map(chr, (*range(32), 127))} | {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(escapes.get(c, c) for c in name) + '"'


def target_file(tree: Tree, edit: FileEdit) -> str:
    """The existing file that an edit is for; the two names in the header must agree on it.

    Raises:
        PatchError: they do not, or no single file can be meant.
    """
    names = list(dict.fromkeys(normal_path(tree, edit, name) for name in (edit.new, edit.old) if name is not None))
    existing = [name for name in names if name in tree]
    if len({_stem(name) for name in names}) > 1 or len(existing) > 1:
        raise PatchError(
            f"the header names two files, {edit.old} and {edit.new}; name one, or write 'rename from' and 'rename to'"
        )
    return existing[0] if existing else existing_file(tree, names[-1])


def _stem(path: str) -> str:
    """A file name without its folder and without the endings of backup copies."""
    return re.sub(r"\.(?:orig|old|bak|new|modified)$|~$", "", path.rsplit("/", 1)[-1])


def normal_path(tree: Tree, edit: FileEdit, name: str) -> str:
    """A stated path as one from the root of the codebase, without a/ and b/ where these cannot be a folder.

    Raises:
        PatchError: "rejected", the path leaves the codebase.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise PatchError(f"{name!r}: leaves the codebase; write a path relative to its root", "rejected")
    if not edit.prefix_removed and edit.style == "diff" and name[:2] in ("a/", "b/") and name not in tree:
        folder_exists = any(path.startswith(name[:2]) for path in tree)
        name = name if folder_exists and name[2:] not in tree else name[2:]
    return re.sub(r"^(?:\./)+", "", name)


def new_file_path(tree: Tree, path: str, corrections: dict[str, str]) -> str:
    """The path of a new file, when the paths of existing files had to be corrected (stated path -> file).

    Raises:
        PatchError: the corrections did not all remove the same folder, or the new path does not begin with it.
    """
    removed = {stated.removesuffix(actual) for stated, actual in corrections.items()}
    extra = removed.pop() if len(removed) == 1 else ""
    for folder in {extra, "a/", "b/"} if extra in ("a/", "b/") else {extra}:
        if folder.endswith("/") and path.startswith(folder) and not any(name.startswith(folder) for name in tree):
            return path.removeprefix(folder)
    stated, actual = next(iter(corrections.items()))
    raise PatchError(
        f"{path}: where this new file belongs is not certain, because the patch writes {stated} for {actual}; write "
        "all paths from the root of the codebase"
    )


def existing_file(tree: Tree, path: str, exact: bool = False) -> str:
    """The file that a path names: itself, else the only one of its name, else the only one with the same ending.

    Raises:
        PatchError: there is none or several, or the path must be `exact` and is not.
    """
    if path in tree:
        return path
    components = path.split("/")
    namesakes = sorted(file for file in tree if file.rsplit("/", 1)[-1] == components[-1])
    if not exact and len(namesakes) == 1:
        return namesakes[0]
    similar = [file for file in namesakes if _same_ending(file.split("/"), components)]
    if not exact and len(similar) == 1 and len(components) > 1 and "/" in similar[0]:
        return similar[0]
    candidates = ", ".join(namesakes[:6] or sorted(tree)[:12])
    hint = f"it could be {candidates}" if namesakes else f"the files are {candidates}"
    raise PatchError(f"{path}: no such file; {hint}. Write the path as it is in the codebase")


def _same_ending(first: list[str], second: list[str]) -> bool:
    """Whether the shorter of two paths is the end of the longer one."""
    length = min(len(first), len(second))
    return first[-length:] == second[-length:]
