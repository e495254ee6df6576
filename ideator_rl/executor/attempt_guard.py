"""Keeps an attempt alive in the bucket, and ends this process when the attempt has to end.

- Writes a beat every `BEAT_SECONDS`.  A beat that fails is logged and dropped: an outage is no reason to end a run.
- Ends the attempt on SIGTERM (the engine preempts it, its time is over), on a request to cancel it, and when the
  process that claimed it has ended: kills its processes, writes `end.json`, and exits.
- Ends it without an `end.json` when another process has taken it for dead: after an outage, or after this process was
  stopped, for longer than the lease.
- Once there is a record, only SIGTERM and the end of the claimer end this process, after a moment for publishing it;
  it is in the spool.

The main thread may be in a call to a bucket that is away: an end works without it, and only keeps it from going on.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ideator_rl.executor import record_store
from ideator_rl.executor.record_store import CANCELLED, FAILED, PREEMPTED, Claim
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, BucketError

CLAIM_SECONDS, PARK_SECONDS, KILL_SECONDS, END_SECONDS, PUBLISH_SECONDS = 1.0, 0.2, 1.0, 2.0, 3.0
"""An end waits at most so long: for a claim that is under way, for the main thread to stop, for the processes to be
gone, for `end.json`, and for a record that is being published.  A worker has 5 s before an engine kills it."""
LIMIT_MARGIN_SECONDS = 60.0
"""An engine ends a job up to so long before its time limit: limits are in whole minutes, and signals come early."""
FENCED = "fenced"
"""Kind of an end that another process has written already."""
_CLOSE = b"\0"

_in_guard = False
"""Whether a guard of this process handles SIGTERM.  The main thread writes it; forked processes read it."""

log = logging.getLogger(__name__)


class AttemptGuard:
    """The guard of this process's one attempt.  The main thread calls its methods; `close` at the end."""

    def __init__(self, bucket: Bucket, id: str, owner: dict[str, Any] | None = None, minutes: int | None = None):
        """
        Args:
            owner: `pid` and `start` of the process that claimed the attempt and for which this one runs it.
            minutes: time limit of the job, after which its engine ends it.
        """
        self._bucket, self._id, self._minutes, self._began = bucket, id, minutes, time.monotonic()
        # The main thread writes the claim once and the workdir twice; the guard's threads read them.
        self._claim: Claim | None = None
        self.workdir: Path | None = None
        # Set unless the main thread is claiming: an end then waits, so that no claim is left without its end.
        self._settled = threading.Event()
        self._settled.set()
        # The main thread sets the first, the guard's thread the second, both under the lock: whichever comes first.
        self._lock = threading.Lock()
        self._publishing, self._ending = False, False
        # The main thread sets it when it goes no further.
        self._parked = threading.Event()
        self._published = threading.Event()
        # A beat's thread sets it, once; the guard's thread reads it.
        self._verdict: tuple[str, str] | None = None
        # When the last beat that was stored had begun: written by the beat's thread.
        self._last_beat = _seconds_with_sleep()
        self._beat: threading.Thread | None = None
        self._owner = _open_owner(owner)
        # The C handler of a signal writes its number into the pipe, whatever the main thread is doing; the handler in
        # Python has to wait for it.
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        global _in_guard
        _in_guard = True
        self._handler = signal.signal(signal.SIGTERM, self._park)
        self._wakeup = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="attempt-guard", daemon=True)
        self._thread.start()

    def claim(self, claim_attempt: Callable[[], Claim | None]) -> Claim | None:
        """Claim the attempt by a function; from then on there are beats."""
        self._settled.clear()
        try:
            self._claim = claim_attempt()
            self._last_beat = _seconds_with_sleep()
        finally:
            self._settled.set()
        return self._claim

    def begin_publishing(self) -> None:
        """The outcome is there: from now on the attempt is not ended for the sake of its cost.

        Does not return when the attempt is being ended.
        """
        with self._lock:
            if not self._ending:
                self._publishing = True
                return
        self._park()

    def _park(self, *_: object) -> None:
        """The handler of SIGTERM, in the main thread: it starts nothing more, and the guard's thread ends the process.

        A claim that is under way is completed, so that its end can be written; publishing goes on as well.
        """
        if self._publishing or not self._settled.is_set():
            return
        self._parked.set()
        while True:
            time.sleep(END_SECONDS)

    def close(self) -> None:
        """No beat and no end from here on."""
        global _in_guard
        self._published.set()
        os.write(self._waker, _CLOSE)
        self._thread.join()
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._handler)
        _in_guard = False
        for descriptor in (self._wake, self._waker, *([] if self._owner is None else [self._owner])):
            os.close(descriptor)

    def _watch(self) -> None:
        """The guard's thread: waits for the next beat, a signal, a verdict, or the end of the owner."""
        poll = select.poll()
        for descriptor in (self._wake, *([] if self._owner is None else [self._owner])):
            poll.register(descriptor, select.POLLIN)
        next_beat = time.monotonic() + record_store.BEAT_SECONDS
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(1000 * max(0.0, next_beat - time.monotonic()))}
            received = os.read(self._wake, 64) if self._wake in ready else b""
            if signal.SIGTERM in received:
                self._end(*end_by_signal(time.monotonic() - self._began, self._minutes))
            if self._owner in ready:
                self._end(PREEMPTED, "It was preempted: the process that claimed it ended.")
            if _CLOSE in received:
                return
            if self._verdict is not None and not self._publishing:
                self._end(*self._verdict)
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + record_store.BEAT_SECONDS
                self._start_beat()

    def _start_beat(self) -> None:
        # One at a time: the bucket may be away, and a call then takes as long as its client waits.
        if self._claim is not None and (self._beat is None or not self._beat.is_alive()):
            self._beat = threading.Thread(target=self._write_beat, args=(self._claim,), name="beat", daemon=True)
            # Without it, an observer may take the attempt for dead: that costs money, and a result counts all the same.
            with suppress(RuntimeError):  # the machine has no room for a thread now
                self._beat.start()

    def _write_beat(self, claim: Claim) -> None:
        try:
            began = _seconds_with_sleep()
            # No beat for a lease: others may have taken this attempt for dead, and may run the experiment by now.
            if began - self._last_beat > record_store.LEASE_SECONDS and self._is_fenced(claim):
                self._verdict = (FENCED, "")
            else:
                record_store.write_beat(self._bucket, claim)
                self._last_beat = began
                if record_store.cancel_requested(self._bucket, self._id):
                    self._verdict = (CANCELLED, "It was cancelled.")
        except (BucketError, OSError) as error:
            log.warning("A beat of the experiment %s was not stored: %s", self._id, error)
        if self._verdict is not None:
            with suppress(OSError):  # the attempt has ended meanwhile
                os.write(self._waker, b"\1")

    def _is_fenced(self, claim: Claim) -> bool:
        attempts = record_store.attempts(self._bucket, self._id)
        return attempts[-1].claim != claim or attempts[-1].end is not None

    def _end(self, kind: str, reason: str) -> None:
        """End this process, and the attempt if it has no outcome yet.  Does not return."""
        # Not for ever: the main thread may have been parked while it held the lock.
        locked = self._lock.acquire(timeout=PARK_SECONDS)
        self._ending = not self._publishing
        if locked:
            self._lock.release()
        if not self._ending:
            # Its result is in the spool, or about to be in the bucket.
            os._exit(0 if self._published.wait(PUBLISH_SECONDS) else 1)
        self._settled.wait(CLAIM_SECONDS)
        # Again, or at all: at the first time it may have been claiming.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        self._parked.wait(PARK_SECONDS)
        with suppress(RuntimeError, OSError):
            process_tree.kill_tree(os.getpid(), KILL_SECONDS)
        if self._beat is not None:
            self._beat.join(PARK_SECONDS)  # one that is stored after the end would stay
        writer = threading.Thread(target=self._write_end, args=(kind, reason), daemon=True)
        writer.start()
        if self.workdir is not None:
            # What hostile code made too deep or too large for this moment is removed by the next worker.
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(["rm", "-rf", str(self.workdir)], stderr=subprocess.DEVNULL, timeout=KILL_SECONDS)
        writer.join(END_SECONDS)
        os._exit(1)

    def _write_end(self, kind: str, reason: str) -> None:
        if self._claim is None or kind == FENCED:
            return
        try:
            # An engine that was asked to cancel the job also sends SIGTERM.
            if kind == PREEMPTED and record_store.cancel_requested(self._bucket, self._id):
                kind, reason = CANCELLED, "It was cancelled."
            record_store.end_attempt(self._bucket, self._id, self._claim.number, kind, reason)
        except (BucketError, OSError) as error:
            log.warning("The end of the attempt at %s was not stored: %s", self._id, error)


