"""Which parts of a model's text are code: edits and fenced files, where marks are quotations."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable

Span = tuple[int, int]
"""Start and end in a text."""
BLOCK, HUNK, FENCE = "block", "hunk", "fence"

_SEARCH, _REPLACE = re.compile(r"<{5,9} ?SEARCH\b"), re.compile(r">{5,9} ?REPLACE\b")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_SIGNS = ("SEARCH", "@@", "*** Begin Patch", "```", "~~~")
"""A text without any of these has no code."""


class Cover:
    """Tests whether a position is inside one of many spans."""

    def __init__(self, spans: Iterable[Span]):
        merged: list[Span] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        self._starts, self._ends = [start for start, _ in merged], [end for _, end in merged]

    def __contains__(self, position: int) -> bool:
        index = bisect_right(self._starts, position) - 1
        return index >= 0 and position < self._ends[index]


def code_spans(text: str, answer_of: Callable[[str], str] = str) -> list[tuple[Span, str]]:
    """The parts of a text that are code: inside SEARCH/REPLACE blocks and patches, hunks of diffs, closed fences.

    A block or fence that begins inside another replaces it: the first was never closed.

    Args:
        answer_of: removes from a line what precedes the answer on it.
    """
    spans: list[tuple[Span, str]] = []
    if not any(sign in text for sign in _SIGNS):
        return spans
    block = hunk = fence = None  # where each began
    fence_mark = block_end = ""
    at = 0
    for line in text.split("\n"):
        after = at + len(line) + 1
        if hunk is not None and line and line[0] not in " +-\\":
            spans.append(((hunk, at), HUNK))
            hunk = None
        if hunk is None:
            line = answer_of(line)
        if _SEARCH.match(line) or line.startswith("*** Begin Patch"):
            block, block_end = after, "REPLACE" if line[0] == "<" else "*** End Patch"
        elif block is not None and (_REPLACE.match(line) if block_end == "REPLACE" else line.startswith(block_end)):
            spans.append(((block, at), BLOCK))
            block = None
        elif line.startswith("@@"):
            hunk = at
        elif match := _FENCE.match(line):
            closes = fence is not None and match[1].startswith(fence_mark) and not match[2].strip()
            if closes and fence is not None:
                spans.append(((fence, at), FENCE))
                fence = None
            elif fence is None or match[2].strip():
                fence, fence_mark = after, match[1]
        at = after
    if hunk is not None:
        spans.append(((hunk, len(text)), HUNK))
    return spans
