"""Looks at a run that the run itself can make slow, each in a process of its own.

Maps, descriptors, folders and shared memory take time that grows with what an experiment makes of them.  The process
that holds the clock therefore never looks at them itself: it forks a child that looks, and goes on measuring.

Covered: a look that takes too long is given up, and its child is killed; a child ends with its parent.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ideator_rl.sandbox.process_tree import die_with_parent, own_seconds

CPU_SECONDS, WALL_SECONDS = 2.0, 10.0
"""What one look may take.  The largest that is within all limits takes a tenth of that."""


class TooSlow(Exception):
    """The look was given up."""


class SlowLook:
    """One call of a function in a forked process."""

    def __init__(self, function: Callable[[], Any]):
        """Args: `function` returns what JSON can hold, and uses no lock that another thread could have."""
        self.cpu = 0.0
        """CPU seconds of the child, once it has been collected."""
        self._started = time.monotonic()
        self._read, write = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            die_with_parent(parent)
            _answer(function, write)
        os.close(write)

    def result(self) -> Any:
        """What the function returned; None while it runs, and when its process was killed.  Not to be called after.

        Raises:
            TooSlow: it takes longer than a look may.
        """
        if select.select([self._read], [], [], 0)[0]:
            chunks = []
            while chunk := os.read(self._read, 65_536):
                chunks.append(chunk)
            self.close()
            # Nothing, where something of the machine killed it: the next look answers.
            return json.loads(b"".join(chunks)) if chunks else None
        if time.monotonic() - self._started > WALL_SECONDS or (own_seconds(self._pid) or 0.0) > CPU_SECONDS:
            self.close()
            raise TooSlow
        return None

    @property
    def ended(self) -> bool:
        return self._pid == 0

    def close(self) -> None:
        """Give it up if it still runs, and collect its process."""
        if self._pid == 0:
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        # Another part of this process may have collected it with all others, and its time is then not known.
        with suppress(ChildProcessError):
            used = os.wait4(self._pid, 0)[2]
            self.cpu = used.ru_utime + used.ru_stime
        os.close(self._read)
        self._pid = 0


def _answer(function: Callable[[], Any], write: int) -> None:
    """The child: call the function and write what it returns.  Never returns."""
    try:
        gc.disable()  # a collection would copy the parent's memory page by page
        limit = int(CPU_SECONDS) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        body = memoryview(json.dumps(function()).encode())
        while body:
            body = body[os.write(write, body) :]
    finally:
        os._exit(0)
