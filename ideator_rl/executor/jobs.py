"""The jobs of one dispatcher at its backend: submitted in batches, and listed in one call."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from ideator_rl.executor.attempt_policy import backoff
from ideator_rl.executor.backends.backend import (
    JOB_CANCELLED,
    JOB_PREEMPTED,
    NODE_FAIL,
    OVER,
    RUNNING,
    WAITING,
    Backend,
    Job,
    JobState,
    job_name,
)
from ideator_rl.executor.breaker import Breaker
from ideator_rl.executor.pending import PendingExperiment, Phase, StartOrder
from ideator_rl.executor.queue import QueueEntry
from ideator_rl.experiment import hardware_words
from ideator_rl.sandbox.choose import why_too_weak
from ideator_rl.sandbox.sandbox import NONE
from ideator_rl.text.display import visible

BATCH = 64
"""Jobs of one submission."""
AWAY_SECONDS = 30.0
"""After a listing of an engine that failed, the next one waits at least so long."""
FAULT_SECONDS = 1.0
"""The same at a backend of this process."""
FRESH_SECONDS = 2.0
"""Before a submission, a listing of an engine is repeated when it is older than this."""
UNLISTED_SECONDS = 60.0
"""A job that no listing has shown is over so long after its submission."""
NOT_OF_THE_START = (JOB_PREEMPTED, NODE_FAIL, JOB_CANCELLED)
"""Reasons of an engine to end a job that say nothing about how it was started."""

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

    def __init__(
        self, backend: Backend, bucket_url: str, isolation: str, every: float | None = None, hardware: str = ""
    ):
        self.backend, self._bucket_url, self._isolation = backend, bucket_url, isolation
        self._hardware = hardware_words(hardware)
        self._reported: set[str] = set()
        """Levels of isolation that no job of this backend can have; each is logged once."""
        self.breaker = Breaker()
        self.every = backend.every if every is None or not backend.every else every
        self.away = False
        """The last listing failed: nothing is submitted until one succeeds."""
        self._sent: dict[str, _Sent] = {}
        self.changes = 0
        """Submissions and ends so far."""
        self._listing: dict[str, JobState] = {}
        # The listing after which there was no room; without a newer one there is none.
        self._full_at = float("nan")
        self._next_listing = 0.0
        # Why the last job ended unclaimed: the same is reported once in a row.
        self._last_words = ""
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
        if before_submission and not self.away and not self._is_full and self.breaker.most() != 0:
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
            self._next_listing = now + (max(self.every, AWAY_SECONDS) if self.every else FAULT_SECONDS)
            return {}
        self._listing, self.listed, self._next_listing = listing, now, now + self.every
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

    @property
    def _is_full(self) -> bool:
        return self._full_at == self.listed

    def start(
        self, ready: StartOrder, pending: dict[str, PendingExperiment]
    ) -> tuple[dict[str, float], dict[str, Exception]]:
        """Submit what is ready, in order, until there is no room.

        Returns:
            For each experiment whose job was refused, the seconds until it may be tried again; and what the backend
            raised at one experiment.
        """
        pauses: dict[str, float] = {}
        faults: dict[str, Exception] = {}
        # While the engine is away nothing is submitted: it may have the jobs already.
        while len(ready) and not self.away and not self._is_full and (most := self.breaker.most()) != 0:
            if most is not None and any(sent.submitted >= self.breaker.opened for sent in self._sent.values()):
                break  # one start is to show whether the cause is gone; those from before do not show it
            batch = [pending[id] for id in ready.take(most or BATCH)]
            left_out = self._submit(batch, pauses, faults)
            for item in left_out:
                ready.put(item.entry.id, item.rank)
            if left_out:
                self._full_at = self.listed
        return pauses, faults

    def _submit(
        self, batch: list[PendingExperiment], pauses: dict[str, float], faults: dict[str, Exception]
    ) -> list[PendingExperiment]:
        """Submit one batch; returns those for which there was no room."""
        jobs = [self._job(item) for item in batch]
        try:
            answers = self.backend.submit(jobs)
        except Exception as error:
            if len(batch) == 1:
                faults[batch[0].entry.id] = error
                return []
            # One of them has a fault of its own; a name that was taken before it is not started twice.
            return [left for item in batch for left in self._submit([item], pauses, faults)]
        now, left_out = time.monotonic(), []
        for item, job in zip(batch, jobs, strict=True):
            if job.name not in answers:
                left_out.append(item)
                continue
            item.submitted = now
            if (refusal := answers[job.name]) is not None:
                pauses[job.id] = self.count_unclaimed(item, visible(refusal)[:300])
                continue
            item.phase, item.job = Phase.SUBMITTED, job.name
            self._sent[job.name] = _Sent(job.id, now)
            self.changes += 1
        return left_out

    def may_run(self, entry: QueueEntry) -> bool:
        """Whether an experiment of another run is for this backend's hardware, and for its jobs' isolation."""
        # How well a node of an engine seals is found out there: its worker refuses what it is too weak for.
        if self._isolation == NONE and (reason := why_too_weak(NONE, entry.least_isolation)):
            if entry.least_isolation not in self._reported:
                self._reported.add(entry.least_isolation)
                log.warning("Experiments are left to other schedulers: %s.", reason)
            return False
        return not entry.hardware or hardware_words(entry.hardware) == self._hardware

    def _job(self, item: PendingExperiment) -> Job:
        entry = item.entry
        return Job(
            name=job_name(self._bucket_url, entry.id, item.claimed),
            id=entry.id,
            bucket=self._bucket_url,
            isolation=self._isolation,
            resources=entry.resources,
            minutes=entry.minutes,
            hardware=entry.hardware,
            avoid=item.hosts,
            least_isolation=entry.least_isolation,
        )

    def count_unclaimed(self, item: PendingExperiment, last_words: str, reason: str = "") -> float:
        """A start has ended before it claimed anything; returns the seconds until the next one of this experiment.

        Args:
            last_words: the engine's refusal, or the last line of the job's log.
            reason: why the job ended, as the engine gives it.
        """
        item.unclaimed += 1
        of_the_start = reason not in NOT_OF_THE_START
        if not of_the_start:
            last_words = f"its job was ended before it began ({reason})"
        if last_words and last_words != self._last_words:
            # At the first one: the breaker opens much later where little waits.
            log.warning("An experiment has not begun, and is sent again later: %s", last_words)
        self._last_words = last_words
        if of_the_start:
            self.breaker.count_unclaimed(item.submitted, last_words)
        return backoff(item.unclaimed)

    def last_line(self, name: str) -> str:
        """The last line of the engine's log of a job."""
        try:
            lines = [line for line in visible(self.backend.log_tail(name)).splitlines() if line.strip()]
        except Exception as error:
            # The log is for people: an engine that cannot show it must not cost the experiment.
            return f"its log cannot be read: {error!r}"[:300]
        return lines[-1].strip()[:300] if lines else ""

    def cancel(self, names: list[str]) -> None:
        """End jobs.  One that the engine does not end now finds out itself that it is not needed any more."""
        try:
            if names:
                self.backend.cancel(names)
        except Exception as error:
            log.warning("The backend did not cancel %d jobs: %s", len(names), error)

    def forget(self, name: str) -> None:
        """The end of a job is of no interest any more."""
        self._sent.pop(name, None)

    def end_reason(self, id: str, number: int) -> str:
        """Why the job of an attempt is over, as the engine gives it: also of a job that another scheduler submitted."""
        state = self._listing.get(job_name(self._bucket_url, id, number))
        return state.reason if state is not None and state.state == OVER else ""

    def is_waiting(self, name: str) -> bool:
        sent = self._sent.get(name)
        return sent is not None and sent.state is not None and sent.state.state == WAITING
