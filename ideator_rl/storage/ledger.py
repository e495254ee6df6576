"""The ledger: what a run has spent in USD, tokens and GPU-hours, and the caps it must keep.

Guarantee: nothing is started that could break a cap.  The maximum cost of a call or an experiment is reserved before
it starts, and replaced by its actual cost when it ends.  Thread-safe.

With a file, the totals survive restarts, and all processes that use it keep the caps together: the ranks of stock TRL,
or `rerun` on a run that goes on (one machine, or a shared file system with locks).  When a process is killed, what it
had reserved counts as spent, since the calls are paid for anyway.  Experiments go on without the process that waits for
them: each is reserved under its id, counts in full once no process waits, and is corrected to its actual GPU-hours when
a later process waits for it or finds its record.  Without caps nothing is reserved for calls, so a killed process's
calls are not counted.  Must not be used on both sides of a fork.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.files import open_lock, try_lock, wait_for_lock
from ideator_rl.storage.ledger_file import (
    ExperimentHours,
    LedgerError,
    Spent,
    Totals,
    lock_totals,
    read_totals,
    write_totals,
)

__all__ = ["BudgetSpent", "Caps", "Ledger", "LedgerError", "Reservation", "Spent"]

FIRST_POLL, LONGEST_POLL = 0.05, 1.0
"""Seconds between two attempts to reserve, while other reservations leave no room; the pause doubles."""
UNITS = {"usd": "USD", "tokens": "tokens", "gpu_hours": "GPU-hours"}
"""The unit of each amount, for a person."""
CAP_KEYS = {"usd": "max_usd", "tokens": "max_coder_tokens", "gpu_hours": "max_gpu_hours"}
"""The recipe's key of each cap."""


class BudgetSpent(IdeatorError):
    """A cap leaves no room for what was to be started."""

    def __init__(self, message: str, key: str = "max_usd"):
        super().__init__(message)
        self.key = key
        """The recipe key of the cap."""


@dataclass(frozen=True)
class Caps:
    """The maximum that a run may spend; None for no cap."""

    usd: float | None = None
    tokens: int | None = None
    gpu_hours: float | None = None


@dataclass
class Reservation:
    """Room for a call or an experiment that runs.  Set `actual` before it ends; without it, the maximum is booked."""

    most: Spent
    actual: Spent | None = None


