"""The voice of a run and its stop-watch: plain lines on stderr, at most one in two seconds while it waits.

In a terminal such a line is rewritten in place, in a log it is printed when it changes.
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


class Voice:
    """Says what a run does, and counts wall seconds by phase, for `timings.json`."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, text: str, passing: bool = False) -> None:
        """Print a line with the time since the start; a passing one is overwritten where that can be done."""
        live = sys.stderr.isatty()
        start, end = (ERASE_LINE, "" if passing else "\n") if live else ("", "\n")
        with self._lock:
            print(f"{start}[{clock(time.monotonic() - self.started)}] {text}", end=end, file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the wall seconds of a block under a name, without those counted under another name inside it."""
        before, inside = time.monotonic(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - inside
            self.seconds[name] += time.monotonic() - before - inside

    def watch(self) -> None:
        """Begin to say `line` while the run goes on."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(INTERVAL_SECONDS)

    def timings(self) -> dict[str, float]:
        """Wall seconds by phase; `other` is what no phase counted."""
        total = time.monotonic() - self.started
        known = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**known, "other": round(total - sum(self.seconds.values()), 3), "total": round(total, 3)}

    def line(self) -> str:
        """One line about now, without the clock."""
        return ""

    def left(self) -> str:
        """How much longer, as the end of that line; empty while nobody knows."""
        return ""

    def _watch(self) -> None:
        last = ""
        while not self._stop.wait(INTERVAL_SECONDS):
            line = self.line()
            if line and (line != last or sys.stderr.isatty()):
                self.say(line + self.left(), passing=True)
            last = line


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
