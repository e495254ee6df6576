"""The scheduler: polls experiments without a record, and has the backend start attempts at them.

It looks at once when an experiment is requested or an attempt of its backend ends; else every 0.1 to 0.5 s, by load.

- Its state is the bucket.  It may be killed at any moment, and several may run at once: an attempt is claimed by its
  worker, and only one claim wins.
- An experiment is `lost` after `max_attempts` attempts that this scheduler started; or, where the backend starts none
  itself, that ended since this scheduler first looked.
- A fault of one experiment does not touch another.  An outage of the bucket is waited out (`retry`).
- A check for a record costs one read.  The interval is a fiftieth of the time waited so far, from 0.1 s (1 s for what
  waits for room) to 5 s.  Claims are checked less often.
- A tick costs what is due and what is running, not what waits (`pending`).
- A future belongs to the event loop that requested it.  Several loops may request; one of them runs the clock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ideator_rl.environments.environment import Resources, load_environment
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import Backend, Job
from ideator_rl.executor.backends.backend import OVER, job_name
from ideator_rl.executor.backends.one_by_one import adapted
from ideator_rl.executor.end_watch import EndWatch
from ideator_rl.executor.pending import Agenda, PendingExperiment
from ideator_rl.executor.retry import OUTAGE_ERRORS, Backoff, RetriesExhausted, Retry
from ideator_rl.experiment import Experiment
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, DamagedObject

TICK_SECONDS = 0.1
"""Between two ticks that no event causes."""
SLOW_TICK_SECONDS, REST_FACTOR, LONGEST_REST = 0.02, 4, 0.5
"""After a slow tick, rest this many times as long as it took, but at most so many seconds, whatever happens."""
RECORD_CHECK_FRACTION, MAX_RECORD_CHECK_SECONDS = 1 / 50, 5.0
"""Interval between checks for a record: this fraction of the time waited so far, at most so many seconds."""
CLAIM_CHECK_FRACTION, MIN_CLAIM_CHECK_SECONDS, MAX_CLAIM_CHECK_SECONDS = 1 / 5, 1.0, 10.0
"""The same for checks of the claim of an attempt."""
LISTING_REST_FACTOR = 50
"""After a listing of all experiments, the next one rests this many times as long as it took."""
ELSEWHERE_SECONDS, ELSEWHERE_AGAIN_SECONDS = 30.0, 600.0
"""The log says that an attempt of another run is waited for after the first, and again after the second."""
GRACE_SECONDS = 2 * record_store.HEARTBEAT_SECONDS
"""Wait this long after an outage before judging the age of a heartbeat: no worker could write one meanwhile."""

log = logging.getLogger(__name__)


class Lost(Exception):
    """All attempts ended for reasons that are not the idea's."""


