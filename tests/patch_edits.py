"""Edits of real codebases, by seed.

Catalogue edits of every environment that has a catalogue, and a programmer's edits in files of installed packages:
other numbers, renamed names, moved, copied, wrapped and deleted code, new files.
"""

import functools
import importlib.util
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.patch import PatchError, Tree
from ideator_rl.registry import environment_names

PACKAGES = ("jinja2", "numpy", "yaml", "trl", "accelerate")
SIZES = range(60, 2100)
"""Lines of the package files that are edited."""
FILES = 6
"""Files of a package in one codebase."""


@dataclass(frozen=True)
class Case:
    base: Tree
    target: Tree

    @property
    def changed(self) -> list[str]:
        """Files that are in both trees and differ."""
        return [path for path in self.base if path in self.target and self.base[path] != self.target[path]]

    @property
    def fresh(self) -> list[str]:
        return [path for path in self.target if path not in self.base]


@functools.cache
def _package(name: str) -> Tree:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, f"the package {name} is not installed"
    root = Path(spec.origin).parent
    texts = {f"{name}/{path.relative_to(root).as_posix()}": path.read_text() for path in sorted(root.rglob("*.py"))}
    clean = {path: text for path, text in texts.items() if "test" not in path and text.endswith("\n")}
    return {path: text for path, text in clean.items() if text.count("\n") in SIZES and "\r" not in text}


@functools.cache
def _environments() -> list[Environment]:
    environments = [load_environment(name) for name in environment_names()]
    return [environment for environment in environments if environment.catalogue_path is not None]


def real_edit(seed: str, plain: bool = False) -> Case:
    """A codebase and its edited version, the same for a seed.  `plain`: no new and no deleted files."""
    rng = random.Random(seed)
    environments = _environments()
    if environments and rng.random() < 0.3:
        return _catalogue_edit(rng, rng.choice(environments))
    tree = _package(rng.choice(PACKAGES))
    base = {path: tree[path] for path in sorted(rng.sample(sorted(tree), min(FILES, len(tree))))}
    target = dict(base)
    for path in rng.sample(sorted(base), rng.choice((1, 1, 1, 2, 3))):
        lines = base[path].split("\n")[:-1]
        for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
            lines = rng.choice(OPERATIONS)(rng, lines)
        target[path] = "\n".join(lines) + "\n"
    if not plain and rng.random() < 0.2:
        source = rng.choice(sorted(base))
        target[source.replace(".py", "_extra.py")] = "\n".join(_function(rng, base[source].split("\n")[:-1])) + "\n"
    if not plain and rng.random() < 0.1:
        target.pop(rng.choice([path for path in base if base[path] == target.get(path)] or [""]), None)
    edited = any(base[path] != target.get(path, base[path]) for path in base)
    return Case(base, target) if edited else real_edit(seed + "'", plain)


def _catalogue_edit(rng: random.Random, environment: Environment) -> Case:
    catalogue, base = environment_catalogue(environment), environment.baseline(next(iter(environment.presets)))
    while True:
        try:
            target = catalogue.apply(base, catalogue.sample(rng, rng.choice((1, 2, 2, 3))))
        except PatchError:
            continue
        if target != base:
            return Case(base, target)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block(rng: random.Random, lines: list[str]) -> tuple[int, int]:
    """The range of one to five lines, none less indented than the first."""
    at = rng.choice([i for i, line in enumerate(lines) if line.strip()])
    end = at + 1
    while end < min(len(lines), at + 5) and lines[end].strip() and _indent(lines[end]) >= _indent(lines[at]):
        end += 1
    return at, rng.randint(at + 1, end)


def _spans(lines: list[str]) -> list[tuple[int, int]]:
    """Functions and classes at the top level, each with the blank lines below it."""
    starts = [i for i, line in enumerate(lines) if re.match(r"(?:def|class|async def) ", line)]
    return list(zip(starts, [*starts[1:], len(lines)], strict=True)) if starts else [(0, min(len(lines), 8))]


def _function(rng: random.Random, lines: list[str]) -> list[str]:
    start, end = rng.choice(_spans(lines))
    body = lines[start : min(end, start + 30)]
    while body and not body[-1].strip():
        body.pop()
    return body


def _numbers(rng: random.Random, lines: list[str]) -> list[str]:
    at = rng.choice([i for i, line in enumerate(lines) if re.search(r"\b\d+\b", line)] or [0])
    fresh = re.sub(r"\b\d+\b", lambda number: str(int(number[0]) + rng.randint(1, 90)), lines[at], count=1)
    return [*lines[:at], fresh, *lines[at + 1 :]]


def _rename(rng: random.Random, lines: list[str]) -> list[str]:
    start, end = rng.choice(_spans(lines))
    names = sorted({name for line in lines[start:end] for name in re.findall(r"\b[a-z_]{3,}\b", line)})
    name = rng.choice(names or ["self"])
    return [
        re.sub(rf"\b{name}\b", f"{name}_", line) if start <= i < end else line for i, line in enumerate(lines)
    ]  # fmt: skip


def _delete(rng: random.Random, lines: list[str]) -> list[str]:
    at, end = _block(rng, lines)
    return lines[:at] + lines[end:]


def _insert(rng: random.Random, lines: list[str]) -> list[str]:
    (at, end), (to, _) = _block(rng, lines), _block(rng, lines)
    shift = " " * _indent(lines[to])
    fresh = [shift + line[_indent(lines[at]) :] if line.strip() else line for line in lines[at:end]]
    return [*lines[:to], f"{shift}seen_{rng.randrange(99)} = {rng.randrange(99)}", *fresh, *lines[to:]]


def _replace(rng: random.Random, lines: list[str]) -> list[str]:
    at, end = _block(rng, lines)
    blanks = lines[at][: _indent(lines[at])]
    fresh = [f"{blanks}scale = {rng.random():.3f}", f"{blanks}if scale > limit:", f"{blanks}    scale = limit"]
    return [*lines[:at], *fresh[: rng.randint(1, 3)], *lines[end:]]


def _wrap(rng: random.Random, lines: list[str]) -> list[str]:
    at, end = _block(rng, lines)
    header = lines[at][: _indent(lines[at])] + f"if enabled_{rng.randrange(99)}:"
    return [*lines[:at], header, *("    " + line for line in lines[at:end]), *lines[end:]]


def _move(rng: random.Random, lines: list[str]) -> list[str]:
    spans = _spans(lines)
    (start, end), (to, _) = rng.choice(spans), rng.choice(spans)
    rest = lines[:start] + lines[end:]
    to = to if to <= start else to - (end - start)
    return rest[:to] + lines[start:end] + rest[to:]


def _copy(rng: random.Random, lines: list[str]) -> list[str]:
    start, end = rng.choice(_spans(lines))
    fresh = [*_function(rng, lines[start:end]), "", ""]
    fresh[0] = re.sub(r"(def|class) (\w+)", r"\1 \2_again", fresh[0])
    return lines[:start] + fresh + lines[start:]


def _import(rng: random.Random, lines: list[str]) -> list[str]:
    at = next((i for i, line in enumerate(lines) if re.match(r"(?:import|from) ", line)), 0)
    return [*lines[:at], f"import {rng.choice(('math', 'heapq', 'bisect', 'json'))}", *lines[at:]]


OPERATIONS: tuple[Callable[[random.Random, list[str]], list[str]], ...] = (
    _numbers, _numbers, _rename, _delete, _insert, _replace, _replace, _wrap, _move, _copy, _import,
)  # fmt: skip
