"""The circuit breaker of a scheduler: after starts in a row that claim nothing, it submits nothing for a while.

A wrong interpreter, a missing package or a refused account fails each start within a second.  Without the breaker a
scheduler would submit thousands of jobs.  The experiments keep waiting meanwhile.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

UNCLAIMED_IN_A_ROW = 5
"""Starts that open the breaker."""
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 900.0
"""Seconds.  The pause doubles while the starts after it end unclaimed too."""

log = logging.getLogger(__name__)


@dataclass
class Breaker:
    """Read and written by the scheduler's thread; other threads may read `reason`."""

    fault: str = "jobs ended before they claimed anything"
    """What it counts, as it is reported."""
    reason: str = ""
    """Why nothing is submitted now, for people; empty while it is closed."""
    _in_a_row: int = 0
    _pause: float = 0.0
    """Of the last time it opened; 0 since a start claimed its attempt."""
    opened: float = 0.0
    """Monotonic seconds of that time: starts before it do not show whether the cause is gone."""
    _ends: float = 0.0
    """Monotonic seconds of the end of the pause."""

    def most(self) -> int | None:
        """How many jobs may be submitted now; None for any number."""
        if not self._pause:
            return None
        if time.monotonic() < self._ends:
            return 0
        # After the pause one start tries whether the cause is gone.
        return 1

    @property
    def next_try(self) -> float | None:
        """Monotonic seconds of the end of a pause; None outside of one."""
        return self._ends if self._pause and time.monotonic() < self._ends else None

    def count_claimed(self) -> None:
        """A start has claimed its attempt."""
        if self._pause:
            log.warning("A job has claimed an experiment: jobs are submitted again.")
        self.reason, self._in_a_row, self._pause = "", 0, 0.0

    def count_unclaimed(self, submitted: float, last_words: str) -> None:
        """A start has ended before it claimed anything.

        Args:
            submitted: monotonic seconds of its submission.
            last_words: the engine's refusal, or the last line of the job's log.
        """
        self._in_a_row += 1
        # Jobs that were under way when it opened do not make the pause longer.
        if self._in_a_row < UNCLAIMED_IN_A_ROW or (self._pause and submitted < self.opened):
            return
        self._pause = min(LONGEST_PAUSE, 2 * self._pause) if self._pause else FIRST_PAUSE
        self.opened = time.monotonic()
        self._ends = self.opened + self._pause
        words = f"the last said: {last_words}" if last_words else "the last one left no log"
        self.reason = f"{self._in_a_row} {self.fault}; {words}"
        log.warning("%s. Nothing is submitted for %.0f s; all experiments keep waiting.", self.reason, self._pause)
