"""A patch, the code change that implements an idea, as text; and the trees before and after it.

A tree is a `dict` from POSIX relative path to text.  Only `read_tree` and `write_tree` access a disk, and nothing
runs git or GNU patch: these follow links, write `.git/hooks`, and do nothing at all inside another repository.

Guaranteed: `apply_patch` returns the tree that the patch means, or raises; `apply_patch(a, diff(a, b)) == b` for any
two different trees; `judge` depends on the resulting tree alone, whatever form the patch had.
Not covered: whether the code works.

The way of a patch: `parsing` reads edits from an answer, `apply` resolves paths, `locate` and `find` place the hunks,
`judge` checks the result against the environment's rules.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ideator_rl.patch.apply import Protected, apply_edits
from ideator_rl.patch.edit import FileEdit, PatchError
from ideator_rl.patch.judge import UNREAD_FOLDERS, Rules, check_name, is_protected, judge, protected_error, rejected
from ideator_rl.patch.parsing import parse
from ideator_rl.patch.paths import Tree, quote
from ideator_rl.patch.source import decoded, encoded

__all__ = [
    "PatchError", "Rules", "Tree", "apply_patch", "diff", "judge", "patched_tree", "read_tree", "tree_hash",
    "write_tree",
]  # fmt: skip

PATCH_LENGTH = 4
"""Length of the longest patch that is read, in times what the changed files may hold and the baseline holds: a diff
needs both once, and an answer may repeat itself and explain."""
CONTEXT = 3
"""Lines of context around a change in `diff`."""


def apply_patch(tree: Tree, patch_text: str) -> Tree:
    """The tree that a patch leads to: extracted from prose, repaired where its meaning is certain, applied.

    Raises:
        PatchError: "unpatchable", with the file and hunk, the lines looked for and the closest lines of the file; or
            "rejected", for a link, a submodule, or a path that leaves the codebase.
    """
    result = apply_edits(tree, parse(patch_text))
    _check_changed(tree, result)
    return result


def _check_changed(base: Tree, tree: Tree) -> None:
    if tree == base:
        raise PatchError("the patch changes nothing: the files read like this already; make a change that takes effect")


def patched_tree(base: Tree, patch_text: str, rules: Rules, baseline: Tree | None = None) -> Tree:
    """The tree that a patch leads to, judged by the rules.

    Args:
        baseline: what the rules compare the tree with, so that limits hold over generations of patches; `base` for
            None.

    Raises:
        PatchError: "unpatchable", it does not apply; or "rejected", it leads to a tree that breaks a rule, or names a
            protected file, or is much longer than any patch of an allowed tree.  No message quotes a protected file.
    """
    _check_length(base, patch_text, rules)
    edits = parse(patch_text)
    protected = _protected_files(rules)
    try:
        tree = apply_edits(base, edits, protected)
        _check_changed(base, tree)
    except PatchError as error:
        # A patch for a protected file breaks a rule even if another part of it would not apply.
        if error.kind == "unpatchable" and (name := _protected_name(edits, rules)):
            raise rejected(f"the patch touches {name}, which is protected: {error}") from error
        raise
    if baseline is not None and tree == baseline:
        raise PatchError("the patch undoes all that its parent changed: the result is the unchanged baseline")
    judge(base if baseline is None else baseline, tree, rules)
    return tree


def _check_length(base: Tree, patch_text: str, rules: Rules) -> None:
    """Refuse, before it is parsed, a text that takes seconds to parse and whose tree would be too large."""
    limit = PATCH_LENGTH * (rules.max_bytes + sum(map(len, base.values())))
    if len(patch_text) > limit:
        raise rejected(
            f"the patch holds {len(patch_text)} characters; at most {limit} are read, {PATCH_LENGTH} times the "
            f"{rules.max_bytes} bytes that the changed files may hold (max_bytes) and the baseline"
        )


def _protected_files(rules: Rules) -> Protected:
    def protected(path: str) -> PatchError | None:
        glob = is_protected(path, rules)
        return None if glob is None else protected_error(path, glob)

    return protected


def _protected_name(edits: list[FileEdit], rules: Rules) -> str | None:
    """A protected file that a patch names, whether or not it exists in the tree."""
    for name in (name for edit in edits for name in (edit.old, edit.new) if name):
        spellings = [name.removeprefix(prefix) for prefix in ("a/", "b/", "./")] + [name.rpartition("/")[2]]
        if any(is_protected(spelling, rules) for spelling in spellings):
            return name
    return None


def tree_hash(tree: Tree) -> str:
    """SHA-256, hex, of the sorted paths and texts, each with its length before it."""
    digest = hashlib.sha256()
    for path in sorted(tree):
        for text in (path, tree[path]):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d\n" % len(data) + data)
    return digest.hexdigest()


def diff(base: Tree, tree: Tree) -> str:
    """The git-style unified diff between two trees; one text for the same trees, empty if they are equal."""
    paths = sorted(base.keys() | tree.keys())
    return "".join(_file_diff(path, base.get(path), tree.get(path)) for path in paths)


def _file_diff(path: str, old: str | None, new: str | None) -> str:
    if old == new:
        return ""
    before, after = quote("a/" + path), quote("b/" + path)
    out = [f"diff --git {before} {after}\n"]
    if old is None:
        out.append("new file mode 100644\n")
    if new is None:
        out.append("deleted file mode 100644\n")
    if old or new:
        # git ends a name that contains a blank with a tab, because a time stamp could follow.
        tab = "\t\n" if " " in path else "\n"
        out.append("--- /dev/null\n" if old is None else f"--- {before}{tab}")
        out.append("+++ /dev/null\n" if new is None else f"+++ {after}{tab}")
        out += _hunks(_lines(old or ""), _lines(new or ""))
    return "".join(out)


def _lines(text: str) -> list[str]:
    """Lines with their newlines; `str.splitlines` would also split at form feeds and the like."""
    *lines, last = text.split("\n")
    return [line + "\n" for line in lines] + ([last] if last else [])


def _hunks(old: list[str], new: list[str]) -> Iterator[str]:
    for group in difflib.SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT):
        (_, i1, _, j1, _), (_, _, i2, _, j2) = group[0], group[-1]
        yield f"@@ -{_span(i1, i2)} +{_span(j1, j2)} @@\n"
        for tag, a1, a2, b1, b2 in group:
            marks = ((" ", old[a1:a2]),) if tag == "equal" else (("-", old[a1:a2]), ("+", new[b1:b2]))
            for mark, lines in marks:
                for line in lines:
                    yield mark + (line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")


def _span(start: int, end: int) -> str:
    """A hunk's lines as its header states them: counted from 1; for no lines, the line before."""
    count = end - start
    return f"{start + (count > 0)}" + ("" if count == 1 else f",{count}")


def read_tree(folder: Path) -> Tree:
    """Every file below a folder, as text, without `.git` and `__pycache__`.

    Raises:
        PatchError: "rejected", for a symbolic link, a special file, or a file that is not text as Python reads it.
    """
    tree: Tree = {}
    pending = [Path(folder)]
    while pending:
        for entry in pending.pop().iterdir():
            name = entry.relative_to(folder).as_posix()
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                raise rejected(f"{name}: a link or special file; a codebase holds regular text files only")
            if entry.name in UNREAD_FOLDERS:
                continue
            if entry.is_dir():
                pending.append(entry)
            else:
                tree[name] = decoded(name, entry.read_bytes())
    return dict(sorted(tree.items()))


def write_tree(tree: Tree, folder: Path) -> None:
    """Write a tree into a new or empty folder.

    Raises:
        PatchError: "rejected", for a path that is no plain relative one, or a text that the encoding which it declares
            lacks; nothing is written.
        FileExistsError: the folder is not empty, or one path is both a file and a folder.
    """
    folder = Path(folder)
    for path in tree:
        check_name(path)
    files = {path: encoded(path, text) for path, text in sorted(tree.items())}
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; a tree is written into a new folder only")
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as out:
            out.write(data)
