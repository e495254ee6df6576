"""Patience: an outage of the bucket is waited out, and only one that lasts longer loses anything.

What counts as an outage is a `BucketError` or an `OSError`: a server that is away, a full disk, a missing right.  It is
tried again after 1 s, then 2, 4, … at most 60 s, each between half and all of that at random, so that hundreds that
wait do not come back together.  One line is logged when the first begins to wait, one when nobody waits any more.
Waiting never blocks the event loop; the call itself may, for as long as the bucket takes to answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ideator_rl.storage.bucket import BucketError

T = TypeVar("T")

OUTAGE = (BucketError, OSError)
SHORTEST, LONGEST = 1.0, 60.0
"""Seconds between two tries, at first and at most."""

log = logging.getLogger(__name__)


class OutOfPatience(BucketError):
    """The bucket was out of reach for longer than the patience."""


class Patience:
    """What all who wait for one bucket share.  Thread-safe."""

    def __init__(self, url: str, seconds: float):
        """
        Args:
            seconds: the longest outage that loses nothing; 0 to give up at the first failure.
        """
        self.url, self.seconds = url, seconds
        self._lock, self._waiting, self._began = threading.Lock(), 0, 0.0

    async def through(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is called again while the bucket is out of reach.

        Raises:
            OutOfPatience: it was out of reach for all of the patience.
        """
        trouble: Trouble | None = None
        try:
            while True:
                try:
                    return work()
                except OUTAGE as error:
                    trouble = trouble or Trouble(self)
                    wait = trouble.failed(error)
                await asyncio.sleep(wait)
        finally:
            if trouble is not None:
                trouble.over()

    def _joined(self, error: Exception) -> None:
        with self._lock:
            self._waiting += 1
            if self._waiting > 1 or self.seconds <= 0:
                return
            self._began = time.monotonic()
        log.warning("The bucket %s is out of reach: %s Trying again for up to %.0f s.", self.url, error, self.seconds)

    def _left(self) -> None:
        with self._lock:
            self._waiting -= 1
            if self._waiting or self.seconds <= 0:
                return
            lasted = time.monotonic() - self._began
        log.warning("The bucket %s: nobody waits for it any more, after %.1f s.", self.url, lasted)


class Trouble:
    """One caller's row of failures, from its first to the next success."""

    def __init__(self, patience: Patience):
        self._patience, self._since, self._wait, self._waits = patience, time.monotonic(), SHORTEST, False

    def failed(self, error: Exception) -> float:
        """Seconds until the next try.

        Raises:
            OutOfPatience: it has failed for too long.
        """
        lasted = time.monotonic() - self._since
        if lasted >= self._patience.seconds:
            after = f" It was out of reach for {lasted:.0f} s." if lasted >= 1 else ""
            raise OutOfPatience(f"{error}{after}") from error
        if not self._waits:
            self._waits = True
            self._patience._joined(error)
        wait, self._wait = self._wait * random.uniform(0.5, 1.0), min(LONGEST, 2 * self._wait)
        return min(wait, max(0.0, self._patience.seconds - lasted))

    def over(self) -> None:
        """It succeeded, or is not tried any more."""
        if self._waits:
            self._waits = False
            self._patience._left()
