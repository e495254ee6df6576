"""The ledger's file: amounts, what it holds of them, and how it is read and written.

One JSON object: the amounts spent, and where something is in flight `flight` and `experiments`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import read_json
from ideator_rl.errors import IdeatorError
from ideator_rl.files import exclusive, write_atomic


class LedgerError(IdeatorError):
    """The ledger's file cannot be read or written."""


@dataclass
class Spent:
    """Amounts: a cost, a maximum cost, or a total."""

    usd: float = 0.0
    tokens: float = 0.0
    """Prompt and completion tokens of all LLM calls together."""
    gpu_hours: float = 0.0


@dataclass
class ExperimentHours:
    """GPU-hours of an experiment whose actual ones are not known yet."""

    gpu_hours: float
    """At most."""
    owner: str
    """Id of the ledger object whose process waits for it.  Empty once none does: then they are in `Totals.spent`."""


@dataclass
class Totals:
    """What the file holds."""

    spent: Spent = field(default_factory=Spent)
    flight: dict[str, Spent] = field(default_factory=dict)
    """Reserved amounts by the id of a ledger object; a process has one."""
    experiments: dict[str, ExperimentHours] = field(default_factory=dict)
    """By the id of the experiment."""


@contextmanager
def lock_totals(path: Path) -> Iterator[None]:
    """Lock the file between processes: it is read, changed and written in the block."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path))
        except OSError as error:
            raise _unusable(path, error) from error
        yield


def read_totals(path: Path) -> Totals:
    """Raises: LedgerError where the file is not what `write_totals` writes."""
    try:
        path.lstat()
        raw = read_json(path)
        flight = {id: _amounts(amounts) for id, amounts in raw.pop("flight", {}).items()}
        experiments = {id: _experiment(hours) for id, hours in raw.pop("experiments", {}).items()}
        return Totals(_amounts(raw), flight, experiments)
    except FileNotFoundError:
        return Totals()
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _unusable(path, error) from error


def _amounts(raw: dict[str, float]) -> Spent:
    """Raises: ValueError where an amount is no number from 0, by which no cap could be kept."""
    for name, value in raw.items():
        # A release may leave a rounding error below 0.
        if type(value) not in (int, float) or not value > -1e-6:
            raise ValueError(f"{name} is {str(value)[:60]!r}, and an amount from 0 was expected")
    return Spent(**raw)


def _experiment(raw: dict[str, Any]) -> ExperimentHours:
    """Raises: ValueError, TypeError where it is not what `write_totals` writes."""
    _amounts({"gpu_hours": raw["gpu_hours"]})
    if not isinstance(raw["owner"], str):
        raise ValueError(f"owner is {str(raw['owner'])[:60]!r}, and a text was expected")
    return ExperimentHours(**raw)


def write_totals(path: Path, totals: Totals) -> None:
    raw: dict[str, object] = dict(vars(totals.spent))
    if totals.flight:
        raw["flight"] = {id: vars(amounts) for id, amounts in totals.flight.items()}
    if totals.experiments:
        raw["experiments"] = {id: vars(hours) for id, hours in totals.experiments.items()}
    try:
        write_atomic(path, json.dumps(raw))
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> LedgerError:
    return LedgerError(
        f"The run's ledger {path} cannot be used: {error}. Free space on its disk, or check that this user may write "
        'there; it is one JSON object such as {"usd": 1.5, "tokens": 20000.0, "gpu_hours": 0.0}, what was spent so far.'
    )
