"""Reads the codebase that an agent left, whatever it left.

Nothing is followed and nothing but regular files of a bounded size is opened.  All processes of the agent must have
ended, so that nothing changes meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ideator_rl.patch import Rules, Tree
from ideator_rl.patch.judge import is_protected, rejected
from ideator_rl.patch.source import decoded

DEFAULT_IGNORED = ("**/.*", "**/.*/**")
"""What tools leave: hidden files and folders."""
PYTHON_CACHE = "__pycache__"
MAX_ENTRIES, MAX_DEPTH = 20_000, 64


def read_agent_tree(folder: Path, base: Tree, ignored: tuple[str, ...], max_bytes: int) -> Tree:
    """The text files below a folder.

    Args:
        base: the codebase as the agent got it: none of its files is ignored.
        ignored: globs of other files that are left out, unread.
        max_bytes: of one file, and of all files that are not as they were.

    Raises:
        PatchError: "rejected", for a link, a special file, one that is no text, or too much of anything.
    """
    tree: Tree = {}
    sizes = {path: len(text.encode("utf-8", "surrogatepass")) for path, text in base.items()}
    folders = {str(parent) for path in base for parent in Path(path).parents}
    budget, pending, entries = max_bytes, [""], 0
    while pending:
        prefix = pending.pop()
        for entry in sorted(_entries(folder / prefix), key=lambda entry: entry.name):
            path, entries = f"{prefix}{entry.name}", entries + 1
            if entries > MAX_ENTRIES:
                raise rejected(f"the agent left over {MAX_ENTRIES} files and folders")
            is_base = path in base or path in folders
            if not is_base and (entry.name == PYTHON_CACHE or _is_ignored(path, ignored)):
                continue
            kind = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                if path.count("/") >= MAX_DEPTH:
                    raise rejected(f"{path[:100]}…: the agent left folders over {MAX_DEPTH} deep")
                pending.append(f"{path}/")
            elif not stat.S_ISREG(kind):
                raise rejected(f"{path}: a link or special file; a codebase holds regular text files only")
            else:
                tree[path] = _text(folder, path, sizes, max_bytes)
                if tree[path] != base.get(path):
                    budget -= len(tree[path].encode("utf-8", "surrogatepass"))
                # Before more is read: what is too much for the rules need not fit into the memory.
                if budget < 0:
                    raise rejected(f"the changed files hold over {max_bytes} bytes together (max_bytes)")
    return dict(sorted(tree.items()))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        # The agent may have closed it.  Each folder was looked at before, and is no link.
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise rejected(f"{folder.name}: a folder that cannot be read: {error.strerror}") from None


def _text(folder: Path, path: str, sizes: Mapping[str, int], max_bytes: int) -> str:
    limit = max(max_bytes, sizes.get(path, 0))
    file = folder / path
    size = file.lstat().st_size
    if size > limit:
        raise rejected(f"{path}: {size} bytes; at most {limit} are read (max_bytes)")
    try:
        os.chmod(file, 0o600)
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
            return decoded(path, stream.read(limit + 1))
    except OSError as error:
        raise rejected(f"{path}: cannot be read: {error.strerror}") from None


def _is_ignored(path: str, globs: tuple[str, ...]) -> bool:
    return is_protected(path, Rules(editable=(), protected=globs)) is not None
