"""The limits of SEARCH/REPLACE blocks and fences in an answer, and the path that is written above them."""

from __future__ import annotations

import re

from ideator_rl.patch.edit import Hunk, PatchError, align
from ideator_rl.patch.paths import path_line

SEARCH = re.compile(r"(<{5,9}) ?SEARCH:?\s*$")
FENCE = re.compile(r"(\s*)(`{3,}|~{3,})([^`]*)$")
_LINES_ABOVE = 3
"""Lines above a fence or block in which its path is looked for."""


def path_above(lines: list[str], at: int) -> str | None:
    """The path in the last line above that is neither blank nor a fence; else the path that a fence itself names."""
    lines_above = lines[max(0, at - _LINES_ABOVE) : at]
    path_of_fence = None
    while lines_above and (not lines_above[-1].strip() or FENCE.match(lines_above[-1])):
        path_of_fence = path_of_fence or fence_path(lines_above.pop())
    return (path_line(lines_above[-1]) if lines_above else None) or path_of_fence


def fence_path(line: str) -> str | None:
    """The path after the backticks, with or without a language: ```python src/net.py, ```python:src/net.py."""
    fence = FENCE.match(line)
    info = re.split(r"[\s:]+|(?:title|file|filename|path)=", fence[3].strip()) if fence else []
    paths = [path for path in map(path_line, info) if path]
    return paths[0] if len(paths) == 1 else None


def read_block(lines: list[str], at: int, name: str) -> tuple[Hunk, int]:
    """The SEARCH/REPLACE block that opens at index `at`, and the index after it; `name` is for messages.

    Raises:
        PatchError: the block is not closed, or has not exactly one divider.
    """
    size = len(lines[at]) - len(lines[at].lstrip("<"))
    closing = re.compile(rf">{{{size}}} ?REPLACE\s*")
    end = next((i for i in range(at + 1, len(lines)) if closing.fullmatch(lines[i])), None)
    if end is None:
        raise PatchError(f"{name}: the SEARCH block at line {at + 1} has no closing {'>' * size} REPLACE")
    body = lines[at + 1 : end]
    dividers = [i for i, text in enumerate(body) if text.rstrip() == "=" * size]
    if len(dividers) != 1 or any(SEARCH.match(text) for text in body):
        raise PatchError(
            f"{name}: the SEARCH block at line {at + 1} has {len(dividers)} lines {'=' * size}, expected one "
            "between SEARCH and REPLACE; where the code itself holds such a line, write a unified diff"
        )
    marked_lines = align(body[: dividers[0]], body[dividers[0] + 1 :])
    return Hunk(marked_lines, f"SEARCH block at line {at + 1}", has_marks=False), end + 1


def closing_fence(lines: list[str], at: int, fence: re.Match[str]) -> int | None:
    """The index of the bare fence that closes the one above index `at`, after all fences opened in between.

    A closing fence has the same indentation and character, and is at least as long.
    """
    depth = 1
    for index in range(at, len(lines)):
        candidate = FENCE.match(lines[index])
        if candidate is None or candidate[1] != fence[1]:
            continue
        if candidate[2][0] != fence[2][0] or len(candidate[2]) < len(fence[2]):
            continue
        depth += 1 if candidate[3].strip() else -1
        if depth == 0:
            return index
    return None
