"""Experiments without a record yet, and which of them the scheduler is to look at next."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from dataclasses import dataclass, field

from ideator_rl.environments.environment import Resources
from ideator_rl.executor.retry import Backoff
from ideator_rl.experiment import Experiment


@dataclass
class PendingExperiment:
    """An experiment without a record yet.  Read and written by the loop that runs the clock, `futures` under the lock
    of the scheduler by every loop that requests the record."""

    resources: Resources
    futures: list[asyncio.Future[Experiment]] = field(default_factory=list)
    """One for each event loop that requested the record."""
    since: float = field(default_factory=time.monotonic)
    order: int = field(default_factory=itertools.count().__next__)
    """Of its request: attempts start in this order."""
    started_attempts: int = 0
    """By this scheduler."""
    ended_before: int | None = None
    """Attempts that had ended when it was first looked at."""
    running_elsewhere: bool = False
    """At the last check of its claim, an attempt was running that is not one of our backend: of another scheduler, of
    an earlier process, or of a watched bucket."""
    next_elsewhere_line: float = 0.0
    """When the log is to say again that another run's attempt is waited for; 0 while none is."""
    start_when_room: bool = True
    """An attempt may be started as soon as there is room."""
    next_record_check: float = 0.0
    next_claim_check: float = 0.0
    backoff: Backoff | None = None
    retry_at: float = 0.0
    """During an outage: not to be looked at before."""

    @property
    def next_look(self) -> float:
        return max(self.next_record_check, self.retry_at)


class Agenda:
    """What is due, at the cost of what is due: by time, and by order of request for those that wait for room.

    Every loop adds; the clock's loop takes.  What is taken has to be added again where it is still to be done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[tuple[float, str]] = []
        self._starts: list[tuple[int, str]] = []
        # What is in the lists, so that nothing is in one of them twice.
        self._timed: dict[str, float] = {}
        self._queued: set[str] = set()

    def look(self, id: str, at: float) -> None:
        """Have an experiment looked at; an earlier look that is planned already stays."""
        with self._lock:
            if at < self._timed.get(id, float("inf")):
                self._timed[id] = at
                heapq.heappush(self._times, (at, id))

    def due(self, now: float) -> list[str]:
        """Take those whose time has come."""
        ids = []
        with self._lock:
            while self._times and self._times[0][0] <= now:
                at, id = heapq.heappop(self._times)
                if self._timed.get(id) == at:
                    del self._timed[id]
                    ids.append(id)
        return ids

    def start(self, id: str, order: int) -> None:
        """Have an attempt started when there is room."""
        with self._lock:
            if id not in self._queued:
                self._queued.add(id)
                heapq.heappush(self._starts, (order, id))

    def next_to_start(self) -> str | None:
        """Take the one that was requested first."""
        with self._lock:
            if not self._starts:
                return None
            _, id = heapq.heappop(self._starts)
            self._queued.discard(id)
            return id
