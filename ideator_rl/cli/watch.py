"""`ideator-rl status --watch`: the summary of `status`, repeated until nothing is under way or the user leaves.

A terminal shows one picture that is kept up to date.  Where the output goes elsewhere, or to a terminal that cannot
redraw (`TERM=dumb`), a line is written when something changed, and the whole summary at the end.
Watching changes nothing: Ctrl-C or SIGTERM ends the watching, not the run.
"""

from __future__ import annotations

import signal
import time
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ideator_rl.cli.output import print_text
from ideator_rl.text.display import visible

LOOK_SECONDS = 2.0
"""Between two looks, at least."""
SIGNAL_SECONDS = 0.1
"""Between two looks for a signal: it does not end a sleep."""
LOOK_SHARE = 0.1
"""Of the time, at most, is spent on looks: a run of thousands of experiments takes a second to read."""


class Status(Protocol):
    """What can be watched: the status of a run or of a bucket."""

    def refresh(self) -> bool:
        """Look once; returns whether anything is under way."""

    def headline(self) -> str:
        """One line."""

    def text(self, rows: int | None = None) -> str:
        """The whole summary, in at most `rows` lines."""


def watch(status: Status) -> int:
    """Returns 0, when the run ended as well as when the user left."""
    # The handlers add to it, and the loops below read it: no exception can leave the terminal without its cursor.
    # A list and no `Event`, whose lock a second signal would wait for inside the handler of the first.
    signals: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    console = Console()
    try:
        if console.is_terminal and not console.is_dumb_terminal:
            _redraw(status, signals, console)
        else:
            _write_lines(status, signals)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def _redraw(status: Status, signals: list[int], console: Console) -> None:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while not signals:
            pause = _refresh(status)
            live.update(Text(visible(status.text(console.height))), refresh=True)
            if pause is None:
                return
            _sleep(pause, signals)


def _write_lines(status: Status, signals: list[int]) -> None:
    previous = ""
    while not signals:
        pause = _refresh(status)
        if pause is None:
            print_text(status.text())
            return
        if (line := status.headline()) != previous:
            print_text(line)
            previous = line
        _sleep(pause, signals)


def _refresh(status: Status) -> float | None:
    """Look once; returns the seconds to wait before the next look, None when nothing is under way."""
    start = time.monotonic()
    under_way = status.refresh()
    return max(LOOK_SECONDS, (time.monotonic() - start) / LOOK_SHARE) if under_way else None


def _sleep(seconds: float, signals: list[int]) -> None:
    """Sleep, but only until a signal arrives."""
    end = time.monotonic() + seconds
    while not signals and time.monotonic() < end:
        time.sleep(SIGNAL_SECONDS)
