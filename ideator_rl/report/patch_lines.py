"""The lines of a patch by kind, so that the page can colour them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby


def coloured(patch: str) -> Iterator[tuple[str, str]]:
    """The patch in blocks of neighbouring lines of one kind: (kind, lines), with the kinds "file", "hunk", "add", "del"
    and ""."""
    in_hunk = False
    lines: list[tuple[str, str]] = []
    for line in patch.split("\n"):
        # A removed line may look like the head of a file: only "diff --git" ends a hunk.
        in_hunk = line.startswith("@@") or (in_hunk and not line.startswith("diff --git "))
        lines.append((_kind(line, in_hunk), line))
    for kind, block in groupby(lines, key=lambda item: item[0]):
        yield kind, "\n".join(line for _, line in block)


def _kind(line: str, in_hunk: bool) -> str:
    if line.startswith("@@"):
        return "hunk"
    if not in_hunk:
        return "file"
    return {"+": "add", "-": "del"}.get(line[:1], "")
