"""The lines of a patch by kind, so that the page can colour them."""

from __future__ import annotations

from collections.abc import Iterator

from ideator_rl.text import clip, html_size

TAG_BYTES = 32
"""Of the tags around a block of lines."""


def coloured(patch: str, max_bytes: int) -> tuple[list[tuple[str, str]], int]:
    """The beginning of a patch in blocks of neighbouring lines of one kind, with their tags at most `max_bytes`.

    Returns:
        (kind, lines) with the kinds "file", "hunk", "add", "del" and "", and how many characters were cut.
    """
    blocks: list[tuple[str, str]] = []
    bytes_left = max_bytes
    for kind, lines in _blocks(patch[:max_bytes]):
        kept, cut = clip(lines, max(0, bytes_left - TAG_BYTES))
        if kept or not cut:
            blocks.append((kind, kept))
        bytes_left -= html_size(kept) + TAG_BYTES
        if cut:
            break
    return blocks, len(patch) - len("\n".join(lines for _, lines in blocks))


def _blocks(patch: str) -> Iterator[tuple[str, str]]:
    kind, in_hunk = "", False
    lines: list[str] = []
    for line in patch.split("\n"):
        # A removed line may look like the head of a file: only "diff --git" ends a hunk.
        in_hunk = line.startswith("@@") or (in_hunk and not line.startswith("diff --git "))
        line_kind = _kind(line, in_hunk)
        if line_kind != kind and lines:
            yield kind, "\n".join(lines)
            lines = []
        kind = line_kind
        lines.append(line)
    yield kind, "\n".join(lines)


def _kind(line: str, in_hunk: bool) -> str:
    if line.startswith("@@"):
        return "hunk"
    if not in_hunk:
        return "file"
    return {"+": "add", "-": "del"}.get(line[:1], "")
