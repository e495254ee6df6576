"""Which file of a codebase imports which, read from the syntax of its Python files.

Not covered: an import that is put together at run time, and files that do not parse.
"""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ideator_rl.patch import Tree
from ideator_rl.patch.source import parsed


def import_distances(base: Tree, roots: Iterable[str]) -> dict[str, int]:
    """The number of imports between `roots` and each file that they reach; a root has distance 0."""
    distances = {root: 0 for root in roots}
    queue = deque(distances)
    while queue:
        path = queue.popleft()
        for target in imported_files(base, path):
            if target not in distances:
                distances[target] = distances[path] + 1
                queue.append(target)
    return distances


def imported_files(base: Tree, path: str) -> list[str]:
    """The files of the tree that one file imports, with the `__init__.py` of each package on the way."""
    folder = path.rpartition("/")[0]
    targets = (file for level, name in _imports(path, base[path]) for file in _files(base, folder, level, name))
    return list(dict.fromkeys(file for file in targets if file != path))


def third_party_packages(base: Tree) -> list[str]:
    """The top-level names that a codebase imports, without its own modules and the standard library."""
    imported = {name.split(".")[0] for path in base for level, name in _imports(path, base[path]) if not level and name}
    own_modules = {folder_or_stem for path in base for folder_or_stem in path.removesuffix(".py").split("/")}
    return sorted(imported - own_modules - sys.stdlib_module_names)


@lru_cache(maxsize=4096)
def _imports(path: str, text: str) -> tuple[tuple[int, str], ...]:
    """(level, dotted name) of each import: level 0 is absolute, 1 is `from .`; empty for a file that does not parse."""
    if not path.endswith(".py"):
        return ()
    try:
        module = parsed(text)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    names: list[tuple[int, str]] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from a import b` reads the module `a`, and the module `a.b` where that exists.
            source = node.module or ""
            members = (f"{source}.{alias.name}".lstrip(".") for alias in node.names)
            names += [(node.level, name) for name in (source, *members)]
    return tuple(names)


def _files(base: Tree, folder: str, level: int, name: str) -> Iterator[str]:
    """The files that an import in `folder` reads; an absolute one is looked up in the root, `folder` and `src`."""
    for _ in range(level - 1):
        folder = folder.rpartition("/")[0]
    steps = name.split(".") if name else []
    for root in dict.fromkeys((folder,) if level else ("", folder, "src")):
        for depth in range(1, len(steps) + 1):
            stem = "/".join(([root] if root else []) + steps[:depth])
            yield from (file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in base)
