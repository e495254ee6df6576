"""Judges whether a patched codebase may run: the resulting tree against the rules, whatever form the patch had.

Globs: `*` and `?` stay within one component of a path, and match a leading dot too; `[...]` is a class of
characters, `[!...]` its complement; `**` as a component matches any number of components, also none (at the end: at
least one); a glob that ends in `/` matches everything below it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ideator_rl.patch.content import new_content
from ideator_rl.patch.edit import PatchError
from ideator_rl.patch.evolve_blocks import change_outside
from ideator_rl.patch.paths import Tree
from ideator_rl.patch.source import encoded

_PYTHON_CACHE = "__pycache__"
UNREAD_FOLDERS = (".git", _PYTHON_CACHE)
"""Names that `read_tree` skips, so that no patch may write them."""


@dataclass(frozen=True)
class Rules:
    """What may differ from the baseline."""

    editable: tuple[str, ...]
    """Globs; a file that is changed, new or deleted must match one."""
    protected: tuple[str, ...] = ()
    """Globs, with the hidden files; no file that is changed, new, deleted or copied may match one, in any case of
    letters."""
    max_files: int = 64
    """Files that may differ."""
    max_bytes: int = 1_000_000
    """Bytes of UTF-8, in one file and in all files that differ together."""
    max_compressed_bytes: int = 16_384
    """Bytes beyond the baseline after compression, in all files that differ together: no room for weights."""
    max_path: int = 200
    """Bytes of UTF-8 in a path."""
    evolve_blocks: bool = False
    """In a file of the baseline that has EVOLVE-BLOCK marks, only what is between them may differ."""


def judge(base: Tree, tree: Tree, rules: Rules) -> None:
    """Check a resulting tree against the rules.

    Raises:
        PatchError: "rejected", naming the file and the rule.
    """
    changed = sorted(path for path in base.keys() | tree.keys() if base.get(path) != tree.get(path))
    if len(changed) > rules.max_files:
        raise rejected(f"{len(changed)} files differ from the baseline; at most {rules.max_files} may")
    for path in changed:
        _judge_path(path, rules)
        if rules.evolve_blocks and (reason := change_outside(base.get(path, ""), tree.get(path))):
            raise rejected(f"{path}: {reason}")
    total = sum(_judge_text(path, tree[path], rules) for path in changed if path in tree)
    if total > rules.max_bytes:
        raise rejected(
            f"the changed files hold {total} bytes together; at most {rules.max_bytes} are allowed (max_bytes)"
        )
    _judge_collisions(base, tree)
    content = new_content(base, tree, enough=rules.max_compressed_bytes)
    if content > rules.max_compressed_bytes:
        raise rejected(
            f"the changed files hold {content} bytes beyond the baseline even when compressed; at most "
            f"{rules.max_compressed_bytes} are allowed (max_compressed_bytes). A patch holds code: no weights, no "
            "tables of data, in whatever form they are written"
        )


def rejected(message: str) -> PatchError:
    return PatchError(message, "rejected")


def protected_error(path: str, glob: str) -> PatchError:
    return rejected(f"{path}: protected by {glob!r}; it may not be added, changed, deleted or copied")


def check_name(path: str) -> None:
    """Refuse a path that is not plain and relative.

    Raises:
        PatchError: "rejected".
    """
    components = path.split("/")
    if any(component in ("", ".", "..") for component in components):
        raise rejected(f"{path!r}: leaves the codebase; a path must be relative, without '..', '.' or empty parts")
    if "\\" in path or any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in path):
        raise rejected(f"{path!r}: a path may hold no backslash, control or invisible character")
    if any(_fold(component) == _PYTHON_CACHE for component in components):
        raise rejected(f"{path!r}: Python's cache folder is no part of a codebase")
    # "git~1" is the short name of ".git" on Windows, which also ignores dots and blanks at the end.
    if any(_fold(component).rstrip(" .") in (".git", "git~1") for component in components):
        raise rejected(f"{path!r}: git's own folder may not be touched")


def is_protected(path: str, rules: Rules) -> str | None:
    """The glob that protects a path, or None."""
    return next((glob for glob in rules.protected if _matches(_fold(path), _fold(glob))), None)


def _judge_path(path: str, rules: Rules) -> None:
    check_name(path)
    size = len(path.encode())
    if size > rules.max_path:
        raise rejected(f"{path[:60]!r}…: a path of {size} bytes; at most {rules.max_path} are allowed")
    if (glob := is_protected(path, rules)) is not None:
        raise protected_error(path, glob)
    if not any(_matches(path, glob) for glob in rules.editable):
        raise rejected(f"{path}: not among the editable files ({', '.join(rules.editable) or 'none'})")


def _judge_text(path: str, text: str, rules: Rules) -> int:
    """The size of a text in bytes; refuses one that is not plain text or is too large."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise rejected(f"{path}: not UTF-8 text (character {error.start})") from None
    encoded(path, text)  # raises where the file's own encoding has no room for what a patch writes
    if "\0" in text:
        raise rejected(f"{path}: holds a NUL character; text files only")
    if size > rules.max_bytes:
        raise rejected(f"{path}: {size} bytes; at most {rules.max_bytes} are allowed (max_bytes)")
    return size


def _judge_collisions(base: Tree, tree: Tree) -> None:
    """Refuse two names, of files or folders, that are one on a disk; and a file that is also a folder.

    Names that the baseline has side by side are its own affair.
    """
    base_names = {name for path in base for name in _prefixes(path)}
    names: dict[str, str] = {}
    # The baseline's names come first, so that each new one is compared with one of them.
    for path in sorted(tree, key=lambda path: (path not in base, path)):
        for name in _prefixes(path):
            first_name = names.setdefault(_fold(name), name)
            if first_name != name and name not in base_names:
                raise rejected(f"{path}: {name} and {first_name} differ only in case, and are one file on some disks")
            if name != path and name in tree:
                raise rejected(f"{path}: {name} is a file, so it cannot be a folder too")


def _prefixes(path: str) -> list[str]:
    """A path and the folders that it is in, outermost first."""
    components = path.split("/")
    return ["/".join(components[:depth]) for depth in range(1, len(components) + 1)]


def _fold(path: str) -> str:
    """A path as a disk compares it that ignores case and the form of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _matches(path: str, glob: str) -> bool:
    return _compiled(glob).fullmatch(path) is not None


@lru_cache(maxsize=1024)
def _compiled(glob: str) -> re.Pattern[str]:
    *folders, name = (glob + "**" if glob.endswith("/") else glob).split("/")
    pattern = "".join("(?:[^/]+/)*" if folder == "**" else "".join(_regex(folder)) + "/" for folder in folders)
    return re.compile(pattern + (".+" if name == "**" else "".join(_regex(name))), re.S)


def _regex(component: str) -> Iterator[str]:
    """One component of a glob, as pieces of a regular expression."""
    for token in re.findall(r"\[!?\]?[^\]]*\]|.", component, re.S):
        if token == "*":
            yield "[^/]*"
        elif token == "?":
            yield "[^/]"
        elif len(token) > 1:
            characters = re.sub(r"([\\\[\]^&~|])", r"\\\1", token[1:-1].removeprefix("!"))
            yield f"(?!/)[{'^' if token[1] == '!' else ''}{characters}]"
        else:
            yield re.escape(token)
