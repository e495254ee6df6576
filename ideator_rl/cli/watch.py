"""`ideator-rl status --watch`: the summary of `status`, repeated until nothing is under way or the user leaves.

A terminal shows one picture that is kept up to date.  Where the output goes elsewhere, or to a terminal that cannot
redraw (`TERM=dumb`), a line is written when something changed, and the whole summary at the end.
Watching changes nothing: Ctrl-C ends the watching, not the run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ideator_rl.cli.output import print_progress, print_text
from ideator_rl.text.display import visible

LOOK_SECONDS = 2.0
"""Between two looks, at least."""
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


def watch(find_status: Callable[[], Status | None], waiting: str) -> int:
    """Returns 0 when nothing is under way any more.

    Args:
        find_status: returns None while there is nothing to watch yet; then `waiting` is printed, once.
    """
    console = Console()
    status = find_status()
    if status is None:
        print_progress(waiting)
    while status is None:
        time.sleep(LOOK_SECONDS)
        status = find_status()
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        _redraw(status, console)
    else:
        _write_lines(status)
    return 0


def _redraw(status: Status, console: Console) -> None:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            pause = _refresh(status)
            live.update(Text(visible(status.text(console.height))), refresh=True)
            if pause is None:
                return
            time.sleep(pause)


def _write_lines(status: Status) -> None:
    previous = ""
    while (pause := _refresh(status)) is not None:
        if (line := status.headline()) != previous:
            print_text(line)
            previous = line
        time.sleep(pause)
    print_text(status.text())


def _refresh(status: Status) -> float | None:
    """Look once; returns the seconds to wait before the next look, None when nothing is under way."""
    start = time.monotonic()
    under_way = status.refresh()
    return max(LOOK_SECONDS, (time.monotonic() - start) / LOOK_SHARE) if under_way else None
