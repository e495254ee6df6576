"""The ledger: what a run has spent in USD, tokens and GPU-hours, and the caps it must keep.

Nothing is started that could break a cap: the most that a call or an experiment may cost is reserved before, and
replaced by what it did cost after, so that what is in flight counts.  Thread-safe.  With a file, what was spent is kept
across restarts: a resumed run has the rest of its budget, not a new one.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from ideator_rl.errors import IdeatorError


class BudgetSpent(IdeatorError):
    """A cap leaves no room for what was to be started."""


@dataclass
class Spent:
    """Amounts; also the most that something may cost, and caps."""

    usd: float = 0.0
    tokens: float = 0.0
    """Prompt and completion tokens of the coder LLM together."""
    gpu_hours: float = 0.0


@dataclass(frozen=True)
class Caps:
    """The most that a run may spend; None for no cap."""

    usd: float | None = None
    tokens: int | None = None
    gpu_hours: float | None = None


@dataclass
class Reservation:
    """What is in flight.  Set `actual` before it ends; what ends without it has cost what was reserved."""

    most: Spent
    actual: Spent | None = None
    open: bool = field(default=True, repr=False)


class Ledger:
    def __init__(self, caps: Caps | None = None, path: Path | None = None):
        self.caps = caps or Caps()
        self._path, self._lock = path, threading.Lock()
        self._spent, self._flight = _read(path), Spent()
        self._refused: str | None = None

    @property
    def spent(self) -> Spent:
        """What has been spent, over all lives of the run."""
        with self._lock:
            return Spent(**vars(self._spent))

    @property
    def exhausted(self) -> str | None:
        """The sentence of the first refusal, once a cap has refused something: time to wind down."""
        return self._refused

    @contextmanager
    def reserve(self, most: Spent) -> Iterator[Reservation]:
        """Hold room for something that may cost `most`; on leaving, what it did cost is booked.

        Raises:
            BudgetSpent: with what is spent and in flight, a cap could be broken.
        """
        with self._lock:
            for item in fields(Spent):
                self._refuse_if_over(item.name, getattr(most, item.name))
            _add(self._flight, most, 1)
        held = Reservation(most)
        try:
            yield held
        finally:
            with self._lock:
                _add(self._flight, most, -1)
                _add(self._spent, held.actual if held.actual is not None else most, 1)
                self._write()

    def _refuse_if_over(self, name: str, most: float) -> None:
        cap, spent, flight = (getattr(part, name) for part in (self.caps, self._spent, self._flight))
        if cap is None or most <= 0 or spent + flight + most <= cap:
            return
        self._refused = (
            f"The run's cap of {cap:g} {WORDS[name]} leaves no room: {spent:.4g} spent, {flight:.4g} in flight, and "
            f"the next could cost {most:.4g}. Raise {KEYS[name]} and go on with --resume."
        )
        raise BudgetSpent(self._refused)

    def _write(self) -> None:
        if self._path is None:
            return
        scratch = self._path.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(vars(self._spent)))
        os.replace(scratch, self._path)


WORDS = {"usd": "USD", "tokens": "tokens", "gpu_hours": "GPU-hours"}
KEYS = {"usd": "max_usd", "tokens": "max_coder_tokens", "gpu_hours": "max_gpu_hours"}
"""The recipe's key of each cap."""


def _add(total: Spent, part: Spent, sign: int) -> None:
    for item in fields(Spent):
        setattr(total, item.name, getattr(total, item.name) + sign * getattr(part, item.name))


def _read(path: Path | None) -> Spent:
    if path is None or not path.is_file():
        return Spent()
    return Spent(**json.loads(path.read_text()))
