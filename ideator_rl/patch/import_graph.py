"""Which file of a codebase imports which, read from the syntax of its Python files.

`start_imports` follows what runs when a script starts; the others read all imports, those in functions too.
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

STANDARD = sys.stdlib_module_names | {"__main__"}
"""Top-level names that every Python has."""

SOURCE_FOLDERS = ("src", "lib", "python")
"""Folders that hold packages which users install from the codebase."""


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
    return sorted(imported - own_modules - STANDARD)


def start_imports(base: Tree, script: str) -> dict[str, bool]:
    """The top-level names that a script's start imports from outside the codebase and the standard library.

    Returns:
        whether the start needs each of them: not one inside `try`.  What is under a condition is left out.
    """
    needed: dict[str, bool] = {}
    visited, queue = {script}, deque([script])
    while queue:
        path = queue.popleft()
        folder = path.rpartition("/")[0]
        for node, is_needed in _executed(_body(base[path])):
            for level, name in _names(node):
                files = [file for file in _files(base, folder, level, name) if file not in visited]
                visited.update(files)
                queue.extend(files)
                top = name.split(".")[0]
                if not level and top and not is_own(base, folder, top) and top not in STANDARD:
                    needed[top] = needed.get(top, False) or is_needed
    return dict(sorted(needed.items()))


def is_own(base: Tree, folder: str, name: str) -> bool:
    """Whether a file in `folder` imports this top-level name from the codebase."""
    return any(source_folder(base, root, name) for root in (folder, "", *SOURCE_FOLDERS))


def source_folder(base: Tree, root: str, name: str) -> bool:
    """Whether a folder of the codebase holds a module or package of this name."""
    stem = f"{root}/{name}" if root else name
    return f"{stem}.py" in base or any(path.startswith(f"{stem}/") and path.endswith(".py") for path in base)


def python_path(base: Tree) -> list[str]:
    """The source folders, such as src, whose modules the codebase imports as if they were installed."""
    imported = {(path.rpartition("/")[0], name.split(".")[0])
                for path in base for level, name in _imports(path, base[path]) if not level and name}  # fmt: skip
    return [
        source for source in SOURCE_FOLDERS
        if any(source_folder(base, source, name) and not source_folder(base, "", name)
               and not source_folder(base, folder, name) for folder, name in imported)
    ]  # fmt: skip


def _executed(nodes: Iterable[ast.AST], needed: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The imports that run when a module is imported or run, each with whether it must succeed."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, needed
        elif isinstance(node, ast.stmt | ast.ExceptHandler) and not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef
        ):
            if isinstance(node, ast.If) and "__name__" not in ast.dump(node.test):
                continue
            optional = isinstance(node, ast.Try | ast.ExceptHandler)
            yield from _executed(ast.iter_child_nodes(node), needed and not optional)


@lru_cache(maxsize=4096)
def _imports(path: str, text: str) -> tuple[tuple[int, str], ...]:
    """(level, dotted name) of each import: level 0 is absolute, 1 is `from .`; empty for a file that does not parse."""
    if not path.endswith(".py"):
        return ()
    module = ast.Module(_body(text), [])
    return tuple(name for node in ast.walk(module) for name in _names(node))


def _body(text: str) -> list[ast.stmt]:
    """The statements of a Python file; none if it does not parse."""
    try:
        return parsed(text).body
    except (SyntaxError, ValueError, RecursionError):
        return []


def _names(node: ast.AST) -> list[tuple[int, str]]:
    """(level, dotted name) of what a statement imports."""
    if isinstance(node, ast.Import):
        return [(0, alias.name) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    # `from a import b` reads the module `a`, and the module `a.b` where that exists.
    source = node.module or ""
    members = (f"{source}.{alias.name}".lstrip(".") for alias in node.names)
    return [(node.level, name) for name in (source, *members)]


def _files(base: Tree, folder: str, level: int, name: str) -> Iterator[str]:
    """The files that an import in `folder` reads; an absolute one is looked up in the source folders too."""
    for _ in range(level - 1):
        folder = folder.rpartition("/")[0]
    steps = name.split(".") if name else []
    for root in dict.fromkeys((folder,) if level else ("", folder, *SOURCE_FOLDERS)):
        for depth in range(1, len(steps) + 1):
            stem = "/".join(([root] if root else []) + steps[:depth])
            yield from (file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in base)
