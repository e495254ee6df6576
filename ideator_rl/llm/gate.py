"""The gate before a server: how many calls of this process are on the wire at once, and how fast they start.

One gate for all clients with one `base_url`.  Safe across threads and event loops: a waiter is woken on its own loop,
one that is cancelled gives back what it was given, and turns are taken in order of arrival.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Future[None]
    most: int
    let_in: bool = False


class Gate:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._queue: deque[_Waiter] = deque()
        self._next_start = 0.0

    @asynccontextmanager
    async def turn(self, concurrency: int, requests_per_minute: float | None) -> AsyncIterator[None]:
        """Inside the block the caller may send one request.

        Args:
            concurrency: start only while fewer than this are inside, whoever they are.
            requests_per_minute: start this far apart from the start before; None for at once.
        """
        await self._enter(concurrency)
        try:
            await asyncio.sleep(self._until_start(0.0 if requests_per_minute is None else 60 / requests_per_minute))
            yield
        finally:
            self._leave()

    def pause(self, seconds: float) -> None:
        """Nobody starts before that: the server asked for it."""
        with self._lock:
            self._next_start = max(self._next_start, time.monotonic() + seconds)

    def _until_start(self, apart: float) -> float:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + apart if apart else self._next_start
            return start - now

    async def _enter(self, most: int) -> None:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop, loop.create_future(), most)
        with self._lock:
            self._queue.append(waiter)
            self._let_in()
        try:
            await waiter.woken
        except BaseException:
            with self._lock:
                if waiter.let_in:
                    self._inside -= 1
                elif waiter in self._queue:
                    self._queue.remove(waiter)
                self._let_in()
            raise

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            self._let_in()

    def _let_in(self) -> None:
        """Wake those at the head for whom there is room.  The lock is held."""
        while self._queue and self._inside < self._queue[0].most:
            waiter = self._queue.popleft()
            try:
                waiter.loop.call_soon_threadsafe(_wake, waiter.woken)
            except RuntimeError:  # its loop was closed while it waited: nobody is there to be woken
                continue
            waiter.let_in = True
            self._inside += 1


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


_gates: dict[str, Gate] = {}
_gates_lock = threading.Lock()


def gate(base_url: str) -> Gate:
    """The gate of this process before this server."""
    with _gates_lock:
        return _gates.setdefault(base_url, Gate())
