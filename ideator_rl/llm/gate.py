"""Limits the calls of this process to one server: how many at once, and how fast they start.

Guaranteed: one gate for all clients of a `base_url`, across threads and event loops; slots are given in order of
arrival; a waiter that is cancelled, or whose loop was closed, never keeps a slot.

`asyncio.Semaphore` and aiolimiter are bound to one event loop, so they cannot hold a limit that TRL's loop, the reward
runner's loop and a caller's loop share.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import NamedTuple


class _Waiter(NamedTuple):
    loop: asyncio.AbstractEventLoop
    concurrency: int
    admission: Future[None]
    """Pending while it waits, finished once it has a slot, cancelled when it gave up."""


class Gate:
    def __init__(self) -> None:
        # Every caller's thread reads and writes the three fields below, under this lock.  It is re-entrant because
        # the garbage collector may close a task of a closed loop, and so give up its wait, at any allocation.
        self._lock = threading.RLock()
        self._in_flight = 0
        self._queue: deque[_Waiter] = deque()
        self._next_start = 0.0
        """Seconds on the monotonic clock; no call starts before."""

    @asynccontextmanager
    async def slot(self, concurrency: int, requests_per_minute: float | None) -> AsyncIterator[None]:
        """Inside the block the caller may send one request.

        Args:
            concurrency: start only while fewer calls than this are in flight, whichever client sent them.
            requests_per_minute: start at least a minute divided by this after the last start; None for at once.
        """
        waiter = _Waiter(asyncio.get_running_loop(), concurrency, Future())
        with self._lock:
            self._queue.append(waiter)
            self._admit()
        try:
            await asyncio.wrap_future(waiter.admission)
            await asyncio.sleep(self._delay(requests_per_minute))
            yield
        finally:
            # `cancel` fails if the slot was given, also in the moment in which the caller was cancelled.
            had_slot = not waiter.admission.cancel()
            with self._lock:
                if had_slot:
                    self._in_flight -= 1
                elif waiter in self._queue:
                    self._queue.remove(waiter)
                self._admit()

    def pause(self, seconds: float) -> None:
        """No call starts before that: the server asked for it."""
        with self._lock:
            self._next_start = max(self._next_start, time.monotonic() + seconds)

    def _delay(self, requests_per_minute: float | None) -> float:
        """Seconds until this call may start; with a rate, the next start is booked after it."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            if requests_per_minute is not None:
                self._next_start = start + 60 / requests_per_minute
            return start - now

    def _admit(self) -> None:
        """Give free slots to the head of the queue.  The caller holds the lock."""
        while self._queue and self._in_flight < self._queue[0].concurrency:
            waiter = self._queue.popleft()
            # A loop that was closed under its waiter cannot use a slot, nor give it back.
            if not waiter.loop.is_closed() and waiter.admission.set_running_or_notify_cancel():
                self._in_flight += 1
                waiter.admission.set_result(None)


_gates: dict[str, Gate] = {}
_gates_lock = threading.Lock()


def gate(base_url: str) -> Gate:
    """The gate of this process for this server."""
    with _gates_lock:
        return _gates.setdefault(base_url, Gate())
