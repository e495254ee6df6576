"""Untrusted text for a page that a person reads: ideas, patches and logs are written by models and their programs.

Guarantees: control and bidirectional characters show as their code point instead of acting, colour codes of terminals
are gone, and a clipped text takes at most its allowance of bytes after HTML escaping.  Escaping itself is the
template's (jinja2 with autoescape).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup, escape

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
    "|[\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with nothing in it that acts on how its surroundings are shown."""
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    return _ACTING.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def finalize(value: Any) -> Any:
    """For jinja2's `finalize`: every text that reaches the page goes through `visible`; markup of our own does not."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def clip(text: str, allowance: int, keep: str = "head") -> tuple[str, int]:
    """The beginning or the end (`keep` "head" or "tail") that takes at most `allowance` bytes once escaped.

    Returns:
        The text kept, and how many characters were cut.
    """
    kept = text[:allowance] if keep == "head" else text[-allowance:]
    while kept and (size := _size(kept)) > allowance:
        length = min(len(kept) - 1, int(len(kept) * allowance / size))
        kept = kept[:length] if keep == "head" else kept[len(kept) - length :]
    return kept, len(text) - len(kept)


def patch_lines(patch: str) -> Iterator[tuple[str, str]]:
    """The lines of a patch, neighbours of one kind together: (css class, text)."""
    kind, in_hunk = "", False
    lines: list[str] = []
    for line in patch.split("\n"):
        in_hunk = line.startswith("@@") or (in_hunk and not line.startswith("diff --git "))
        now = _kind(line, in_hunk)
        if now != kind and lines:
            yield kind, "\n".join(lines)
            lines = []
        kind = now
        lines.append(line)
    yield kind, "\n".join(lines)


def _kind(line: str, in_hunk: bool) -> str:
    if line.startswith("@@"):
        return "hunk"
    if not in_hunk:
        return "file"
    return {"+": "add", "-": "del"}.get(line[:1], "")


def _size(text: str) -> int:
    return len(str(escape(visible(text))).encode())
