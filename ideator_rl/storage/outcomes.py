"""Outcomes on their way into the journal: those that are known together are written together, off the event loop.

Guarantee: `enter` returns when the outcome is on disk.  One transaction takes what has gathered while the last one was
written, so that hundreds of results at once cost a few writes (each some 3 ms) and the event loop waits for none.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, field

from ideator_rl.experiment import Experiment
from ideator_rl.storage.journal import Journal, JournalError


@dataclass(eq=False)
class Entry:
    """An outcome that is to be written."""

    step: int
    position: int
    record: Experiment
    written: bool = False
    error: BaseException | None = None


@dataclass(eq=False)
class _Flush:
    """A write that an event loop has asked for; whoever enters before it has begun waits for it too."""

    begun: bool = False
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Outcomes:
    """For any number of event loops and threads."""

    def __init__(self, journal: Journal):
        self._journal = journal
        self._gathered: deque[Entry] = deque()
        self._writing, self._closed = threading.Lock(), False
        self._flushes: dict[asyncio.AbstractEventLoop, _Flush] = {}

    async def enter(self, step: int, position: int, record: Experiment) -> None:
        """Raises: JournalError when the journal cannot be written, or is closed."""
        entry = Entry(step, position, record)
        self._gathered.append(entry)  # before it is seen whether the write has begun: what has not, takes it
        loop = asyncio.get_running_loop()
        flush = self._flushes.get(loop)
        if flush is None or flush.begun:
            flush = self._flushes[loop] = _Flush()
            asyncio.ensure_future(self._flushed(loop, flush))
        await asyncio.shield(flush.done)
        if entry.error is not None:
            raise entry.error
        if not entry.written:
            raise JournalError("The process is ending: this outcome was not entered; a resumed run takes it up.")

    def close(self) -> None:
        """Write what has gathered, if that can be done; what comes later is refused."""
        with self._writing:
            self._take()
            self._closed = True

    async def _flushed(self, loop: asyncio.AbstractEventLoop, flush: _Flush) -> None:
        try:
            await asyncio.to_thread(self._write, flush)
        finally:
            if self._flushes.get(loop) is flush:
                del self._flushes[loop]
            if not flush.done.done():
                flush.done.set_result(None)

    def _write(self, flush: _Flush) -> None:
        with self._writing:
            flush.begun = True
            self._take()

    def _take(self) -> None:
        """Write all that has gathered."""
        batch = []
        while self._gathered:
            batch.append(self._gathered.popleft())
        if not batch:
            return
        try:
            if self._closed:
                raise JournalError("The journal was closed before this outcome was known; a resumed run takes it up.")
            self._journal.settle_all([(entry.step, entry.position, entry.record) for entry in batch])
        except BaseException as error:
            for entry in batch:
                entry.error = error
        else:
            for entry in batch:
                entry.written = True