class Ledger:
    """Args:
    path: the file; None to count in this process only.

    Raises:
        LedgerError: the file cannot be read.
    """

    def __init__(self, caps: Caps | None = None, path: Path | None = None):
        self.caps = caps or Caps()
        self._path, self._lock = path, threading.Lock()
        self._memory = Totals()
        """In the place of a file; under the lock."""
        self._id = uuid.uuid4().hex
        self._life: int | None = None
        """Open handle of the locked life file, once this process has reserved something; under the lock."""
        self._refusal: tuple[str, str] | None = None
        """The sentence and the recipe key of the last refused reservation."""
        if path is not None:
            read_totals(path)

    @property
    def spent(self) -> Spent:
        """What was spent in all sessions and processes of the run."""
        with self._lock:
            return Spent(**vars(self._read().spent))

    @property
    def exhausted(self) -> str | None:
        """Why the first reservation of this process was refused, in a sentence; None while none was."""
        return self._refusal[0] if self._refusal else None

    @property
    def refusal(self) -> BudgetSpent | None:
        """The same as an error, with the recipe key of the cap."""
        return BudgetSpent(*self._refusal) if self._refusal else None

    @contextmanager
    def reserve(self, most: Spent) -> Iterator[Reservation]:
        """Reserve `most` inside the block; the actual cost is booked at its end.

        Raises:
            BudgetSpent: with what is spent and reserved, a cap could be broken.
        """
        self._take(most, may_wait=False)
        with self._booked(most) as reservation:
            yield reservation

    @asynccontextmanager
    async def reserve_when_free(self, most: Spent) -> AsyncIterator[Reservation]:
        """As `reserve`, but where only other reservations leave no room, wait until they are booked.

        Raises:
            BudgetSpent: with what is spent, a cap could be broken.
        """
        await _poll(lambda: self._take(most, may_wait=True))
        with self._booked(most) as reservation:
            yield reservation

    @asynccontextmanager
    async def reserve_experiment(self, id: str, gpu_hours: float) -> AsyncIterator[Reservation]:
        """Reserve GPU-hours for an experiment, as `reserve_when_free`, and once however many callers wait for it.

        Without an actual amount at the end of the block, the experiment may still run: all of them count as spent until
        it is reserved again or `settle_experiment` is called.

        Args:
            id: of the experiment.
            gpu_hours: at most.

        Raises:
            BudgetSpent: with what is spent, the cap could be broken.
        """
        await _poll(lambda: self._take_experiment(id, gpu_hours))
        reservation = Reservation(Spent(gpu_hours=gpu_hours))
        try:
            yield reservation
        finally:
            if reservation.actual is not None:
                self.settle_experiment(id, reservation.actual.gpu_hours)
            else:
                with self._changing() as totals:
                    if id in totals.experiments and totals.experiments[id].owner == self._id:
                        _abandon(totals, id)

    def settle_experiment(self, id: str, gpu_hours: float) -> None:
        """The actual GPU-hours of an experiment are known; does nothing where this run has not reserved any for it."""
        with self._lock:
            if id not in self._read().experiments:
                return
        with self._changing() as totals:
            hours = totals.experiments.get(id)
            # Another process that waits for it books it.
            if hours is not None and hours.owner in ("", self._id):
                totals.spent.gpu_hours += gpu_hours - (0.0 if hours.owner else hours.gpu_hours)
                del totals.experiments[id]

    def _take_experiment(self, id: str, gpu_hours: float) -> bool:
        """Reserve an experiment; False where the caller has to wait.

        Raises:
            BudgetSpent: there will be no room.
        """
        with self._changing() as totals:
            hours = totals.experiments.get(id)
            if hours is not None and hours.owner:
                return True  # another caller waits for it too
            abandoned = Spent(gpu_hours=hours.gpu_hours) if hours is not None else Spent()
            spent = _sum([totals.spent])
            _add(spent, abandoned, -1)
            if not self._fits("gpu_hours", Spent(gpu_hours=gpu_hours), spent, _reserved(totals), may_wait=True):
                return False
            totals.spent, totals.experiments[id] = spent, ExperimentHours(gpu_hours, self._id)
        return True

    def _take(self, most: Spent, may_wait: bool) -> bool:
        """Reserve `most`; False where the caller has to wait.

        Raises:
            BudgetSpent: there will be no room, or the caller does not wait for it.
        """
        if not self._is_capped(most):
            return True
        with self._changing() as totals:
            reserved = _reserved(totals)
            if not all(self._fits(item.name, most, totals.spent, reserved, may_wait) for item in fields(Spent)):
                return False
            _add(totals.flight.setdefault(self._id, Spent()), most, 1)
        return True

    def _fits(self, name: str, most: Spent, spent: Spent, reserved: Spent, may_wait: bool) -> bool:
        cap = getattr(self.caps, name)
        amount, used, held_back = (getattr(amounts, name) for amounts in (most, spent, reserved))
        if cap is None or amount <= 0 or used + held_back + amount <= cap:
            return True
        if may_wait and used + amount <= cap:
            return False
        sentence = (
            f"The run's cap of {cap:g} {UNITS[name]} leaves no room: {used:.4g} spent, {held_back:.4g} in flight, and "
            f"the next could cost {amount:.4g}. Raise {CAP_KEYS[name]} and go on with --resume."
        )
        self._refusal = sentence, CAP_KEYS[name]
        raise BudgetSpent(*self._refusal)

    @contextmanager
    def _booked(self, most: Spent) -> Iterator[Reservation]:
        reservation = Reservation(most)
        try:
            yield reservation
        finally:
            cost = reservation.actual if reservation.actual is not None else most
            if self._is_capped(most) or any(vars(cost).values()):
                with self._changing() as totals:
                    _add(totals.spent, cost, 1)
                    if self._is_capped(most):
                        self._release(totals, most)

    def _release(self, totals: Totals, most: Spent) -> None:
        own = totals.flight.setdefault(self._id, Spent())
        _add(own, most, -1)
        if all(abs(value) < 1e-9 for value in vars(own).values()):
            del totals.flight[self._id]

    def _is_capped(self, most: Spent) -> bool:
        names = (item.name for item in fields(Spent))
        return any(getattr(self.caps, name) is not None and getattr(most, name) > 0 for name in names)

    @contextmanager
    def _changing(self) -> Iterator[Totals]:
        """The totals, for this process alone; changes are written at the end of the block, unless it raises.

        Without a change nothing is written: callers that wait look often.
        """
        with self._lock:
            if self._path is None:
                yield self._memory
                return
            # Another process may have written since: read, change and write under one lock.
            with lock_totals(self._path):
                totals = read_totals(self._path)
                before = copy.deepcopy(totals)
                self._settle_dead_processes(totals)
                yield totals
                self._show_life(totals)
                if totals != before:
                    write_totals(self._path, totals)

    def _read(self) -> Totals:
        return self._memory if self._path is None else read_totals(self._path)

    def _settle_dead_processes(self, totals: Totals) -> None:
        """Count as spent what dead processes had reserved."""
        owners = totals.flight.keys() | {hours.owner for hours in totals.experiments.values()}
        dead = [id for id in owners - {"", self._id} if not _is_alive(self._life_file(id))]
        for owner in dead:
            _add(totals.spent, totals.flight.pop(owner, Spent()), 1)
            for id in [id for id, hours in totals.experiments.items() if hours.owner == owner]:
                _abandon(totals, id)
            self._life_file(owner).unlink(missing_ok=True)

    def _show_life(self, totals: Totals) -> None:
        """Once something is reserved, hold a lock that the system releases when this process ends, however it ends."""
        reserves = self._id in totals.flight or any(hours.owner == self._id for hours in totals.experiments.values())
        if self._life is None and reserves:
            self._life = open_lock(self._life_file(self._id))
            wait_for_lock(self._life)
            weakref.finalize(self, _end_life, self._life, self._life_file(self._id), os.getpid())

    def _life_file(self, id: str) -> Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.name}.{id}")


