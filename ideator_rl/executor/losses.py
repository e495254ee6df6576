"""Counts losses in a row, and ends a run whose cause of loss will not pass.

A lost idea is our fault and may be asked again; a run that only loses ideas costs time and learns nothing.  A run ends

- after the second permanent fault in a row: a wrong key, a refused model, an empty account;
- after `max_losses_in_a_row` losses of any cause.

Any outcome that an idea reached through implementer and machine resets both counts.  A malformed idea reached neither,
so it neither counts nor resets.  A loss for a spent budget does not count: caps end a run in their own way.
"""

from __future__ import annotations

import threading

from ideator_rl.errors import IdeatorError
from ideator_rl.implementers.implementer import ImplementerUnavailable

MAX_PERMANENT = 2
"""Permanent faults in a row that end a run: one may be an accident of a gateway."""
REFUSED, IN_A_ROW = "refused", "max_losses_in_a_row"
"""Why a run ended: what a search's journal stores in the place of a budget's key."""
REMEDY = (
    "Nothing more is asked, and what ran is kept: mend it and repeat (a run: --resume); what was lost is asked again."
)


class RunStopped(IdeatorError):
    """The run cannot go on until a person has mended something; `key` is `REFUSED` or `IN_A_ROW`."""

    def __init__(self, message: str, key: str = REFUSED):
        super().__init__(message)
        self.key = key


class Losses:
    """The counts of one run.  Every event loop that runs ideas writes them, under the lock.

    Args:
        limit: losses in a row, of any cause, that end the run; None for any number.
    """

    def __init__(self, limit: int | None = None):
        self._limit, self._lock = limit, threading.Lock()
        self._in_a_row = self._permanent = 0
        self._last: Exception | None = None
        """The last permanent fault that was counted."""
        self._stop: tuple[str, str] | None = None
        """Message and key; set once, never reset."""

    @property
    def stop(self) -> RunStopped | None:
        """Why the run has to end; None while it may go on."""
        return RunStopped(*self._stop) if self._stop else None

    def refuse(self) -> None:
        """Raises: RunStopped when the run has to end."""
        if self._stop:
            raise RunStopped(*self._stop)

    def reset(self) -> None:
        """An idea was judged."""
        with self._lock:
            self._in_a_row = self._permanent = 0

    def count(self, error: Exception) -> None:
        """An idea was lost for this reason."""
        with self._lock:
            self._in_a_row += 1
            if isinstance(error, ImplementerUnavailable) and error.permanent:
                # Equal ideas wait for one implementation, and share its error: that is one fault.
                self._permanent += error is not self._last
                self._last = error
                if error.repeated or self._permanent >= MAX_PERMANENT:
                    self._end(str(error), REFUSED)
            if self._limit is not None and self._in_a_row >= self._limit:
                reason = f"{self._in_a_row} ideas in a row were lost ({IN_A_ROW}), the last one because: {error}"
                self._end(reason, IN_A_ROW)

    def _end(self, reason: str, key: str) -> None:
        if self._stop is None:
            self._stop = f"{reason} {REMEDY}", key
