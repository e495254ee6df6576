"""A patch: the code change that implements an idea, as text, and the trees it leads from and to.

A tree is a `dict` from POSIX relative path to text.  Nothing here touches a disk except `read_tree` and
`write_tree`, and nothing runs git: `git apply` and GNU patch follow links, write `.git/hooks` and silently do
nothing in a subfolder.

Guaranteed: `apply_patch` gives the tree that the patch meant, or raises; `apply_patch(a, diff(a, b)) == b` for any
two different trees of text; `judge` looks only at the resulting tree, whatever the patch was dressed up as.
Not guaranteed: that the code is any good.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ideator_rl.patch_apply import Tree, apply_edits
from ideator_rl.patch_text import PatchError, parse

__all__ = ["PatchError", "Rules", "Tree", "apply_patch", "diff", "judge", "read_tree", "tree_hash", "write_tree"]

CONTEXT = 3
"""Lines of context around a change in `diff`."""


@dataclass(frozen=True)
class Rules:
    """What a patch may do.  Globs: `*` and `?` stay within a path's component, `[...]` is a class of characters,
    `**` stands for any number of whole components, none included; a glob that ends in `/` means all below it.
    """

    editable: tuple[str, ...]
    """Globs a changed, new or deleted file must match."""
    protected: tuple[str, ...] = ()
    """Globs no changed, new or deleted file may match (hidden files too); stronger than `editable`."""
    max_files: int = 64
    """Files that may differ from the baseline."""
    max_bytes: int = 1_000_000
    """Bytes of UTF-8 in one file, and in all changed files together."""
    max_path: int = 200
    """Bytes of UTF-8 in one path."""


def apply_patch(tree: Tree, patch_text: str) -> Tree:
    """The tree that a patch leads to: extracted from prose, repaired where its meaning is certain, applied.

    Raises:
        PatchError: "unpatchable", saying which file and hunk, what was looked for and what stands there; or
            "rejected" for a link, a submodule or a path that leaves the codebase.
    """
    result = apply_edits(tree, parse(patch_text))
    if result == tree:
        raise PatchError("the patch changes nothing: the files already read as it asks; write a change that takes effect")
    return result


def judge(base: Tree, tree: Tree, rules: Rules) -> None:
    """Check a resulting tree against the rules.

    Raises:
        PatchError: "rejected", naming the file and the rule.
    """
    changed = sorted(path for path in base.keys() | tree.keys() if base.get(path) != tree.get(path))
    if len(changed) > rules.max_files:
        raise _rejected(f"{len(changed)} files differ from the baseline; at most {rules.max_files} may")
    total = 0
    for path in changed:
        _judge_path(path, rules)
        if path in tree:
            total += _judge_text(path, tree[path], rules)
    if total > rules.max_bytes:
        raise _rejected(f"the changed files hold {total} bytes together; at most {rules.max_bytes} may")
    _judge_collisions(tree, changed)


def _rejected(message: str) -> PatchError:
    return PatchError(message, "rejected")


def _judge_path(path: str, rules: Rules) -> None:
    parts = path.split("/")
    if path.startswith("/") or "" in parts or "." in parts or ".." in parts:
        raise _rejected(f"{path!r}: a path must be relative and plain, without '..', '.', or empty parts")
    if "\\" in path or any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in path):
        raise _rejected(f"{path!r}: a path may hold no backslash and no control character")
    if any(_fold(part).rstrip(" .") == ".git" for part in parts):
        raise _rejected(f"{path!r}: git's own folder may not be touched")
    if len(path.encode()) > rules.max_path:
        raise _rejected(f"{path[:60]!r}…: a path of {len(path.encode())} bytes; at most {rules.max_path} are allowed")
    guard = next((glob for glob in rules.protected if _matches(_fold(path), _fold(glob))), None)
    if guard is not None:
        raise _rejected(f"{path}: protected by {guard!r}; it may not be added, changed or deleted")
    if not any(_matches(path, glob) for glob in rules.editable):
        raise _rejected(f"{path}: not among the editable files ({', '.join(rules.editable) or 'none'})")


def _judge_text(path: str, text: str, rules: Rules) -> int:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise _rejected(f"{path}: not UTF-8 text (character {error.start})") from None
    if "\0" in text:
        raise _rejected(f"{path}: holds a NUL character; text files only")
    if size > rules.max_bytes:
        raise _rejected(f"{path}: {size} bytes; at most {rules.max_bytes} are allowed")
    return size


def _judge_collisions(tree: Tree, changed: list[str]) -> None:
    names: dict[str, str] = {}
    for path in sorted(tree):
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            part = "/".join(parts[:depth])
            other = names.setdefault(_fold(part), part)
            if other != part:
                raise _rejected(f"{path}: differs from {other} only in case; such names are one file on some disks")
            if depth < len(parts) and part in tree:
                raise _rejected(f"{path}: {part} is a file, so it cannot be a folder too")


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _matches(path: str, glob: str) -> bool:
    return _compile(glob).fullmatch(path) is not None


@lru_cache(maxsize=1024)
def _compile(glob: str) -> re.Pattern[str]:
    parts = (glob + "**" if glob.endswith("/") else glob).split("/")
    pattern = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            pattern += r".+" if last else r"(?:[^/]+/)*"
        else:
            pattern += "".join(_component(part)) + ("" if last else "/")
    return re.compile(pattern, re.S)


def _component(part: str) -> Iterator[str]:
    for token in re.findall(r"\[!?\]?[^\]]*\]|.", part, re.S):
        if token[0] == "*":
            yield "[^/]*"
        elif token == "?":
            yield "[^/]"
        elif len(token) > 2:
            inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            yield "(?!/)[" + ("^" + inside[1:] if inside[0] == "!" else inside.replace("^", "\\^")) + "]"
        else:
            yield re.escape(token)


def tree_hash(tree: Tree) -> str:
    """SHA-256, hex, of the sorted paths and texts, each with its length before it."""
    digest = hashlib.sha256()
    for path in sorted(tree):
        for text in (path, tree[path]):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d\n" % len(data) + data)
    return digest.hexdigest()


def diff(base: Tree, tree: Tree) -> str:
    """The unified git-style diff between two trees; the same text for the same trees; empty if they are equal."""
    return "".join(_file_diff(path, base.get(path), tree.get(path)) for path in sorted(base.keys() | tree.keys()))


def _file_diff(path: str, old: str | None, new: str | None) -> str:
    if old == new:
        return ""
    names = [_quote(prefix + path) for prefix in ("a/", "b/")]
    out = [f"diff --git {names[0]} {names[1]}\n"]
    if old is None:
        out.append("new file mode 100644\n")
    if new is None:
        out.append("deleted file mode 100644\n")
    if old or new:
        tab = "\t" if " " in path else ""
        out.append("--- /dev/null\n" if old is None else f"--- {names[0]}{tab}\n")
        out.append("+++ /dev/null\n" if new is None else f"+++ {names[1]}{tab}\n")
        out += _hunks(_lines(old or ""), _lines(new or ""))
    return "".join(out)


def _lines(text: str) -> list[str]:
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _hunks(old: list[str], new: list[str]) -> Iterator[str]:
    for group in difflib.SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT):
        (_, i1, _, j1, _), (_, _, i2, _, j2) = group[0], group[-1]
        yield f"@@ -{_span(i1, i2)} +{_span(j1, j2)} @@\n"
        for tag, a1, a2, b1, b2 in group:
            marked = [" " + line for line in old[a1:a2]] if tag == "equal" else (
                ["-" + line for line in old[a1:a2]] + ["+" + line for line in new[b1:b2]])
            for line in marked:
                yield line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _span(start: int, end: int) -> str:
    length = end - start
    return f"{start if length == 0 else start + 1}" + ("" if length == 1 else f",{length}")


def _quote(path: str) -> str:
    if not re.search(r'[\x00-\x1f\x7f"\\]|^\s|\s$', path):
        return path
    return '"' + "".join(
        "\\" + c if c in '"\\' else f"\\{ord(c):03o}" if ord(c) < 32 or ord(c) == 127 else c for c in path) + '"'


def read_tree(folder: Path) -> Tree:
    """Every file below a folder, as text; `.git` and `__pycache__` are left out.

    Raises:
        PatchError: "rejected", naming a symbolic link, a special file, or a file that is not UTF-8 text.
    """
    tree: Tree = {}
    pending = [Path(folder)]
    while pending:
        for entry in sorted(pending.pop().iterdir()):
            name = entry.relative_to(folder).as_posix()
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                raise _rejected(f"{name}: a link or special file; a codebase holds regular text files only")
            if entry.name in (".git", "__pycache__"):
                continue
            if entry.is_dir():
                pending.append(entry)
                continue
            try:
                tree[name] = entry.read_bytes().decode()
            except UnicodeDecodeError as error:
                raise _rejected(f"{name}: not UTF-8 text (byte {error.start}); a codebase holds text only") from None
            if "\0" in tree[name]:
                raise _rejected(f"{name}: holds a NUL character; a codebase holds text only")
    return dict(sorted(tree.items()))


def write_tree(tree: Tree, folder: Path) -> None:
    """Write a tree into a new or empty folder.

    Raises:
        PatchError: "rejected", for a path that would leave the folder.
        FileExistsError: the folder holds something already.
    """
    folder = Path(folder)
    for path in tree:
        if path.startswith("/") or "\0" in path or not all(part not in ("", ".", "..") for part in path.split("/")):
            raise _rejected(f"{path!r}: would be written outside {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; a tree is written into a new folder only")
    for path, text in sorted(tree.items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(target, flags, 0o644), "wb") as stream:
            stream.write(text.encode())
