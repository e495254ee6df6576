"""A run's progress lines on stderr, and its wall seconds by phase.

While a run waits, at most one line in two seconds is printed: rewritten in place in a terminal, and in a log only when
it has changed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL_SECONDS = 2.0
ERASE_LINE = "\r\x1b[K"


class ProgressReporter:
    """Prints lines, and counts wall seconds by phase for `timings.json`.

    `say` may be called from every thread.  Phases belong to one thread, the main one.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, text: str, passing: bool = False) -> None:
        """Print a line with the time since the start; a terminal overwrites a passing one with the next."""
        terminal = sys.stderr.isatty()
        start, end = (ERASE_LINE, "" if passing else "\n") if terminal else ("", "\n")
        with self._lock:
            print(f"{start}[{clock(time.monotonic() - self.started)}] {text}", end=end, file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the wall seconds of a block under a name; those of a phase inside it count for that phase alone."""
        begin, inner = time.monotonic(), sum(self.seconds.values())
        try:
            yield
        finally:
            inner = sum(self.seconds.values()) - inner
            self.seconds[name] += time.monotonic() - begin - inner

    def watch(self) -> None:
        """Begin to print `line` every two seconds, on a thread."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the thread; calling it again does nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(INTERVAL_SECONDS)

    def timings(self) -> dict[str, float]:
        """Wall seconds by phase; `other` is the time outside every phase."""
        total = time.monotonic() - self.started
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**seconds, "other": round(total - sum(self.seconds.values()), 3), "total": round(total, 3)}

    def line(self) -> str:
        """What happens now, without the clock; subclasses override it."""
        return ""

    def left(self) -> str:
        """The time left, as the end of that line; empty while it is unknown."""
        return ""

    def _watch(self) -> None:
        last_line = ""
        while not self._stop.wait(INTERVAL_SECONDS):
            line = self.line()
            if line and (line != last_line or sys.stderr.isatty()):
                self.say(line + self.left(), passing=True)
            last_line = line


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
