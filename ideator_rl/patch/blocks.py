"""SEARCH/REPLACE blocks and whole files: where they begin and end in an answer, and the path that stands above them."""

from __future__ import annotations

import re

from ideator_rl.patch.edit import Hunk, PatchError, align
from ideator_rl.patch.paths import path_line

SEARCH = re.compile(r"(<{5,9}) ?SEARCH:?\s*$")
FENCE = re.compile(r"(\s*)(`{3,}|~{3,})([^`]*)$")
_ABOVE = 3
"""Lines above a fence or block in which its path is looked for."""


def path_above(lines: list[str], at: int) -> str | None:
    """The path in the last line above that is neither blank nor a fence; else the one that the fence itself names."""
    before = lines[max(0, at - _ABOVE) : at]
    named = None
    while before and (not before[-1].strip() or FENCE.match(before[-1])):
        named = named or fence_path(before.pop())
    return (path_line(before[-1]) if before else None) or named


def fence_path(line: str) -> str | None:
    """The path behind the backticks, with or without a language: ```python src/net.py, ```python:src/net.py."""
    fence = FENCE.match(line)
    words = re.split(r"[\s:]+|(?:title|file|filename|path)=", fence[3].strip()) if fence else []
    paths = [path for path in map(path_line, words) if path]
    return paths[0] if len(paths) == 1 else None


def read_block(lines: list[str], at: int, name: str) -> tuple[Hunk, int]:
    """The SEARCH/REPLACE block that opens at index `at`, and the index behind it; `name` is for messages.

    Raises:
        PatchError: it is not closed, or not divided once.
    """
    size = len(lines[at]) - len(lines[at].lstrip("<"))
    closing = re.compile(rf">{{{size}}} ?REPLACE\s*")
    end = next((i for i in range(at + 1, len(lines)) if closing.fullmatch(lines[i])), None)
    if end is None:
        raise PatchError(f"{name}: the SEARCH block at line {at + 1} has no closing {'>' * size} REPLACE")
    inside = lines[at + 1 : end]
    cuts = [i for i, text in enumerate(inside) if text.rstrip() == "=" * size]
    if len(cuts) != 1 or any(SEARCH.match(text) for text in inside):
        raise PatchError(
            f"{name}: the SEARCH block at line {at + 1} has {len(cuts)} lines {'=' * size}, expected one "
            "between SEARCH and REPLACE; where the code itself holds such a line, write a unified diff"
        )
    marked = align(inside[: cuts[0]], inside[cuts[0] + 1 :])
    return Hunk(marked, f"SEARCH block at line {at + 1}", marked=False), end + 1


def closing_fence(lines: list[str], at: int, fence: re.Match[str]) -> int | None:
    """Where the fence above index `at` is closed: by a bare one, equally deep, behind the fences opened in between."""
    depth = 1
    for index in range(at, len(lines)):
        found = FENCE.match(lines[index])
        if found is None or found[1] != fence[1] or found[2][0] != fence[2][0] or len(found[2]) < len(fence[2]):
            continue
        depth += 1 if found[3].strip() else -1
        if depth == 0:
            return index
    return None
