"""The scheduler: on a fixed clock, finds codebases without a result, and has attempts at them started.

State is the bucket; the scheduler keeps none that matters, so it may be killed at any moment and several may run at
once: an attempt is claimed by its supervisor, and only one claim wins.  An experiment is `lost` after `max_attempts`
attempts that this scheduler started, or, where the backend starts none itself, that ended since it first looked.

What goes wrong with one experiment touches no other.  An outage of the bucket is waited out (`patience.py`).  A look at
what somebody else is running costs one read of an absent result: at first ten times a second, later every fiftieth of
the time it has waited, at most 5 s apart; who runs it is looked up less often.

Futures belong to the event loop that asked; several loops may ask, and one of them keeps the clock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from ideator_rl.environments.environment import Resources, load_environment
from ideator_rl.executor import store as attempts
from ideator_rl.executor.backends import Backend
from ideator_rl.executor.backends.watched import wanted
from ideator_rl.executor.retry import OUTAGE, OutOfPatience, Patience, Trouble
from ideator_rl.experiment import Experiment
from ideator_rl.storage.bucket import Bucket

TICK_SECONDS = 0.1
REST, LONGEST_REST = 4, 0.5
"""After a tick, rest at least so many times as long as it took, but not for more seconds than that."""
PACE, SLOWEST = 1 / 50, 5.0
"""Looks for a result are this share of the time waited apart, and at most so many seconds."""
HOLDER_PACE, HOLDER_SOONEST, HOLDER_SLOWEST = 1 / 5, 1.0, 10.0
"""The same of looks at who is running it."""
GRACE = 2 * attempts.BEAT_SECONDS
"""Seconds after an outage in which heartbeats may be older than their lease: nobody could write them."""

log = logging.getLogger(__name__)


class Lost(Exception):
    """All attempts ended for reasons that are not the idea's."""


@dataclass
class Waiting:
    """An experiment without a result yet."""

    resources: Resources
    futures: list[asyncio.Future[Experiment]] = field(default_factory=list)
    """One for each event loop that asked."""
    since: float = field(default_factory=time.monotonic)
    tries: int = 0
    """Attempts that this scheduler started."""
    over_before: int | None = None
    """Attempts that had ended when it was first looked at."""
    active: bool = False
    """At the last look the backend was at it."""
    held: bool = False
    """At the last look somebody else was."""
    idle: bool = True
    """At the last look nobody was: it is to be started as soon as there is room."""
    next_look: float = 0.0
    next_holder: float = 0.0
    trouble: Trouble | None = None
    retry: float = 0.0
    """During an outage: not to be touched before."""


