"""A run's progress on stderr, and its wall seconds by phase.

A terminal shows a picture below the lines, redrawn every two seconds and cut to the width.  Where stderr goes
elsewhere, or to a terminal that cannot redraw (`TERM=dumb`), a line is printed when something has changed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ideator_rl.text.display import visible

INTERVAL_SECONDS = 2.0


class ProgressReporter:
    """Prints lines, and counts wall seconds by phase for `timings.json`.

    `say` may be called from every thread.  Phases belong to one thread, the main one.  Of several ranks, the first
    prints.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._console = Console(stderr=True, force_jupyter=False)
        # Asked of the stream itself: FORCE_COLOR makes rich take a log for a terminal.
        self._redraws = sys.stderr.isatty() and not self._console.is_dumb_terminal
        self._prints = os.environ.get("RANK", "0") == "0"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # The picture and the last line belong to the thread that holds the lock: the main one or the watching one.
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._last_line = ""

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        if self._prints:
            line = Text(f"[{clock(time.monotonic() - self.started)}] {visible(text)}")
            # A log has no width: its lines are not broken.
            self._console.print(line, soft_wrap=not self._redraws)

    def show(self) -> None:
        """Show what happens now."""
        parts = [visible(part) for part in self.parts()]
        if not parts or not self._prints:
            return
        with self._lock:
            line, last_line = " · ".join(parts), self._last_line
            self._last_line = line
            if self._redraws:
                self._draw(self._picture(parts))
            elif line != last_line:
                self.say(" · ".join(filter(None, [line, self.left()])))

    def wait(self, text: str) -> None:
        """Show on a terminal, where nothing else moves, what takes a while; `hide` or `end` erases it."""
        if self._redraws and self._prints:
            with self._lock:
                self._draw(Text(visible(text), no_wrap=True, overflow="ellipsis"))

    def hide(self) -> None:
        """Erase the picture, until it is shown again."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
            self._live = None

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
        """Begin to show progress every two seconds, on a thread."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the thread and erase the picture; calling it again does nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(INTERVAL_SECONDS)
        self.hide()

    def timings(self) -> dict[str, float]:
        """Wall seconds by phase; `other` is the time outside every phase."""
        total = time.monotonic() - self.started
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**seconds, "other": round(total - sum(self.seconds.values()), 3), "total": round(total, 3)}

    def parts(self) -> list[str]:
        """What happens now, without times: how far the run is, then details.  Subclasses override it."""
        return []

    def share(self) -> float | None:
        """The share of the run that is done; None where its end is unknown."""
        return None

    def left(self) -> str:
        """The time left, as the end of that line; empty while it is unknown."""
        return ""

    def _picture(self, parts: list[str]) -> RenderableType:
        times = ", ".join(filter(None, [clock(time.monotonic() - self.started), self.left()]))
        share = self.share()
        first = Table.grid(padding=(0, 1), expand=True)
        first.add_column(no_wrap=True, min_width=len(parts[0]))
        first.add_column(ratio=1)
        first.add_column(no_wrap=True)
        first.add_row(parts[0], ProgressBar(1.0, share) if share is not None else "", times)
        details = Text(" · ".join(parts[1:]), no_wrap=True, overflow="ellipsis")
        return Group(first, details) if parts[1:] else first

    def _draw(self, picture: RenderableType) -> None:
        if self._live is None:
            # stdout may be a file, which rich would print on the terminal instead.
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty()
            )
            self._live.start()
        self._live.update(picture, refresh=True)

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self.show()


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
