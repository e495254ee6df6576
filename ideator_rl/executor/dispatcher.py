"""The dispatcher: experiments without a record in, jobs for the backend and outcomes out.  One thread calls `tick`.

A tick
1. lists the bucket's queue and heartbeats when that is due (`bucket_watch`): two requests, however much waits or runs;
2. asks the backend for a listing of its jobs when that is due (`jobs`);
3. reads record and attempts of the experiments at which something happened, and judges them (`attempt_policy`);
4. submits what is ready, in order, until there is no room.

Its state is the bucket.  It may be killed at any moment, and several may serve a bucket: a job has the same name for
all of them, its worker claims the attempt, and only one claim wins.  A fault of one experiment does not touch another.
An outage of the bucket is waited out (`retry`); nothing is started or given up meanwhile.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from ideator_rl.executor import record_store
from ideator_rl.executor.attempt_policy import Lost, Round
from ideator_rl.executor.backends.backend import JOB_PREEMPTED, NODE_FAIL
from ideator_rl.executor.backends.one_by_one import adapted
from ideator_rl.executor.bucket_watch import BucketWatch
from ideator_rl.executor.jobs import Jobs
from ideator_rl.executor.look_pace import CLAIM_CHECK_SECONDS, TICK_SECONDS, look_interval
from ideator_rl.executor.pending import Agenda, PendingExperiment, Phase, StartOrder
from ideator_rl.executor.record_store import DEAD, PREEMPTED, Attempt, QueueEntry
from ideator_rl.executor.retry import LONGEST_WAIT, OUTAGE_ERRORS, Backoff, RetriesExhausted, Retry
from ideator_rl.experiment import Experiment
from ideator_rl.storage.bucket import Bucket, DamagedObject

T = TypeVar("T")
log = logging.getLogger(__name__)


class Dispatcher:
    """Used by one thread, but for `running_count`.

    Args:
        on_end: called with the outcome of each experiment, in the thread that ticks.
        hardware: the kind of GPU here; an experiment that declares another kind is left to others.
        every: seconds between two looks at the bucket, and at an engine's listing; None for a pace by load.
    """

    def __init__(
        self,
        bucket: Bucket,
        backend: Any,
        retry: Retry,
        on_end: Callable[[str, Experiment | Lost], None],
        *,
        max_attempts: int = record_store.MAX_ATTEMPTS,
        isolation: str = "auto",
        hardware: str = "",
        every: float | None = None,
    ):
        self.bucket, self.backend, self.max_attempts = bucket, adapted(backend), max_attempts
        self.take_all = False
        """Take on every experiment of the queue, and not only what `add` names."""
        self.pending: dict[str, PendingExperiment] = {}
        self.jobs = Jobs(self.backend, bucket.url, isolation, every, hardware)
        self.watch = BucketWatch(bucket, every or 0.0)
        self.looks = 0
        """Looks at the bucket so far."""
        self._retry, self._on_end, self._every = retry, on_end, every
        self._host, self._agenda, self._ready = socket.gethostname(), Agenda(), StartOrder()
        # Jobs that are to be cancelled at the end of this tick.
        self._to_cancel: list[str] = []
        # Of the queue, what could not be served here, as its entry was then: a new entry is a new request.
        self._skipped: dict[str, QueueEntry] = {}
        self._next_look, self._last_event = 0.0, time.monotonic()
        self._outage: Backoff | None = None
        # Experiments that have a record and may still be in the queue.
        self._recorded: set[str] = set()
        # Those with a heartbeat at the last look; replaced as a whole, since other threads read it.
        self._beating: frozenset[str] = frozenset()

    def add(self, entry: QueueEntry) -> None:
        """Take on an experiment that a run of this process waits for, and has put into the queue."""
        self._last_event = now = time.monotonic()
        pending = self.pending.get(entry.id)
        if pending is None:
            pending = self.pending[entry.id] = PendingExperiment(entry)
            if self.backend.starts:
                self._agenda.put(entry.id, now)
            else:
                pending.phase = Phase.ELSEWHERE
        pending.awaited, pending.since = True, now
        if entry.from_attempt > pending.entry.from_attempt:
            pending.entry = entry  # a new round

    @property
    def running_count(self) -> int:
        """How many experiments run now, as far as the last looks showed."""
        beating = self._beating
        return sum(
            self.jobs.running(entry.job)
            or (entry.phase is Phase.ELSEWHERE and (entry.claim is not None or id in beating))
            for id, entry in list(self.pending.items())
        )

    @property
    def next_tick(self) -> float:
        """Monotonic seconds of the next tick that no event causes."""
        times = [self._agenda.next]
        if self.pending or self.take_all:
            times.append(self._next_look)
        if self.backend.every:
            times += [self.jobs.next_listing] if len(self.jobs) or len(self._ready) else []
        elif len(self.jobs) or (len(self._ready) and not self.jobs.breaker.reason):
            times.append(time.monotonic() + TICK_SECONDS)
        if len(self._ready) and (next_try := self.jobs.breaker.next_try) is not None:
            times.append(next_try)
        return min(times)

    def tick(self) -> None:
        """Do everything that is due once."""
        try:
            self._look()
        except OUTAGE_ERRORS as error:
            return self._wait_out(error)
        for id, (name, reason) in self.jobs.take_ended(before_submission=len(self._ready) > 0).items():
            if (pending := self.pending.get(id)) is not None and pending.job == name:
                pending.job, pending.ended_job, pending.job_reason = "", name, reason
                self._check_now(id, pending)
        due = [id for id in self._agenda.due(time.monotonic()) if id in self.pending]
        rested = {id for id in due if self.pending[id].phase is Phase.READY}
        for id in rested:
            self._ready.put(id, self.pending[id].rank)
        self._check([id for id in due if id not in rested])
        # One that the backend refused, or at which it raised, waits or is lost alone.
        pauses, faults = self.jobs.start(self._ready, self.pending)
        for id, seconds in pauses.items():
            self._agenda.put(id, time.monotonic() + seconds)
        for id, fault in faults.items():
            self._fault(id, fault)
        names, self._to_cancel = self._to_cancel, []
        self.jobs.cancel(names)

    # --- 1. The bucket ---

    def _look(self) -> None:
        """List queue and heartbeats if that is due, and plan a check of each experiment at which something changed.

        Raises:
            BucketError: the bucket is out of reach.
        """
        began = time.monotonic()
        if began < self._next_look or not (self.pending or self.take_all):
            return
        self.watch.look()
        if self._outage is not None:
            self._outage.finish()
            self._outage = None
            for id in [id for id, pending in self.pending.items() if pending.backoff is not None]:
                self._agenda.put(id, began)
        queue, beats = self.watch.queue, self.watch.beats
        self._beating = frozenset(beats)
        # Of a worker that was killed between the record and its last step.
        self._recorded &= queue.keys()
        for id in self._recorded:
            record_store.leave_queue(self.bucket, id)
        if self.take_all:
            self._take_new(queue)
        for id, pending in self.pending.items():
            pending.entry = queue.get(id, pending.entry)
            # One that was requested while the queue was listed may be missing in it.
            if id not in queue and pending.since < began:
                pending.left_queue = True
                self._check_now(id, pending, expects_record=True)
            elif self.backend.starts:
                self._compare_beat(id, pending, id in beats)
        # A backend on this machine reports ends itself, and what others do is rarely urgent.
        by_others = self.take_all or not self.backend.starts
        now = time.monotonic()
        quiet = now - self._last_event
        self._next_look = began + (self._every or look_interval(self.bucket, now - began, quiet, by_others))
        # Last: other threads then see in `pending` what this look has found.
        self.looks += 1

    def _compare_beat(self, id: str, pending: PendingExperiment, has_beat: bool) -> None:
        """See whether an attempt has begun, ended or died since the last look."""
        changed, pending.had_beat = pending.had_beat != has_beat, has_beat
        if pending.job:
            if changed and has_beat:
                self.jobs.breaker.count_claimed()
        elif pending.phase is Phase.ELSEWHERE:
            if (changed and not has_beat) or not self.watch.alive(id, pending.claim):
                self._check_now(id, pending)
            elif (line := pending.elsewhere_line()) is not None:
                log.warning("%s", line)
        elif changed and has_beat and pending.phase is Phase.READY:
            self._check_now(id, pending)

    def _take_new(self, queue: dict[str, QueueEntry]) -> None:
        for id in queue.keys() - self.pending.keys():
            entry = queue[id]
            if self._skipped.get(id) == entry or not self.jobs.may_run(entry):
                continue
            # A worker that was killed after the record has left it in the queue.
            self.pending[id] = PendingExperiment(
                entry, awaited=False, found_now=True, expects_record=True, order=int(entry.created)
            )
            self._agenda.put(id, 0.0)
            self._last_event = time.monotonic()
        self._skipped = {id: entry for id, entry in self._skipped.items() if id in queue}

    def _wait_out(self, error: Exception) -> None:
        """The bucket is out of reach: look again later, and give up what a run waits for when that takes too long."""
        self._outage = self._outage or Backoff(self._retry)
        try:
            self._next_look = time.monotonic() + self._outage.next_wait(error)
        except RetriesExhausted as exhausted:
            self._outage.finish()
            self._outage, self._next_look = None, time.monotonic() + LONGEST_WAIT
            for id in [id for id, pending in self.pending.items() if pending.awaited]:
                self._settle(id, Lost(str(exhausted)))

    # --- 2. and 3. What happened at an experiment ---

    def _check_now(self, id: str, pending: PendingExperiment, expects_record: bool = False) -> None:
        self._ready.drop(id)
        pending.phase = Phase.CHECK
        pending.expects_record |= expects_record or bool(pending.ended_job)
        self._agenda.put(id, 0.0)

    def _check(self, ids: list[str]) -> None:
        """Read record and attempts of experiments, many at a time, and act on them."""
        expected = {id for id in ids if self.pending[id].expects_record}
        left = [id for id in ids if id not in expected] + self._settle_recorded(list(expected))
        attempts = self._read(left, lambda ids: record_store.attempts_of(self.bucket, ids))
        # Without an attempt there is no record.
        unread = [id for id, every in attempts.items() if every and id not in expected]
        left_out = set(unread).difference(self._settle_recorded(unread))
        for id in [id for id in attempts if id not in left_out]:
            try:
                self._judge(id, self.pending[id], attempts[id])
            except Exception as error:
                self._fault(id, error)

    def _settle_recorded(self, ids: list[str]) -> list[str]:
        """Settle those that have a record; returns those that have none, without those whose record was not read."""

        def load(ids: list[str]) -> dict[str, Experiment | DamagedObject | None]:
            return dict.fromkeys(ids) | dict(record_store.load_records(self.bucket, ids))

        without = []
        for id, record in self._read(ids, load).items():
            if isinstance(record, DamagedObject):
                self._fault(id, record)
            elif record is not None:
                self._settle(id, record)
            else:
                without.append(id)
        return without

    def _read(self, ids: list[str], read: Callable[[list[str]], dict[str, T]]) -> dict[str, T]:
        """What `read` returns for these experiments; one at which it raises is waited for or lost alone."""
        if not ids:
            return {}
        try:
            return read(ids)
        except Exception as error:
            if len(ids) > 1:
                return {id: value for id in ids for id, value in self._read([id], read).items()}
            self._fault(ids[0], error)
            return {}

    def _fault(self, id: str, error: Exception) -> None:
        """An experiment alone is in trouble."""
        pending = self.pending[id]
        if isinstance(error, OUTAGE_ERRORS) and not isinstance(error, DamagedObject):
            pending.backoff = pending.backoff or Backoff(self._retry)
            try:
                pending.phase = Phase.CHECK
                self._agenda.put(id, time.monotonic() + pending.backoff.next_wait(error))
            except RetriesExhausted as exhausted:
                self._settle(id, Lost(str(exhausted)))
        elif isinstance(error, DamagedObject):
            with suppress(*OUTAGE_ERRORS):
                if self.backend.starts:
                    record_store.leave_queue(self.bucket, id)  # others that wait for it look, and find the same
            self._settle(id, Lost(str(error)))
        else:
            log.error("The experiment %s cannot be scheduled.", id, exc_info=error)
            self._settle(id, Lost(f"The scheduler failed at it: {error!r}"))

    def _judge(self, id: str, pending: PendingExperiment, attempts: list[Attempt]) -> None:
        """Decide what is next for an experiment without a record."""
        now = time.monotonic()
        if pending.backoff is not None:
            pending.backoff.finish()
            pending.backoff = None
        pending.found_now = False
        judged = Round(attempts, pending.entry.from_attempt, self.max_attempts)
        running = judged.running
        # Where this process starts nothing, those that do judge who is dead.
        if running is not None and self.backend.starts and not self.watch.alive(id, running.claim):
            if record_store.has_record(self.bucket, id):
                return self._check_now(id, pending, True)  # it was stored after the record was looked for
            # The engine knows better than an observer why a process is gone.
            reason = pending.job_reason or self.jobs.end_reason(id, running.number)
            kind = PREEMPTED if reason in (JOB_PREEMPTED, NODE_FAIL) else DEAD
            reason = f"its job ended: {reason}" if reason else "its worker died"
            record_store.end_attempt(self.bucket, id, running.number, kind, reason)
            judged = replace(judged, attempts=record_store.attempts(self.bucket, id))
        if pending.left_queue and self._has_left(id, pending, judged):
            return
        if judged.running is not None:
            pending.claim = judged.running.claim
            pending.phase = Phase.SUBMITTED if pending.job else Phase.ELSEWHERE
            pending.ended_job, pending.unclaimed = "", 0
            if self.backend.starts and not pending.had_beat and not pending.job:
                self._agenda.put(id, now + CLAIM_CHECK_SECONDS)
        elif (lost := judged.lost) is not None:
            if self.backend.starts:
                record_store.leave_queue(self.bucket, id)
            self._settle(id, Lost(lost, ran=True))
        elif not self.backend.starts:
            pending.phase = Phase.ELSEWHERE
        elif pending.job:
            pending.phase = Phase.SUBMITTED
        else:
            self._plan_start(id, pending, judged, now)

    def _has_left(self, id: str, pending: PendingExperiment, judged: Round) -> bool:
        """An experiment without a record is no longer in the queue; returns whether that settles it."""
        pending.left_queue = pending.expects_record = False
        if record_store.cancel_requested(self.bucket, id):
            self._settle(id, Lost("It was cancelled.", judged.claimed > judged.from_attempt), cancel=True)
        elif judged.claimed > judged.from_attempt and judged.running is None:
            # Another scheduler has given it up.
            last = judged.attempts[-1].end
            self._settle(id, Lost(last.reason if last is not None else "its worker died", ran=True))
        elif not pending.awaited:
            self._forget(id)
        else:
            # A power failure may take an entry away; a scheduler does where the specification is damaged.
            record_store.require_spec(self.bucket, id)
            record_store.enqueue(self.bucket, pending.entry)
            pending.since = time.monotonic()
            return False
        return True

    def _plan_start(self, id: str, pending: PendingExperiment, judged: Round, now: float) -> None:
        """No attempt runs and one is wanted: find out when it may start."""
        # A new failure, of any process, is followed by a pause; what was judged before has had its own.
        delay = judged.backoff("" if self.backend.every else self._host) if judged.claimed != pending.claimed else 0.0
        if pending.ended_job:
            if judged.claimed > pending.claimed:
                self.jobs.breaker.count_claimed()
                pending.unclaimed = 0
            else:
                record_store.require_spec(self.bucket, id)  # without one it is no fault of the engine's
                words = self.jobs.last_line(pending.ended_job)
                delay = self.jobs.count_unclaimed(pending, words, pending.job_reason)
        pending.claimed, pending.hosts, pending.claim = judged.claimed, judged.hosts, None
        pending.ended_job = pending.job_reason = ""
        pending.next_elsewhere_line = 0.0
        pending.expects_record = False
        pending.phase = Phase.READY
        if delay:
            self._agenda.put(id, now + delay)
        else:
            self._ready.put(id, pending.rank)

    # --- 4. Ends ---

    def _settle(self, id: str, outcome: Experiment | Lost, cancel: bool = False) -> None:
        """An experiment has an outcome.  `cancel`: its job is to end even if it runs."""
        pending = self._forget(id, cancel)
        if isinstance(outcome, Lost):
            self._skipped[id] = pending.entry
        else:
            self._recorded.add(id)
            if pending.job or pending.ended_job:
                self.jobs.breaker.count_claimed()
            # Left in the queue by a worker that was killed after the record, before this process looked.
            if not pending.awaited and pending.found_now:
                return
        self._on_end(id, outcome)

    def _forget(self, id: str, cancel: bool = False) -> PendingExperiment:
        self._last_event = time.monotonic()
        pending = self.pending.pop(id)
        if pending.backoff is not None:
            pending.backoff.finish()
        self._agenda.drop(id)
        self._ready.drop(id)
        # A job that still waits at the engine would find nothing to do.
        if pending.job and (self.jobs.is_waiting(pending.job) or cancel):
            self._to_cancel.append(pending.job)
        self.jobs.forget(pending.job)
        return pending