class Scheduler:
    def __init__(
        self,
        bucket: Bucket,
        backend: Backend,
        max_attempts: int = 3,
        retry: Retry | None = None,
        isolation: str = "auto",
    ):
        self._isolation = isolation
        self.bucket, self.backend, self.max_attempts = bucket, adapted(backend), max_attempts
        # Experiments whose job the backend has; the clock's loop writes it at each tick.
        self._active: set[str] = set()
        self._jobs: dict[str, str] = {}
        self._retry = retry or Retry(bucket.url, 3600.0)
        # The lock guards `_waiting` (every loop adds, the clock's loop removes), `_clock` and `_wake`.
        self._lock = threading.Lock()
        self._waiting: dict[str, PendingExperiment] = {}
        # A tick looks at what is on the agenda, and at what the backend is running; both belong to the clock's loop.
        self._agenda = Agenda()
        self._submitted: set[str] = set()
        self._clock: asyncio.Task[None] | None = None
        # Set, in the clock's loop, when a tick is due at once; the clock clears it.
        self._wake = asyncio.Event()
        # Experiments that have a record or cannot run here, and lost ones.  `discover` skips both; a lost one is taken
        # on again when a retry is requested.
        self._not_to_discover: set[str] = set()
        self._lost: set[str] = set()
        self._resources: dict[tuple[str, str], Resources] = {}
        self._discover_backoff: Backoff | None = None
        # The clock's time of the next listing of all experiments by `discover`.
        self._next_listing = 0.0

    def result(self, id: str, resources: Resources) -> asyncio.Future[Experiment]:
        """The future record of an experiment whose specification is in the bucket; one future for each loop and id.

        It fails with `Lost` when the attempts are used up, or the bucket was out of reach for too long.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if (entry := self._waiting.get(id)) is None:
                entry = self._waiting[id] = PendingExperiment(resources)
                self._agenda.start(id, entry.order)
                self._agenda.look(id, entry.since)
            futures = entry.futures
            # A loop that was closed leaves futures that no caller can await any more.
            futures[:] = [future for future in futures if not future.cancelled() and not future.get_loop().is_closed()]
            future = next((future for future in futures if future.get_loop() is loop), None)
            if future is None:
                future = loop.create_future()
                futures.append(future)
        self._ensure_clock()
        return future

    @property
    def without_record(self) -> list[str]:
        """Ids of the experiments without a record yet, running ones included."""
        return list(self._waiting)

    @property
    def running_count(self) -> int:
        """How many experiments are running now, as far as the last checks showed."""
        return sum(entry.running_elsewhere or id in self._active for id, entry in list(self._waiting.items()))

    def discover(self) -> dict[str, asyncio.Future[Experiment]]:
        """Take on every experiment in the bucket that has no record: for a scheduler on a machine of its own.

        One that was lost here is taken on again when a retry is requested.  During an outage none is found.  One that
        cannot be run on this machine is skipped, with a line in the log.
        """
        futures = {}
        try:
            for id, queued in self._candidates():
                if (resources := self._resources_to_run(id, queued)) is not None:
                    futures[id] = self.result(id, resources)
        except OUTAGE_ERRORS as error:
            self._discover_backoff = self._discover_backoff or Backoff(self._retry)
            # The stand-alone scheduler never gives up on its bucket.
            with suppress(RetriesExhausted):
                self._discover_backoff.next_wait(error)
        else:
            if self._discover_backoff is not None:
                self._discover_backoff.finish()
            self._discover_backoff = None
        return futures

    def _candidates(self) -> Iterator[tuple[str, bool]]:
        """Ids of experiments that may have to be taken on, each with whether it is in the queue.

        Those in the queue, at the cost of what is new; and now and then all in the bucket, since a process of 0.1.0 or
        a power failure leaves none in the queue.
        """
        for id, retry in record_store.queued(self.bucket).items():
            # A lost one costs several reads, and only a request brings it back.
            if retry or id not in self._lost:
                yield id, True
        if (began := time.monotonic()) >= self._next_listing:
            for id in self.bucket.names("experiments"):
                yield id, False
            now = time.monotonic()
            self._next_listing = now + LISTING_REST_FACTOR * (now - began)

    def _resources_to_run(self, id: str, queued: bool) -> Resources | None:
        """What an experiment needs that is to be taken on; None for any other."""
        if id in self._waiting or id in self._not_to_discover:
            return None
        if id in self._lost and not record_store.retry_requested(self.bucket, id):
            return None
        try:
            if record_store.has_record(self.bucket, id):
                self._not_to_discover.add(id)
                if queued:  # its worker was killed after the record, or is one of 0.1.0
                    record_store.remove_from_queue(self.bucket, id, record_store.count_attempts(self.bucket, id))
                return None
            spec = record_store.Spec.load(self.bucket, id)
            if spec is None:
                return None  # it may be about to appear
            key = (spec.environment, spec.preset)
            if key not in self._resources:
                self._resources[key] = load_environment(spec.environment).preset(spec.preset).resources
            return self._resources[key]
        except Exception as error:
            if isinstance(error, OUTAGE_ERRORS) and not isinstance(error, DamagedObject):
                raise
            log.warning("The experiment %s cannot be run here, and is skipped: %s", id, error)
            self._not_to_discover.add(id)
            return None

    def _ensure_clock(self) -> None:
        """Have the clock tick soon: in the loop that runs it, or in this one when no live loop does."""
        with self._lock:
            if self._clock is None or self._clock.done() or self._clock.get_loop().is_closed():
                self._wake = asyncio.Event()
                self._clock = asyncio.get_running_loop().create_task(self._run_clock(self._wake))
            elif self._clock.get_loop() is asyncio.get_running_loop():
                self._wake.set()
            else:
                # The loop may close at this moment; the clock is then handed over.
                with suppress(RuntimeError):
                    self._clock.get_loop().call_soon_threadsafe(self._wake.set)

    async def _run_clock(self, wake: asyncio.Event) -> None:
        own_loop = asyncio.get_running_loop()
        ends = EndWatch(own_loop, wake)
        try:
            while self._waiting:
                wake.clear()
                began = time.monotonic()
                try:
                    self.tick()
                    ends.watch(self.backend.end_descriptors())
                except Exception:
                    # A fault of the backend, such as too few descriptors: without the clock, nothing would ever end.
                    log.exception("The scheduler failed in a tick, and goes on.")
                    await asyncio.sleep(LONGEST_REST)
                took = time.monotonic() - began
                # A slow bucket must not take the event loop for itself, however many events there are.
                await asyncio.sleep(min(REST_FACTOR * took, LONGEST_REST) if took > SLOW_TICK_SECONDS else 0.0)
                with suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), TICK_SECONDS)
        finally:
            ends.close()
            self._hand_over_clock(own_loop)

    def _hand_over_clock(self, own_loop: asyncio.AbstractEventLoop) -> None:
        """This loop stops running the clock: let another loop that waits run it."""
        with self._lock:
            self._clock = None
            loops = {future.get_loop() for entry in self._waiting.values() for future in entry.futures}
        for loop in loops - {own_loop}:
            if loop.is_running():
                loop.call_soon_threadsafe(self._ensure_clock)
                return

    def tick(self) -> None:
        """Check once everything that is due: settle what has a record, start what no process is running.

        Costs nothing for what is neither due, nor running on our backend, nor to be started now.
        """
        now = time.monotonic()
        listing = self.backend.listing() or {}
        self._active = {id for name, id in self._jobs.items() if name in listing and listing[name].state != OVER}
        # The record, or the next attempt, of what has ended is due at once.
        for id in [id for id in self._submitted if id not in self._active]:
            self._submitted.discard(id)
            entry = self._waiting[id]
            entry.start_when_room, entry.next_record_check = True, now
            self._look(id, entry, now)
        for id in self._agenda.due(now):
            if id in self._waiting and id not in self._submitted:
                self._look(id, self._waiting[id], now)
        # Once the backend has no room for an experiment, none behind it in the queue is tried in this tick.
        while (first := self._agenda.next_to_start()) is not None:
            pending = self._waiting.get(first)
            if pending is None or not pending.start_when_room or now < pending.retry_at or first in self._submitted:
                continue
            if not self._look(first, pending, now, start=True):
                return

    def _look(self, id: str, entry: PendingExperiment, now: float, start: bool = False) -> bool:
        """Check an experiment, survive what is wrong with it, and plan the next look.

        Returns False when an attempt was to be started and there was no room.
        """
        has_room = True
        try:
            has_room = self._check_one(id, entry, now, start)
        except DamagedObject as error:
            self._settle(id, Lost(str(error)))
        except OUTAGE_ERRORS as error:
            self._back_off(id, entry, now, error)
        except Exception as error:
            # A fault of this experiment alone, such as a record that cannot be read: the others go on.
            log.exception("The experiment %s cannot be scheduled.", id)
            self._settle(id, Lost(f"The scheduler failed at it: {error!r}"))
        else:
            if entry.backoff is not None:
                entry.backoff.finish()
                entry.backoff, entry.retry_at = None, 0.0
        if id in self._waiting and id not in self._submitted:
            self._agenda.look(id, entry.next_look)
            if entry.start_when_room:
                self._agenda.start(id, entry.order)
        return has_room

    def _check_one(self, id: str, entry: PendingExperiment, now: float, start: bool) -> bool:
        """Settle it if it has a record, else start an attempt if that is wanted and one is due.

        Returns whether there is still room for more.
        """
        if id in self._active:
            self._submitted.add(id)
            return True
        waited = now - entry.since
        if not start and entry.backoff is None and now < entry.next_record_check:
            return True
        # Nothing is expected of one that waits for room, unless another scheduler takes it.
        shortest = MIN_CLAIM_CHECK_SECONDS if entry.start_when_room and self.backend.starts else TICK_SECONDS
        entry.next_record_check = now + min(max(shortest, RECORD_CHECK_FRACTION * waited), MAX_RECORD_CHECK_SECONDS)
        if (record := record_store.load_record(self.bucket, id)) is not None:
            self._settle(id, record)
        elif start or now >= entry.next_claim_check:
            interval = min(max(MIN_CLAIM_CHECK_SECONDS, CLAIM_CHECK_FRACTION * waited), MAX_CLAIM_CHECK_SECONDS)
            entry.next_claim_check = now + interval
            return self._start(id, entry, start)
        return True

    def _start(self, id: str, entry: PendingExperiment, start: bool) -> bool:
        """Find out whether an attempt is running; if none is and one is wanted, have it started.

        Returns whether there is still room for more.
        """
        claimed = record_store.count_attempts(self.bucket, id)
        claim = record_store.live_claim(self.bucket, id, claimed - 1) if claimed else None
        entry.running_elsewhere = claim is not None
        entry.start_when_room = not entry.running_elsewhere
        if entry.ended_before is None:
            entry.ended_before = claimed - entry.running_elsewhere
        # It may be a worker of an earlier process of this run, or of another scheduler.
        if claim is not None:
            self._say_elsewhere(id, entry, claim)
            return True
        entry.next_elsewhere_line = 0.0
        used = entry.started_attempts if self.backend.starts else claimed - entry.ended_before
        if used >= self.max_attempts:
            self._settle(id, Lost(record_store.last_failure_reason(self.bucket, id)))
        elif start:
            if claimed:
                record_store.end_dead_attempt(self.bucket, id)
            job = Job(job_name(self.bucket.url, id, claimed), id, self.bucket.url, self._isolation, entry.resources, 0)
            if job.name not in self.backend.submit([job]):
                return False
            self._jobs[job.name] = id
            entry.started_attempts += 1
            if self.backend.starts:
                self._submitted.add(id)
            else:
                # It has the request now: another one at the next tick would not help.
                entry.start_when_room = False
        return True

    def _say_elsewhere(self, id: str, entry: PendingExperiment, claim: dict[str, Any]) -> None:
        """Log for which process an experiment waits, and for how long it has run.  A watched bucket is no surprise."""
        now = time.monotonic()
        if not entry.next_elsewhere_line:
            entry.next_elsewhere_line = now + ELSEWHERE_SECONDS
        if now < entry.next_elsewhere_line or not self.backend.starts:
            return
        entry.next_elsewhere_line = now + ELSEWHERE_AGAIN_SECONDS
        machine = "this machine" if claim["place"] == process_tree.host_identity() else "another machine"
        log.warning(
            "Process %d of %s has run the experiment %s for another run for %.0f s; its record counts here too.",
            claim["pid"],
            machine,
            id,
            max(0.0, time.time() - claim["time"]),
        )

    def _back_off(self, id: str, entry: PendingExperiment, now: float, error: Exception) -> None:
        entry.backoff = entry.backoff or Backoff(self._retry)
        try:
            entry.retry_at = now + entry.backoff.next_wait(error)
        except RetriesExhausted as exhausted:
            self._settle(id, Lost(str(exhausted)))
        if entry.running_elsewhere:
            entry.next_claim_check = entry.retry_at + GRACE_SECONDS

    def _settle(self, id: str, outcome: Experiment | Lost) -> None:
        with self._lock:
            entry = self._waiting.pop(id)
        if entry.backoff is not None:
            entry.backoff.finish()
        self._submitted.discard(id)
        (self._lost if isinstance(outcome, Lost) else self._not_to_discover).add(id)
        for future in entry.futures:
            if future.get_loop() is _current_loop():
                _set(future, outcome)
            else:
                # A future may be set in its own loop only; if that was closed, the task that waited is gone.
                with suppress(RuntimeError):
                    future.get_loop().call_soon_threadsafe(_set, future, outcome)


def _current_loop() -> asyncio.AbstractEventLoop | None:
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


def _set(future: asyncio.Future[Experiment], outcome: Experiment | Lost) -> None:
    if future.done():
        return
    if isinstance(outcome, Lost):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
