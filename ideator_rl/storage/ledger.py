"""The ledger: what a run has spent in USD, tokens and GPU-hours, and the caps it must keep.

Nothing is started that could break a cap: the most that a call or an experiment may cost is reserved before, and
replaced by what it did cost after, so that what is in flight counts.  Thread-safe.

With a file, what was spent is kept across restarts, and all processes of a run (ranks too, on one machine or on a
shared file system with flock) keep the caps together.  Of a process that was killed, the calls in flight count as
spent: they are paid for anyway.  Its GPU-hours are let go: who takes up the experiment books them.  Without caps the
file is touched for booking only, and a killed process's calls are not known.  Not for both sides of a fork.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
import uuid
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.files import write_atomic

POLL = 0.05
"""Seconds between two looks of one who waits for room."""


class BudgetSpent(IdeatorError):
    """A cap leaves no room for what was to be started."""


class LedgerError(IdeatorError):
    """The ledger's file cannot be read or written."""


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


@dataclass
class Books:
    """What the file holds."""

    spent: Spent = field(default_factory=Spent)
    flight: dict[str, Spent] = field(default_factory=dict)
    """Reserved, by the id of the ledger (one a process) that did it."""


class Ledger:
    def __init__(self, caps: Caps | None = None, path: Path | None = None):
        self.caps = caps or Caps()
        self._path, self._lock = path, threading.Lock()
        self._memory = Books()
        self._id = uuid.uuid4().hex
        self._alive: int | None = None
        self._refused: str | None = None
        if path is not None:
            _read(path)

    @property
    def spent(self) -> Spent:
        """What has been spent, over all lives and processes of the run."""
        with self._lock:
            return Spent(**vars((self._memory if self._path is None else _read(self._path)).spent))

    @property
    def exhausted(self) -> str | None:
        """The sentence of the first refusal, once a cap has refused this process something: time to wind down."""
        return self._refused

    def words(self) -> str:
        """What was spent, for a person."""
        spent = self.spent
        usd = f"{spent.usd:.2f}" if spent.usd >= 0.1 or not spent.usd else f"{spent.usd:.4f}"
        tokens = f"{spent.tokens:,.0f}".replace(",", " ")
        hours = f"{spent.gpu_hours:.2f}".rstrip("0").rstrip(".")
        return f"spent {usd} USD, {tokens} tokens, {hours} GPU-hours"

    @contextmanager
    def reserve(self, most: Spent) -> Iterator[Reservation]:
        """Hold room for something that may cost `most`; on leaving, what it did cost is booked.

        Raises:
            BudgetSpent: with what is spent and in flight, a cap could be broken.
        """
        self._take(most, patient=False)
        with self._booked(most) as held:
            yield held

    @asynccontextmanager
    async def reserve_when_free(self, most: Spent) -> AsyncIterator[Reservation]:
        """As `reserve`, but where only what is in flight leaves no room, waits until that has been booked.

        Raises:
            BudgetSpent: with what is spent, a cap could be broken.
        """
        while not self._take(most, patient=True):
            await asyncio.sleep(POLL)
        with self._booked(most) as held:
            yield held

    def _take(self, most: Spent, patient: bool) -> bool:
        if not self._capped(most):
            return True
        with self._open() as books:
            flight = _sum(books.flight.values())
            for item in fields(Spent):
                if not self._fits(item.name, getattr(most, item.name), books.spent, flight, patient):
                    return False
            _add(books.flight.setdefault(self._id, Spent()), most, 1)
        return True

    @contextmanager
    def _booked(self, most: Spent) -> Iterator[Reservation]:
        held = Reservation(most)
        try:
            yield held
        finally:
            cost = held.actual if held.actual is not None else most
            if self._capped(most) or any(vars(cost).values()):
                with self._open() as books:
                    _add(books.spent, cost, 1)
                    if self._capped(most):
                        self._release(books, most)

    def _release(self, books: Books, most: Spent) -> None:
        own = books.flight.setdefault(self._id, Spent())
        _add(own, most, -1)
        if all(abs(value) < 1e-9 for value in vars(own).values()):
            del books.flight[self._id]

    def _fits(self, name: str, most: float, all_spent: Spent, all_flight: Spent, patient: bool) -> bool:
        """False: room may come.  Raises BudgetSpent: it will not, or nobody waits for it."""
        cap, spent, flight = getattr(self.caps, name), getattr(all_spent, name), getattr(all_flight, name)
        if cap is None or most <= 0 or spent + flight + most <= cap:
            return True
        if patient and spent + most <= cap:
            return False
        self._refused = (
            f"The run's cap of {cap:g} {WORDS[name]} leaves no room: {spent:.4g} spent, {flight:.4g} in flight, and "
            f"the next could cost {most:.4g}. Raise {KEYS[name]} and go on with --resume."
        )
        raise BudgetSpent(self._refused)

    def _capped(self, most: Spent) -> bool:
        names = (item.name for item in fields(Spent))
        return any(getattr(self.caps, name) is not None and getattr(most, name) > 0 for name in names)

    @contextmanager
    def _open(self) -> Iterator[Books]:
        """The books, alone with them; what was changed is kept, unless an error ends the block."""
        with self._lock:
            if self._path is None:
                yield self._memory
                return
            with _alone(self._path):
                books = _read(self._path)
                self._bury(books)
                yield books
                self._show_life(books)
                _write(self._path, books)

    def _bury(self, books: Books) -> None:
        for id in [id for id in books.flight if id != self._id and not _lives(self._life(id))]:
            lost = books.flight.pop(id)
            _add(books.spent, Spent(usd=lost.usd, tokens=lost.tokens), 1)
            self._life(id).unlink(missing_ok=True)

    def _show_life(self, books: Books) -> None:
        """While something is in flight, hold a lock that ends with this process, however it ends."""
        if self._alive is None and self._id in books.flight:
            self._alive = os.open(self._life(self._id), os.O_WRONLY | os.O_CREAT, 0o644)
            fcntl.flock(self._alive, fcntl.LOCK_EX)
            weakref.finalize(self, _end_life, self._alive, self._life(self._id), os.getpid())

    def _life(self, id: str) -> Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.name}.{id}")


