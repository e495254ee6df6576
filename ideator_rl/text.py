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
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


TAGS = 32
"""Bytes of the tags around a piece of a patch."""


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
    while kept and (taken := size(kept)) > allowance:
        length = min(len(kept) - 1, int(len(kept) * allowance / taken))
        kept = kept[:length] if keep == "head" else kept[len(kept) - length :]
    return kept, len(text) - len(kept)


def coloured(patch: str, allowance: int) -> tuple[list[tuple[str, str]], int]:
    """The beginning of a patch, neighbouring lines of one kind together, within an allowance that counts their tags.

    Returns:
        (kind, lines) with the kinds "file", "hunk", "add", "del" and "", and how many characters were cut.
    """
    shown: list[tuple[str, str]] = []
    left = allowance
    for kind, lines in _pieces(patch[:allowance]):
        kept, cut = clip(lines, max(0, left - TAGS))
        if kept or not cut:
            shown.append((kind, kept))
        left -= size(kept) + TAGS
        if cut:
            break
    return shown, len(patch) - len("\n".join(lines for _, lines in shown))


def size(text: str) -> int:
    """Bytes on the page."""
    return len(str(escape(visible(text))).encode())


def _pieces(patch: str) -> Iterator[tuple[str, str]]:
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
