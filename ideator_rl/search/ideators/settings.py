"""An ideator's settings from a recipe's mapping: unknown keys and values that cannot be are refused, with the nearest
valid name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from ideator_rl.errors import IdeatorError

Check = tuple[Callable[[Any], bool], str]
"""Whether a value can be, and what was expected, in words."""


class IdeatorSettingsError(IdeatorError):
    """Settings of an ideator that cannot be used."""


def number(low: float, whole: bool = False, none: bool = False) -> Callable[[Any], bool]:
    """Whether a value is a number of at least `low`."""

    def fits(value: Any) -> bool:
        if value is None:
            return none
        kinds = int if whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) and value >= low

    return fits


def checked(name: str, raw: dict[str, Any], checks: dict[str, Check], others: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that `checks` knows, checked; `others` are known and somebody else's to check.

    Raises:
        IdeatorSettingsError: an unknown key, or a value that fails its check.
    """
    known = [*checks, *others]
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise IdeatorSettingsError(f"The settings of the ideator {name} have the unknown key {key!r}. {hint}")
        if key in checks and not checks[key][0](value):
            raise IdeatorSettingsError(
                f"The settings of the ideator {name} have {key}: {value!r}. Expected {checks[key][1]}."
            )
    return {key: value for key, value in raw.items() if key in checks}


def names(settings: type) -> list[str]:
    """The keys of a settings class."""
    return [item.name for item in fields(settings)]


MANNER_CHECKS: dict[str, Check] = {
    "as_trained": (lambda value: isinstance(value, bool), "true or false"),
    "max_shown": (number(0, whole=True, none=True), "a whole number of at least 0, or null"),
    "idea_chars": (number(1, whole=True), "a whole number of at least 1"),
}
"""Of `prompt_writer.PromptStyle`."""
