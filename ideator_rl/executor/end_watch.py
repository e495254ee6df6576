"""Notices in an event loop that an attempt of a backend has ended."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress


class EndWatch:
    """Wakes the clock of one event loop when an attempt of the backend ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: asyncio.Event):
        self._loop, self._wake = loop, wake
        # The backend's descriptor → our duplicate, which the backend cannot close while the loop waits for it.
        self._duplicates: dict[int, int] = {}

    def watch(self, descriptors: list[int]) -> None:
        """Wait for exactly these descriptors from now on."""
        for gone in self._duplicates.keys() - set(descriptors):
            self._remove(gone)
        for descriptor in descriptors:
            if descriptor not in self._duplicates:
                # Another thread may have found the attempt ended, and closed it: the next tick looks at that.
                with suppress(OSError):
                    self._add(descriptor)

    def close(self) -> None:
        self.watch([])

    def _add(self, descriptor: int) -> None:
        duplicate = self._duplicates[descriptor] = os.dup(descriptor)
        self._loop.add_reader(duplicate, self._on_end, descriptor)

    def _on_end(self, descriptor: int) -> None:
        # It stays readable, and would wake the clock for ever.  Its number may already be that of a new attempt's
        # descriptor: the tick that follows watches that one.
        self._remove(descriptor)
        self._wake.set()

    def _remove(self, descriptor: int) -> None:
        duplicate = self._duplicates.pop(descriptor)
        self._loop.remove_reader(duplicate)
        os.close(duplicate)
