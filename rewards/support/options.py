"""Options of reward functions: columns of the dataset, with one value for all rows of a batch.

A recipe's `reward_options: {length_most: 0.2}` become such columns, and are checked before anything is started: each
function of ours says what it takes as `function.options`, by name.  What is missing or None is the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ideator_rl.errors import IdeatorError


@dataclass(frozen=True)
class Option:
    """One option; of what kind its values are is told by its default, a number for None."""

    default: Any = None
    least: float = -math.inf
    most: float = math.inf
    among: tuple[str, ...] = ()
    """The words it may be; empty for any."""

    def check(self, name: str, value: Any) -> None:
        """Raises: IdeatorError when this cannot be its value."""
        if not self._fits(value):
            raise IdeatorError(f"The column {name} holds {value!r}; expected {self._wanted()}.")

    def _fits(self, value: Any) -> bool:
        if isinstance(self.default, bool):
            return isinstance(value, bool)
        if isinstance(self.default, str):
            return isinstance(value, str) and (not self.among or value in self.among)
        number = isinstance(value, int if isinstance(self.default, int) else int | float)
        return number and not isinstance(value, bool) and self.least <= value <= self.most and math.isfinite(value)

    def _wanted(self) -> str:
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return f"one of {', '.join(self.among)}" if self.among else "text"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} of at least {self.least:g}" + (f" and at most {self.most:g}" if self.most < math.inf else "")


Options = Mapping[str, Option]


def read(options: Options, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The values of a batch.

    Raises:
        IdeatorError: one cannot be, or differs between rows.
    """
    values = {}
    for name, option in options.items():
        given = [value for value in columns.get(name, ()) if value is not None]
        for value in given:
            option.check(name, value)
        if any(value != given[0] for value in given):
            raise IdeatorError(f"The column {name} differs between rows of a batch; expected one value for all.")
        values[name] = given[0] if given else option.default
    return values
