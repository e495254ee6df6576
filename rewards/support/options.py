"""Options of reward functions: columns of the dataset, with one value for all rows of a batch.

A recipe's `reward_options: {length_most: 0.2}` become such columns, and are checked before anything is started: a
function declares what it takes as `function.options`, by name.  A missing or None option has its default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ideator_rl.config.base import Flag, Integer, Number, expected
from ideator_rl.errors import IdeatorError


@dataclass(frozen=True)
class Option:
    """One option; its default gives the type of its values, a number for None."""

    default: Any = None
    least: float = -math.inf
    most: float = math.inf
    among: tuple[str, ...] = ()
    """The texts that it may be; empty for any."""

    def check(self, name: str, value: Any) -> None:
        """Raises: IdeatorError for a value of another type or out of range."""
        try:
            self._adapter.validate_python(value)
        except ValidationError:
            wanted = expected(self._annotation)
            raise IdeatorError(f"The column {name} holds {value!r}; expected {wanted}.") from None

    @cached_property
    def _annotation(self) -> Any:
        if isinstance(self.default, bool):
            return Flag
        if isinstance(self.default, str):
            return Literal[self.among] if self.among else str
        bounds: dict[str, Any] = {"ge": self.least, "le": self.most}
        finite = {name: bound for name, bound in bounds.items() if math.isfinite(bound)}
        return Annotated[Integer if isinstance(self.default, int) else Number, Field(**finite)]

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self._annotation)


Options = Mapping[str, Option]


def read(options: Options, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The values of a batch.

    Raises:
        IdeatorError: a value is out of range, or differs between rows.
    """
    values = {}
    for name, option in options.items():
        column = [value for value in columns.get(name, ()) if value is not None]
        for value in column:
            option.check(name, value)
        if any(value != column[0] for value in column):
            raise IdeatorError(f"The column {name} differs between rows of a batch; expected one value for all.")
        values[name] = column[0] if column else option.default
    return values
