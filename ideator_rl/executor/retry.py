"""Waiting out an outage of the bucket.

- An outage is a `BucketError` or an `OSError`: a server that is away, a full disk, a missing right.
- The call is tried again after 1 s, 2 s, 4 s, … at most 60 s.  Each wait is drawn from the upper half of that, so that
  hundreds of callers do not come back together.
- Nothing is lost until an outage has lasted for `Retry.max_seconds`.
- One line is logged when the first caller begins to wait, one when the last stops waiting.
- Waiting never blocks the event loop, nor does the call where the bucket is remote: it then runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ideator_rl.storage.bucket import BucketError, DamagedObject

T = TypeVar("T")

OUTAGE_ERRORS = (BucketError, OSError)
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between two tries."""
THREADS = 32
"""Calls of a remote bucket at once: the ideas of a batch arrive together."""
LONGEST_BLOCKING_WAIT = 15.0
"""The same for a worker: its record has to be there before others take its attempt for dead."""

log = logging.getLogger(__name__)


class RetriesExhausted(BucketError):
    """The bucket was out of reach for longer than `Retry.max_seconds`."""


class Retry:
    """How long callers of one bucket wait out an outage, and how many are waiting.  Thread-safe."""

    def __init__(self, url: str, max_seconds: float, remote: bool = False):
        """
        Args:
            max_seconds: the longest outage that loses nothing; 0 to give up at the first failure.
            remote: each call is a network round trip, and is made in a thread.
        """
        self.url, self.max_seconds = url, max_seconds
        # A local call takes less than the way to a thread and back.
        self._threads = ThreadPoolExecutor(THREADS, "bucket") if remote else None
        # Callers waiting now, and when the first began.  Every `Backoff` of this bucket writes both, from any thread.
        self._lock, self._waiting, self._began = threading.Lock(), 0, 0.0

    async def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, which is called again while the bucket is out of reach.

        Raises:
            RetriesExhausted: it was out of reach for `max_seconds`.
            DamagedObject: the function read one.
        """
        backoff: Backoff | None = None
        try:
            while True:
                try:
                    if self._threads is None:
                        return function()
                    return await asyncio.get_running_loop().run_in_executor(self._threads, function)
                except DamagedObject:
                    raise  # it is not repaired by waiting
                except OUTAGE_ERRORS as error:
                    backoff = backoff or Backoff(self)
                    wait = backoff.next_wait(error)
                await asyncio.sleep(wait)
        finally:
            if backoff is not None:
                backoff.finish()

    def call_blocking(self, function: Callable[[], T], on_outage: Callable[[], None] = lambda: None) -> T:
        """As `call`, in a thread that may wait.

        Args:
            on_outage: called once, before the first wait.

        Raises:
            RetriesExhausted: it was out of reach for `max_seconds`.
            DamagedObject: the function read one.
        """
        backoff: Backoff | None = None
        try:
            while True:
                try:
                    return function()
                except DamagedObject:
                    raise
                except OUTAGE_ERRORS as error:
                    if backoff is None:
                        backoff = Backoff(self)
                        on_outage()
                    wait = backoff.next_wait(error)
                time.sleep(min(wait, LONGEST_BLOCKING_WAIT))
        finally:
            if backoff is not None:
                backoff.finish()

    def _caller_begins(self, error: Exception) -> None:
        with self._lock:
            self._waiting += 1
            if self._waiting > 1 or self.max_seconds <= 0:
                return
            self._began = time.monotonic()
        log.warning(
            "The bucket %s is out of reach: %s Trying again for up to %.0f s.", self.url, error, self.max_seconds
        )

    def _caller_ends(self) -> None:
        with self._lock:
            self._waiting -= 1
            if self._waiting or self.max_seconds <= 0:
                return
            lasted = time.monotonic() - self._began
        log.warning("The bucket %s: no call is waiting any more, after %.1f s.", self.url, lasted)


class Backoff:
    """The failures of one caller, from the first to the next success.  Used by one thread."""

    def __init__(self, retry: Retry):
        self._retry, self._since, self._wait, self._counted = retry, time.monotonic(), FIRST_WAIT, False

    def next_wait(self, error: Exception) -> float:
        """Seconds until the next try.

        Raises:
            RetriesExhausted: it has failed for too long.
        """
        lasted = time.monotonic() - self._since
        if lasted >= self._retry.max_seconds:
            duration = f" It was out of reach for {lasted:.0f} s." if lasted >= 1 else ""
            raise RetriesExhausted(f"{error}{duration}") from error
        if not self._counted:
            self._counted = True
            self._retry._caller_begins(error)
        wait, self._wait = self._wait * random.uniform(0.5, 1.0), min(LONGEST_WAIT, 2 * self._wait)
        # The last try falls on the end of the allowed time, not after it.
        return min(wait, max(0.0, self._retry.max_seconds - lasted))

    def finish(self) -> None:
        """The call succeeded, or is not tried any more."""
        if self._counted:
            self._counted = False
            self._retry._caller_ends()