class Scheduler:
    def __init__(self, bucket: Bucket, backend: Backend, max_attempts: int = 3, patience: Patience | None = None):
        self._bucket, self._backend, self._max_attempts = bucket, backend, max_attempts
        self._patience = patience or Patience(bucket.url, 3600.0)
        self._starts: bool = getattr(backend, "starts", True)
        self._waiting: dict[str, Waiting] = {}
        self._finished: set[str] = set()
        self._lost: set[str] = set()
        self._resources: dict[tuple[str, str], Resources] = {}
        self._blind: Trouble | None = None
        self._lock = threading.Lock()
        self._clock: asyncio.Task[None] | None = None

    def result(self, id: str, resources: Resources) -> asyncio.Future[Experiment]:
        """The future record of an experiment whose spec is in the bucket; equal ids of one event loop share one.

        It fails with `Lost` when the attempts are used up, or the bucket was out of reach for too long.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            futures = self._waiting.setdefault(id, Waiting(resources)).futures
            futures[:] = [one for one in futures if not one.cancelled() and not one.get_loop().is_closed()]
            future = next((one for one in futures if one.get_loop() is loop), None)
            if future is None:
                future = loop.create_future()
                futures.append(future)
        self._wind()
        return future

    @property
    def waiting(self) -> list[str]:
        """Experiments without a result yet."""
        return list(self._waiting)

    @property
    def started(self) -> int:
        """Experiments that somebody is running now, as far as is known."""
        return sum(entry.held or self._backend.active(id) for id, entry in list(self._waiting.items()))

    def discover(self) -> list[asyncio.Future[Experiment]]:
        """Take on every codebase in the bucket that has no result: for a scheduler on a machine of its own.

        One that was lost here is taken on again once somebody wants it.  During an outage nothing is found; a spec
        that cannot be used on this machine is passed over, with a line in the log.
        """
        found = []
        try:
            for id in self._bucket.names("experiments"):
                if (resources := self._work_in(id)) is not None:
                    found.append(self.result(id, resources))
        except OUTAGE as error:
            self._blind = self._blind or Trouble(self._patience)
            with suppress(OutOfPatience):  # whoever serves a bucket waits for it as long as it takes
                self._blind.failed(error)
        else:
            if self._blind is not None:
                self._blind.over()
            self._blind = None
        return found

    def _work_in(self, id: str) -> Resources | None:
        """What an experiment needs that is to be taken on; None for any other."""
        if id in self._waiting or id in self._finished:
            return None
        if id in self._lost and not wanted(self._bucket, id):
            return None
        try:
            spec = attempts.Spec.load(self._bucket, id)
            if spec is None or attempts.load_result(self._bucket, id) is not None:
                self._finished.add(id)
                return None
            key = (spec.environment, spec.preset)
            if key not in self._resources:
                self._resources[key] = load_environment(spec.environment).preset(spec.preset).resources
            return self._resources[key]
        except OUTAGE:
            raise
        except Exception as error:
            log.warning("The experiment %s cannot be run here, and is passed over: %s", id, error)
            self._finished.add(id)
            return None

    def _wind(self) -> None:
        """See that some living event loop keeps the clock."""
        with self._lock:
            if self._clock is None or self._clock.done() or self._clock.get_loop().is_closed():
                self._clock = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        mine = asyncio.get_running_loop()
        try:
            while self._waiting:
                began = time.monotonic()
                self.tick()
                took = time.monotonic() - began
                await asyncio.sleep(max(TICK_SECONDS, min(REST * took, LONGEST_REST)))
        finally:
            self._hand_over(mine)

    def _hand_over(self, mine: asyncio.AbstractEventLoop) -> None:
        """This loop keeps the clock no more: let another one that waits do it."""
        with self._lock:
            self._clock = None
            loops = {future.get_loop() for entry in self._waiting.values() for future in entry.futures}
        for loop in loops - {mine}:
            if loop.is_running():
                loop.call_soon_threadsafe(self._wind)
                return

    def tick(self) -> None:
        """Look once at everything that is due: settle what has a result, start what has nobody at work."""
        room, now = True, time.monotonic()
        for id, entry in list(self._waiting.items()):
            if now < entry.retry:
                continue
            try:
                room = self._look(id, entry, now, room)
            except OUTAGE as error:
                self._wait_out(id, entry, now, error)
            except Exception as error:
                log.exception("The experiment %s cannot be looked after.", id)
                self._settle(id, Lost(f"The scheduler failed at it: {error!r}"))
            else:
                if entry.trouble is not None:
                    entry.trouble.over()
                    entry.trouble, entry.retry = None, 0.0

    def _look(self, id: str, entry: Waiting, now: float, room: bool) -> bool:
        """Returns whether there is still room for more."""
        if self._backend.active(id):
            entry.active = True
            return room
        entry.idle, entry.active = entry.idle or entry.active, False
        urgent, waited = room and entry.idle, now - entry.since
        if not urgent and entry.trouble is None and now < entry.next_look:
            return room
        entry.next_look = now + min(max(TICK_SECONDS, PACE * waited), SLOWEST)
        if (record := attempts.load_result(self._bucket, id)) is not None:
            self._settle(id, record)
        elif urgent or now >= entry.next_holder:
            entry.next_holder = now + min(max(HOLDER_SOONEST, HOLDER_PACE * waited), HOLDER_SLOWEST)
            return self._start(id, entry, room)
        return room

    def _start(self, id: str, entry: Waiting, room: bool) -> bool:
        """Have an attempt started where nobody is at work.  Returns whether there is still room for more."""
        claimed = attempts.attempts(self._bucket, id)
        entry.held = claimed > 0 and attempts.holder(self._bucket, id, claimed - 1) is not None
        entry.idle = not entry.held
        if entry.over_before is None:
            entry.over_before = claimed - entry.held
        if entry.held:
            return room  # a supervisor of an earlier life of this run, or of another scheduler
        used = entry.tries if self._starts else claimed - entry.over_before
        if used >= self._max_attempts:
            self._settle(id, Lost(attempts.last_reason(self._bucket, id)))
        elif room and (room := self._backend.submit(id, entry.resources)):
            entry.tries += 1
            entry.idle = self._starts  # one that was only asked for is for others to start
        return room

    def _wait_out(self, id: str, entry: Waiting, now: float, error: Exception) -> None:
        entry.trouble = entry.trouble or Trouble(self._patience)
        try:
            entry.retry = now + entry.trouble.failed(error)
        except OutOfPatience as spent:
            self._settle(id, Lost(str(spent)))
        if entry.held:
            entry.next_holder = entry.retry + GRACE

    def _settle(self, id: str, outcome: Experiment | Lost) -> None:
        with self._lock:
            entry = self._waiting.pop(id)
        if entry.trouble is not None:
            entry.trouble.over()
        (self._lost if isinstance(outcome, Lost) else self._finished).add(id)
        for future in entry.futures:
            if future.get_loop() is _loop():
                _tell(future, outcome)
            else:
                with suppress(RuntimeError):  # a loop that was closed has nobody who waits
                    future.get_loop().call_soon_threadsafe(_tell, future, outcome)


def _loop() -> asyncio.AbstractEventLoop | None:
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


def _tell(future: asyncio.Future[Experiment], outcome: Experiment | Lost) -> None:
    if future.done():
        return
    if isinstance(outcome, Lost):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