def end_by_signal(seconds: float, minutes: int | None) -> tuple[str, str]:
    """Kind and reason of an attempt's end by SIGTERM.

    Args:
        seconds: how long its worker has run.
        minutes: time limit of the job.
    """
    # A preemption is free, and the experiment starts anew: one that needs more time than its job has would never end.
    if minutes is not None and seconds > 60 * minutes - LIMIT_MARGIN_SECONDS:
        return FAILED, f"It did not end within {minutes} minutes, the time limit of its job."
    return PREEMPTED, "It was preempted: its worker received SIGTERM."


def _seconds_with_sleep() -> float:
    """Seconds by a clock that goes on while the machine is suspended: others may take over meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _open_owner(owner: dict[str, Any] | None) -> int | None:
    """A descriptor that becomes readable when the owner ends; at once when it has ended."""
    if owner is None:
        return None
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(owner["pid"])
        # Only now, when the descriptor holds the process: the pid may be that of a later one.
        if process_tree.start_time(owner["pid"]) == owner["start"]:
            return descriptor
        os.close(descriptor)
    read, write = os.pipe()
    os.close(write)
    return read


def _reset_in_child() -> None:
    """A process that was forked from a guarded one ends on SIGTERM, and its signals are none of the worker's."""
    if _in_guard:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_reset_in_child)
