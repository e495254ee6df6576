"""Calls of a client library that may hang, as long as its server is away."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any


class TimedCalls:
    """Makes one call at a time, in a daemon thread: a call that hangs must not hold up the end of this process."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        # Held during a call, also after its caller has stopped waiting.
        self._idle = Lock()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns or raises.

        Raises:
            TimeoutError: it takes too long, or an earlier call has not ended.
        """
        answer: Future[Any] = Future()
        if not self._idle.acquire(blocking=False):
            raise TimeoutError("An earlier call has no answer yet.")

        def call() -> None:
            try:
                answer.set_result(function(*arguments))
            except Exception as error:
                answer.set_exception(error)
            finally:
                self._idle.release()

        # Not the main thread, where a library may replace handlers of signals.
        Thread(target=call, daemon=True).start()
        return answer.result(self._seconds)