def _add(total: Spent, amount: Spent, sign: int) -> None:
    for item in fields(Spent):
        setattr(total, item.name, getattr(total, item.name) + sign * getattr(amount, item.name))


def _sum(amounts: Iterable[Spent]) -> Spent:
    total = Spent()
    for amount in amounts:
        _add(total, amount, 1)
    return total


def _reserved(totals: Totals) -> Spent:
    """What is in flight, of all processes."""
    waited = (Spent(gpu_hours=hours.gpu_hours) for hours in totals.experiments.values() if hours.owner)
    return _sum([*totals.flight.values(), *waited])


def _abandon(totals: Totals, id: str) -> None:
    """No process waits for an experiment any more: it may go on, so all that it may take counts as spent."""
    hours = totals.experiments[id]
    totals.spent.gpu_hours += hours.gpu_hours
    totals.experiments[id] = ExperimentHours(hours.gpu_hours, "")


async def _poll(attempt: Callable[[], bool]) -> None:
    pause = FIRST_POLL
    while not attempt():
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_POLL)


def _is_alive(life_file: Path) -> bool:
    """Whether a process holds the lock on this file."""
    if not life_file.exists():
        return False
    handle = open_lock(life_file)
    try:
        return not try_lock(handle, life_file, shared=True)
    finally:
        os.close(handle)


def _end_life(handle: int, life_file: Path, pid: int) -> None:
    if pid == os.getpid():  # a forked child that exits normally must not remove its parent's file
        life_file.unlink(missing_ok=True)
        os.close(handle)
