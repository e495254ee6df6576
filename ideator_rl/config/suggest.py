"""The nearest valid name, for messages about a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, choices: Iterable[str], otherwise: str | None = None) -> str:
    """`Did you mean 'x'?`; where no choice is similar, `otherwise`, or a list of all choices."""
    choices = list(choices)
    nearest = difflib.get_close_matches(str(name), choices, n=1)
    if nearest:
        return f"Did you mean {nearest[0]!r}?"
    return otherwise if otherwise is not None else f"Known: {', '.join(choices) or 'none'}."
