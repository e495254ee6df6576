"""What a codebase consists of: the parts of a file, and which file imports which.

Python is read as Python; any other file, or one that Python cannot read, is cut at blank lines.
Guaranteed: the parts of a file follow one another and hold every line once.
Not guaranteed: an import that is put together at run time is not seen.
"""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from ideator_rl.patch import Tree

MAX_LINES = 60
"""Lines of a part; what is longer is cut, a class at its methods, the rest at blank lines if there are any."""

_DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Part:
    """Lines `first` to `last`, counted from 1, both included."""

    first: int
    last: int
    name: str = ""
    """`class Model`, `def train`, `Model.forward`; empty for statements at the top level and for text."""


@lru_cache(maxsize=4096)
def parts(path: str, text: str) -> tuple[Part, ...]:
    """The parts of a file, from its first line to its last."""
    lines, tree = lines_of(text), _parsed(path, text)
    if not lines:
        return ()
    whole = Part(1, len(lines))
    pieces = [piece for part in (_cut(whole, tree.body, "") if tree else [whole]) for piece in _pieces(part, lines)]
    found: list[Part] = []
    for piece in pieces:
        blank = not any(line.strip() for line in lines[piece.first - 1 : piece.last])
        if blank and found:
            found[-1] = replace(found[-1], last=piece.last)
        else:
            found.append(piece)
    return tuple(found)


def lines_of(text: str) -> list[str]:
    """The lines of a file; a newline at its end begins no line."""
    return text.removesuffix("\n").split("\n") if text else []


@lru_cache(maxsize=4096)
def definitions(path: str, text: str) -> tuple[Part, ...]:
    """The classes and functions at the top level of a Python file; nothing for any other file."""
    tree = _parsed(path, text)
    return tuple(_named(node) for node in tree.body if isinstance(node, _DEFINITION)) if tree else ()


def distances(base: Tree, roots: Iterable[str]) -> dict[str, int]:
    """How many imports away from `roots` each file is that they reach; the roots themselves are at 0."""
    found = {root: 0 for root in roots}
    waiting = deque(found)
    while waiting:
        path = waiting.popleft()
        for other in imported(base, path):
            if other not in found:
                found[other] = found[path] + 1
                waiting.append(other)
    return found


def imported(base: Tree, path: str) -> list[str]:
    """The files of the tree that one of its files imports, packages on the way to them included."""
    names = _imports(path, base[path])
    folder = path.rpartition("/")[0]
    found = (file for level, name in names for file in _files(base, folder, level, name))
    return list(dict.fromkeys(file for file in found if file != path))


def packages(base: Tree) -> list[str]:
    """The installed packages that a codebase imports: neither its own modules nor the standard library's."""
    names = {name.split(".")[0] for path in base for level, name in _imports(path, base[path]) if not level and name}
    own = {part for path in base for part in path.removesuffix(".py").split("/")}
    return sorted(names - own - sys.stdlib_module_names)


@lru_cache(maxsize=4096)
def _parsed(path: str, text: str) -> ast.Module | None:
    if not path.endswith(".py"):
        return None
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


@lru_cache(maxsize=4096)
def _imports(path: str, text: str) -> tuple[tuple[int, str], ...]:
    """(level, dotted name) of everything imported: level 0 is absolute, 1 is `from .`."""
    tree = _parsed(path, text)
    names: list[tuple[int, str]] = []
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            names += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            members = (f"{module}.{alias.name}".lstrip(".") for alias in node.names)
            names += [(node.level, name) for name in (module, *members)]
    return tuple(names)


def _files(base: Tree, folder: str, level: int, name: str) -> Iterator[str]:
    """Files that an import reads: found from the importing file's folder, or from the root for an absolute name."""
    for _ in range(level - 1):
        folder = folder.rpartition("/")[0]
    words = name.split(".") if name else []
    for root in dict.fromkeys((folder,) if level else ("", folder, "src")):
        for count in range(1, len(words) + 1):
            stem = "/".join(([root] if root else []) + words[:count])
            yield from (file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in base)


def _named(node: ast.stmt, prefix: str = "") -> Part:
    assert isinstance(node, _DEFINITION)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    word = "class " if isinstance(node, ast.ClassDef) else "def "
    return Part(first, node.end_lineno or node.lineno, prefix + node.name if prefix else word + node.name)


def _cut(whole: Part, body: list[ast.stmt], prefix: str) -> Iterator[Part]:
    """A stretch of lines, cut around the definitions in it; a class that is too long is cut around its methods."""
    at = whole.first
    for node in body:
        if not isinstance(node, _DEFINITION):
            continue
        part = _named(node, prefix)
        if part.first < at:  # two statements on one line
            continue
        if part.first > at:
            yield Part(at, part.first - 1, whole.name)
        if isinstance(node, ast.ClassDef) and part.last - part.first >= MAX_LINES:
            yield from _cut(part, node.body, f"{node.name}.")
        else:
            yield part
        at = part.last + 1
    if at <= whole.last:
        yield Part(at, whole.last, whole.name)


def _pieces(part: Part, lines: list[str]) -> Iterator[Part]:
    """A part in pieces of at most MAX_LINES lines."""
    at = part.first
    while part.last - at >= MAX_LINES:
        blank = next((n for n in range(at + MAX_LINES - 1, at + MAX_LINES // 2, -1) if not lines[n - 1].strip()), None)
        end = blank or at + MAX_LINES - 1
        yield replace(part, first=at, last=end)
        at = end + 1
    yield replace(part, first=at)
