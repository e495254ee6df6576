"""The scheduler: gives the event loops of a run the records of their experiments, from a thread of its own.

    event loop: result(entry) → future        thread: requests → `dispatcher` → outcomes → futures

The thread makes all calls of the bucket and of the backend, so that neither ever blocks an event loop.  It is woken by
a request and by the end of a job, where the backend has descriptors for that; else it ticks when the dispatcher says
so.  It ends when nothing has waited for a while, and a later request starts another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ideator_rl.executor import record_store
from ideator_rl.executor.attempt_policy import Lost
from ideator_rl.executor.dispatcher import Dispatcher
from ideator_rl.executor.record_store import QueueEntry
from ideator_rl.executor.retry import Retry
from ideator_rl.experiment import Experiment
from ideator_rl.storage.bucket import Bucket

__all__ = ["Lost", "Scheduler"]

LINGER_SECONDS = 5.0
"""The thread ends when nothing has waited for so long."""
FAULT_SECONDS, FAULT_LINE_SECONDS = 0.5, 60.0
"""Until the next tick after one that failed, and until the same fault is logged again."""
CLOSE_SECONDS = 5.0
"""For a tick to end when the scheduler is closed."""

log = logging.getLogger(__name__)


class Scheduler:
    """Several event loops may request records; a future belongs to the loop that requested it.

    Args:
        retry: how long an outage of the bucket is waited out before what a run waits for is lost.
        hardware: the kind of GPU here, for `serve`.
        every: seconds between two looks at the bucket; None for a pace by load.
    """

    def __init__(
        self,
        bucket: Bucket,
        backend: Any,
        max_attempts: int = record_store.MAX_ATTEMPTS,
        retry: Retry | None = None,
        isolation: str = "auto",
        hardware: str = "",
        every: float | None = None,
    ):
        self.bucket = bucket
        retry = retry or Retry(bucket.url, 3600.0)
        # Its methods but `running_count` are called by the thread alone; before that thread is started by nobody.
        self.dispatcher = Dispatcher(
            bucket,
            backend,
            retry,
            self._on_end,
            max_attempts=max_attempts,
            isolation=isolation,
            hardware=hardware,
            every=every,
        )
        self.backend = self.dispatcher.backend
        # The lock guards what follows: loops add requests, the thread takes them; the thread removes futures.
        self._lock = threading.Lock()
        self._futures: dict[str, list[asyncio.Future[Experiment]]] = {}
        self._requests: list[QueueEntry] = []
        self._thread: threading.Thread | None = None
        self._closing = False
        # Readable when the thread is to tick at once; made with the thread and closed by it.
        self._wake = -1
        self._serve_end: Callable[[str, Experiment | Lost], None] | None = None

    def result(self, entry: QueueEntry) -> asyncio.Future[Experiment]:
        """The future record of an experiment that is in the queue of the bucket; one future for each loop and id.

        It fails with `Lost` when the attempts are used up, or the bucket was out of reach for too long.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            futures = self._futures.setdefault(entry.id, [])
            # A loop that was closed leaves futures that no caller can await any more.
            futures[:] = [future for future in futures if not future.cancelled() and not future.get_loop().is_closed()]
            future = next((future for future in futures if future.get_loop() is loop), None)
            if future is None:
                future = loop.create_future()
                futures.append(future)
                self._requests.append(entry)
            self._start_or_wake()
        return future

    def serve(self, on_end: Callable[[str, Experiment | Lost], None]) -> None:
        """Take on every experiment of the bucket's queue until `close`.

        Args:
            on_end: called in the thread with each outcome.
        """
        with self._lock:
            self._serve_end, self.dispatcher.take_all = on_end, True
            self._start_or_wake()

    @property
    def without_record(self) -> list[str]:
        """Ids of the experiments without a record yet, running ones included."""
        with self._lock:
            return list({**self._futures, **self.dispatcher.pending})

    @property
    def running_count(self) -> int:
        """How many experiments run now, as far as the last looks showed."""
        return self.dispatcher.running_count

    def tick(self) -> None:
        """Take the requests and do once what is due.  The thread calls it; a test may, where there is no thread."""
        with self._lock:
            requests, self._requests = self._requests, []
        for entry in requests:
            self.dispatcher.add(entry)
        self.dispatcher.tick()

    def close(self) -> None:
        """End the thread.  Jobs go on; what is requested later starts it again."""
        with self._lock:
            thread, self._closing = self._thread, True
            if thread is not None:
                os.eventfd_write(self._wake, 1)
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    def _start_or_wake(self) -> None:
        """Have the thread tick at once; to be called with the lock."""
        # A thread that is still in its last tick goes on, since it could not see a request that comes after that.
        self._closing = False
        # In a process that was forked from the one that had the thread it is not alive.
        if self._thread is None or not self._thread.is_alive():
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._thread = threading.Thread(target=self._run, args=(self._wake,), name="scheduler", daemon=True)
            self._thread.start()
        else:
            os.eventfd_write(self._wake, 1)

    def _run(self, wake: int) -> None:
        idle_since = time.monotonic()
        # Descriptors of ended jobs that woke the thread, and how many jobs had begun or ended by then.
        woken_by: set[int] = set()
        changes = 0
        # The last fault that was logged, and when it is logged again while it lasts.
        fault, next_line = "", 0.0
        while True:
            try:
                self.tick()
                descriptors = self.backend.end_descriptors()
            except Exception as error:
                # A fault of the backend, such as too few descriptors: without this thread, nothing would ever end.
                if repr(error) != fault or time.monotonic() >= next_line:
                    log.exception("The scheduler failed in a tick, and goes on.")
                    fault, next_line = repr(error), time.monotonic() + FAULT_LINE_SECONDS
                descriptors = []
                time.sleep(FAULT_SECONDS)
            now = time.monotonic()
            if self.dispatcher.pending or self.dispatcher.take_all:
                idle_since = now
            with self._lock:
                idle = now - idle_since >= LINGER_SECONDS and not self._requests
                if self._closing or idle:
                    self._thread = None
                    os.close(wake)
                    return
            if changes == self.dispatcher.jobs.changes:
                # One that stays readable although no job has ended would wake the thread for ever.
                descriptors = [descriptor for descriptor in descriptors if descriptor not in woken_by]
            changes = self.dispatcher.jobs.changes
            woken_by = _wait(wake, descriptors, min(self.dispatcher.next_tick, idle_since + LINGER_SECONDS))

    def _on_end(self, id: str, outcome: Experiment | Lost) -> None:
        with self._lock:
            futures = self._futures.pop(id, [])
        for future in futures:
            # A future may be set in its own loop only; if that was closed, the task that waited is gone.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_set, future, outcome)
        if self._serve_end is not None:
            self._serve_end(id, outcome)


def _wait(wake: int, descriptors: list[int], until: float) -> set[int]:
    """Wait for a request, the end of a job, or a time; returns the descriptors of jobs that have ended."""
    poll = select.poll()
    for descriptor in (wake, *descriptors):
        poll.register(descriptor, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(max(0.0, (until - time.monotonic()) * 1000))}
    if wake in ready:
        os.eventfd_read(wake)
    return ready - {wake}


def _set(future: asyncio.Future[Experiment], outcome: Experiment | Lost) -> None:
    if future.done():
        return
    if isinstance(outcome, Lost):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
