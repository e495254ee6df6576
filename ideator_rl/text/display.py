"""Texts and numbers for people: untrusted text made harmless, numbers written in one way.

Ideas, patches and logs are written by models and their programs.  `visible` guarantees that nothing in such a text
acts on a terminal or on a page: control and bidirectional characters show as their code point, colour codes are
removed.  It does not escape HTML: a page's templates do (jinja2 with autoescape).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean, stdev

_COLOUR_CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ACTING_CHARACTER = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with every character that could act on its surroundings replaced by its code point."""
    text = _COLOUR_CODE.sub("", text).replace("\r\n", "\n")
    return _ACTING_CHARACTER.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def encodable(text: str) -> str:
    """The text with `?` for halves of surrogate pairs: JSON can hold them, but they have no bytes in UTF-8."""
    return text.encode("utf-8", "replace").decode()


def clip(text: str, length: int) -> tuple[str, int]:
    """The beginning of a text, and how many characters were cut."""
    return text[:length], max(0, len(text) - length)


def shorten(text: str, length: int) -> str:
    """The text on one line, cut to `length` characters with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def number(value: float | None) -> str:
    """Four significant decimals, as in "3.1416", "0.001235", "4.56e+04"; an en dash for None."""
    if value is None:
        return "–"
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 10_000 else f"{value:.4g}"


def spread(value: float) -> str:
    """A standard deviation or error: two significant digits."""
    return f"{value:.2g}"


def with_error(values: Sequence[float]) -> str:
    """A value, or the mean of several values with their standard deviation."""
    if len(values) < 2:
        return number(values[0] if values else None)
    return f"{number(mean(values))} ± {spread(stdev(values))} ({len(values)} runs)"


def share(value: float | None) -> str:
    """A share of one in percent; an en dash for None."""
    return "–" if value is None else f"{value:.0%}"


def dollars(usd: float) -> str:
    """As in "1.50 USD"; four decimals below ten cents."""
    return f"{usd:.2f} USD" if usd >= 0.1 else f"{usd:.4f} USD"


def duration(seconds: float) -> str:
    """In seconds, minutes or hours, three significant digits."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"
