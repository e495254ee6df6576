"""Counts an LLM's permanent faults in a row.  The second one closes its client, which then sends no further call.

One fault may be an accident of a gateway, such as a key that has not reached all its servers.  Faults are counted for
each model, since one wrong name among several fails between answers of the others, and for all models together, since
a wrong key fails for each of them.  Any answer resets the count of its model and that of all together.
"""

from __future__ import annotations

import threading
from collections import Counter

from ideator_rl.llm.faults import Fault, LLMUnavailable
from ideator_rl.llm.request import Request, digest_of

LIMIT = 2
ALL = ""
"""In the place of a model's name."""


class Refusals:
    """Every event loop that uses the client reads and writes it, under the lock."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        """Permanent faults in a row, by model and for `ALL`."""
        self._last_prompt = ""
        """Of the last fault that may be of its prompt alone."""
        self._closed = ""
        """The message of the fault that closed the client; never reset."""

    def check(self) -> None:
        """Raises: LLMUnavailable when the client is closed."""
        if self._closed:
            raise LLMUnavailable(self._closed, permanent=True, repeated=True)

    def answered(self, request: Request) -> None:
        with self._lock:
            self._counts[request.model] = self._counts[ALL] = 0
            self._last_prompt = ""

    def count(self, request: Request, fault: Fault) -> None:
        """Count a fault; a temporary one changes nothing."""
        if not fault.permanent:
            return
        with self._lock:
            # All drafts of an idea share a prompt, and what the server refuses may be its text.
            prompt = digest_of(request.messages) if fault.of_parameters else ""
            if not prompt or prompt != self._last_prompt:
                self._counts.update((request.model, ALL))
            self._last_prompt = prompt
            if not self._closed and max(self._counts[request.model], self._counts[ALL]) >= LIMIT:
                self._closed = str(fault.final_error(self._url, attempts=1))