WORDS = {"usd": "USD", "tokens": "tokens", "gpu_hours": "GPU-hours"}
KEYS = {"usd": "max_usd", "tokens": "max_coder_tokens", "gpu_hours": "max_gpu_hours"}
"""The recipe's key of each cap."""


def _add(total: Spent, part: Spent, sign: int) -> None:
    for item in fields(Spent):
        setattr(total, item.name, getattr(total, item.name) + sign * getattr(part, item.name))


def _sum(parts: Iterable[Spent]) -> Spent:
    total = Spent()
    for part in parts:
        _add(total, part, 1)
    return total


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time.  The lock is a file beside, for the ledger's own is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(path.name + ".lock"), os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lives(life: Path) -> bool:
    """Somebody holds the lock on this file."""
    try:
        with open(life) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _end_life(handle: int, life: Path, pid: int) -> None:
    if pid == os.getpid():  # a forked child that ends in the usual way must not take its parent's file away
        life.unlink(missing_ok=True)
        os.close(handle)


def _read(path: Path) -> Books:
    """Raises: LedgerError where the file is not what `_write` writes."""
    try:
        raw = json.loads(path.read_text())
        flight = {id: Spent(**part) for id, part in raw.pop("flight", {}).items()}
        return Books(Spent(**raw), flight)
    except FileNotFoundError:
        return Books()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _unusable(path, error) from error


def _write(path: Path, books: Books) -> None:
    """Whole or not at all, and on disk."""
    raw: dict[str, object] = dict(vars(books.spent))
    if books.flight:
        raw["flight"] = {id: vars(part) for id, part in books.flight.items()}
    try:
        write_atomic(path, json.dumps(raw))
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> LedgerError:
    return LedgerError(
        f"The run's ledger {path} cannot be used: {error}. Free space on its disk, or check that this user may write "
        'there; it is one JSON object such as {"usd": 1.5, "tokens": 20000.0, "gpu_hours": 0.0}, what was spent so far.'
    )
