"""Experiments without a record yet, and which of them the dispatcher is to look at or to start next.

All of it belongs to the thread that ticks.
"""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field
from enum import Enum

from ideator_rl.executor.record_store import Claim, QueueEntry
from ideator_rl.executor.retry import Backoff
from ideator_rl.text.display import visible

ELSEWHERE_SECONDS, ELSEWHERE_AGAIN_SECONDS = 30.0, 600.0
"""The log says that an attempt of another run is waited for after the first, and again after the second."""


class Phase(Enum):
    """What the dispatcher waits for at an experiment."""

    CHECK = "for the time of its next look at record and attempts"
    READY = "for room at the backend"
    SUBMITTED = "for the end of its job"
    ELSEWHERE = "for an attempt that is not a job of this dispatcher"


@dataclass
class PendingExperiment:
    entry: QueueEntry
    awaited: bool = True
    """A run of this process waits for it; else it is only in the queue of the bucket."""
    since: float = field(default_factory=time.monotonic)
    """Of the last request: a listing of the queue that began before need not name it."""
    order: int = field(default_factory=itertools.count().__next__)
    phase: Phase = Phase.CHECK
    found_now: bool = False
    """It was taken from the queue, and nothing has been found out about it yet."""
    expects_record: bool = False
    """At its next look there is probably a record, which is then read first."""
    left_queue: bool = False
    """The last listing of the queue did not name it."""
    claimed: int = 0
    """Attempts that were claimed, at the last look at them."""
    hosts: tuple[str, ...] = ()
    """Where those that count ran."""
    had_beat: bool = False
    """The last listing of heartbeats named it."""
    claim: Claim | None = None
    """Of an attempt that runs elsewhere."""
    next_elsewhere_line: float = 0.0
    """When the log is to say again that it is waited for; 0 while it is not."""
    job: str = ""
    """Its job at the backend; empty while there is none."""
    submitted: float = 0.0
    """When that was."""
    ended_job: str = ""
    """A job that is over and whose meaning the next look is to find out; `job_reason` is the engine's reason."""
    job_reason: str = ""
    unclaimed: int = 0
    """Jobs in a row that ended before they claimed anything."""
    backoff: Backoff | None = None
    """Of an outage of its own objects."""

    @property
    def rank(self) -> tuple[int, int]:
        """Attempts start in this order."""
        return -self.entry.priority, self.order

    def elsewhere_line(self) -> str | None:
        """What the log is to say now of an attempt of another run that this one waits for; None for nothing."""
        now = time.monotonic()
        if not self.next_elsewhere_line:
            self.next_elsewhere_line = now + ELSEWHERE_SECONDS
        if self.claim is None or now < self.next_elsewhere_line or not self.awaited:
            return None
        self.next_elsewhere_line = now + ELSEWHERE_AGAIN_SECONDS
        machine = "this machine" if self.claim.is_here else f"the machine {visible(self.claim.host)}"
        return (
            f"Process {self.claim.pid} of {machine} has run the experiment {self.entry.id} for another run for "
            f"{max(0.0, time.time() - self.claim.time):.0f} s; its record counts here too."
        )


class Agenda:
    """Ids whose time has come, at the cost of those alone."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        # The time of each id.  Entries of the heap with another time are outdated.
        self._times: dict[str, float] = {}

    def put(self, id: str, at: float) -> None:
        """Have an experiment looked at; an earlier time that is planned already stays."""
        if at < self._times.get(id, float("inf")):
            self._times[id] = at
            heapq.heappush(self._heap, (at, id))

    def drop(self, id: str) -> None:
        self._times.pop(id, None)

    def due(self, now: float) -> list[str]:
        """Take those whose time has come."""
        ids = []
        while self._heap and self._heap[0][0] <= now:
            at, id = heapq.heappop(self._heap)
            if self._times.get(id) == at:
                del self._times[id]
                ids.append(id)
        return ids

    @property
    def next(self) -> float:
        """The earliest time; infinite when nothing is planned."""
        return self._heap[0][0] if self._heap else float("inf")


class StartOrder:
    """Ids that wait for room, in the order of their starts."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], str]] = []
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, id: str, rank: tuple[int, int]) -> None:
        if id not in self._ids:
            self._ids.add(id)
            heapq.heappush(self._heap, (rank, id))

    def drop(self, id: str) -> None:
        self._ids.discard(id)

    def take(self, most: int) -> list[str]:
        """Take the first ones."""
        ids: list[str] = []
        while self._heap and len(ids) < most:
            _, id = heapq.heappop(self._heap)
            if id in self._ids:
                self._ids.discard(id)
                ids.append(id)
        return ids
