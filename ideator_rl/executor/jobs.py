"""The jobs of one dispatcher at its backend: submitted in batches, listed in one call, cancelled in one call."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from ideator_rl.executor.backends.backend import OVER, RUNNING, WAITING, Backend, Job, JobState

BATCH = 64
"""Jobs of one submission."""
AWAY_SECONDS = 30.0
"""After a listing that failed, the next one waits at least so long."""
FRESH_SECONDS = 2.0
"""Before a submission, a listing of an engine is repeated when it is older than this."""
UNLISTED_SECONDS = 60.0
"""A job that no listing has shown is over so long after its submission."""

log = logging.getLogger(__name__)


@dataclass
class _Sent:
    """A job that was submitted."""

    id: str
    submitted: float
    state: JobState | None = None
    """As last listed."""


class Jobs:
    """Used by the thread that ticks; other threads may call `running` and `count`."""

    def __init__(self, backend: Backend, every: float | None = None):
        self.backend = backend
        self.every = backend.every if every is None or not backend.every else every
        self.away = False
        """The last listing failed: nothing is submitted until one succeeds."""
        self._sent: dict[str, _Sent] = {}
        self.changes = 0
        """Submissions and ends so far."""
        self._next_listing = 0.0
        self.listed = float("-inf")
        """Monotonic seconds of the last listing that succeeded."""

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def next_listing(self) -> float:
        """Monotonic seconds of the next listing that an engine is to be asked for."""
        return self._next_listing

    def running(self, name: str) -> bool:
        sent = self._sent.get(name)
        return sent is not None and (sent.state is None or sent.state.state == RUNNING)

    def count(self, state: str) -> int:
        """How many jobs were last listed in a state."""
        return sum(sent.state is not None and sent.state.state == state for sent in list(self._sent.values()))

    def take_ended(self, before_submission: bool) -> dict[str, tuple[str, str]]:
        """Ask for a listing when one is due; returns name and reason of the jobs that are over, by experiment.

        Args:
            before_submission: jobs are to be submitted, for which an engine's listing has to be fresh.
        """
        now = time.monotonic()
        due = now >= self._next_listing
        if before_submission and not self.away:
            due |= now - self.listed >= FRESH_SECONDS
        if not due:
            return {}
        try:
            listing = self.backend.listing()
        except Exception as error:
            log.warning("The backend could not list its jobs, and is asked again later: %r", error)
            listing = None
        self.away = listing is None
        if listing is None:
            # It changes nothing: a job is not over because its engine is away.
            self._next_listing = now + max(self.every, AWAY_SECONDS)
            return {}
        self.listed, self._next_listing = now, now + self.every
        return self._ended(listing, now)

    def _ended(self, listing: dict[str, JobState], now: float) -> dict[str, tuple[str, str]]:
        ended: dict[str, tuple[str, str]] = {}
        for name, sent in list(self._sent.items()):
            state = listing.get(name)
            if state is None:
                # Over and no longer listed, or not yet listed.
                over = sent.state is not None or now - sent.submitted > UNLISTED_SECONDS
                reason = ""
            else:
                over, reason = state.state == OVER, state.reason
                sent.state = state
            if over:
                self.changes += 1
                ended[sent.id] = name, reason
                del self._sent[name]
        return ended

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        """Submit jobs; returns what `Backend.submit` does.

        Raises:
            Exception: the backend's.
        """
        answers = self.backend.submit(jobs)
        now = time.monotonic()
        for job in jobs:
            if job.name in answers and answers[job.name] is None:
                self._sent[job.name] = _Sent(job.id, now)
                self.changes += 1
        return answers

    def forget(self, name: str) -> JobState | None:
        """The end of a job is of no interest any more; returns its state as last listed."""
        sent = self._sent.pop(name, None)
        return sent.state if sent is not None else None

    def is_waiting(self, name: str) -> bool:
        sent = self._sent.get(name)
        return sent is not None and sent.state is not None and sent.state.state == WAITING
