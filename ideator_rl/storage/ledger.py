"""The ledger: what a run has spent in USD, tokens and GPU-hours, and the caps it must keep.

Guarantee: nothing is started that could break a cap.  The maximum cost of a call or an experiment is reserved before
it starts, and replaced by its actual cost when it ends.  Thread-safe.

With a file, the totals survive restarts, and all processes that use it keep the caps together: the ranks of stock TRL,
or `rerun` on a run that goes on (one machine, or a shared file system with locks).  When a process is killed, its
reserved USD and tokens count as spent, since the calls are paid for anyway; its GPU-hours are released, since the
process that resumes the experiment books them.  Without caps nothing is reserved, so a killed process's calls are not
counted.  Must not be used on both sides of a fork.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import uuid
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from ideator_rl.config.reader import read_json
from ideator_rl.errors import IdeatorError
from ideator_rl.files import exclusive, open_lock, try_lock, wait_for_lock, write_atomic

POLL = 0.05
"""Seconds between two attempts to reserve, while other reservations leave no room."""
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


class LedgerError(IdeatorError):
    """The ledger's file cannot be read or written."""


@dataclass
class Spent:
    """Amounts: a cost, a maximum cost, or a total."""

    usd: float = 0.0
    tokens: float = 0.0
    """Prompt and completion tokens of all LLM calls together."""
    gpu_hours: float = 0.0


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


@dataclass
class Totals:
    """What the file holds."""

    spent: Spent = field(default_factory=Spent)
    flight: dict[str, Spent] = field(default_factory=dict)
    """Reserved amounts by the id of a ledger object; a process has one."""


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
            _read(path)

    @property
    def spent(self) -> Spent:
        """What was spent in all sessions and processes of the run."""
        with self._lock:
            return Spent(**vars((self._memory if self._path is None else _read(self._path)).spent))

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
        while not self._take(most, may_wait=True):
            await asyncio.sleep(POLL)
        with self._booked(most) as reservation:
            yield reservation

    def _take(self, most: Spent, may_wait: bool) -> bool:
        """Reserve `most`; False where the caller has to wait.

        Raises:
            BudgetSpent: there will be no room, or the caller does not wait for it.
        """
        if not self._is_capped(most):
            return True
        with self._changing() as totals:
            reserved = _sum(totals.flight.values())
            for item in fields(Spent):
                if not self._fits(item.name, most, totals.spent, reserved, may_wait):
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
        """The totals, for this process alone; changes are written at the end of the block, unless it raises."""
        with self._lock:
            if self._path is None:
                yield self._memory
                return
            # Another process may have written since: read, change and write under one lock.
            with _exclusive(self._path):
                totals = _read(self._path)
                self._settle_dead_processes(totals)
                yield totals
                self._show_life(totals)
                _write(self._path, totals)

    def _settle_dead_processes(self, totals: Totals) -> None:
        for id in [id for id in totals.flight if id != self._id and not _is_alive(self._life_file(id))]:
            lost = totals.flight.pop(id)
            _add(totals.spent, Spent(usd=lost.usd, tokens=lost.tokens), 1)
            self._life_file(id).unlink(missing_ok=True)

    def _show_life(self, totals: Totals) -> None:
        """Once something is reserved, hold a lock that the system releases when this process ends, however it ends."""
        if self._life is None and self._id in totals.flight:
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


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path))
        except OSError as error:
            raise _unusable(path, error) from error
        yield


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


def _read(path: Path) -> Totals:
    """Raises: LedgerError where the file is not what `_write` writes."""
    try:
        path.lstat()
        raw = read_json(path)
        flight = {id: _amounts(amounts) for id, amounts in raw.pop("flight", {}).items()}
        return Totals(_amounts(raw), flight)
    except FileNotFoundError:
        return Totals()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _unusable(path, error) from error


def _amounts(raw: dict[str, float]) -> Spent:
    """Raises: ValueError where an amount is no number from 0, by which no cap could be kept."""
    for name, value in raw.items():
        # A release may leave a rounding error below 0.
        if type(value) not in (int, float) or not value > -1e-6:
            raise ValueError(f"{name} is {str(value)[:60]!r}, and an amount from 0 was expected")
    return Spent(**raw)


def _write(path: Path, totals: Totals) -> None:
    raw: dict[str, object] = dict(vars(totals.spent))
    if totals.flight:
        raw["flight"] = {id: vars(amounts) for id, amounts in totals.flight.items()}
    try:
        write_atomic(path, json.dumps(raw))
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> LedgerError:
    return LedgerError(
        f"The run's ledger {path} cannot be used: {error}. Free space on its disk, or check that this user may write "
        'there; it is one JSON object such as {"usd": 1.5, "tokens": 20000.0, "gpu_hours": 0.0}, what was spent so far.'
    )
