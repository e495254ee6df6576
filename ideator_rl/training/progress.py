"""Progress that a person can follow in a terminal or a log: one plain line on change, at most every two seconds.

What runs, what is done and failed, the best so far, and the time left; also while the trainer waits for experiments.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from ideator_rl.reward_buffer import live_buffers

INTERVAL_SECONDS = 2.0


class Progress:
    """The voice of a run, and its stop-watch: seconds by phase, for `timings.json`."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.step, self.steps = 0, 0
        self._training_since: float | None = None
        self._first_step = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def say(self, text: str) -> None:
        print(f"[{_clock(time.monotonic() - self.started)}] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the wall seconds of a block under a name."""
        before = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - before

    def warmup(self, step: int, steps: int, loss: float) -> None:
        self.say(f"warm-up step {step}/{steps} · loss {loss:.3f}")

    def begin(self, step: int, steps: int) -> None:
        """Training starts at `step` of `steps`."""
        self.step, self.steps, self._first_step = step, steps, step
        self._training_since = time.monotonic()
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(INTERVAL_SECONDS)

    def _watch(self) -> None:
        last = ""
        while not self._stop.wait(INTERVAL_SECONDS):
            line = self.line()
            if line != last:
                self.say(line + self._left())
            last = line

    def line(self) -> str:
        """One line about now, without the clock."""
        parts = [f"step {min(self.step + 1, self.steps)}/{self.steps}"]
        for buffer in live_buffers():
            counts = buffer.counts()
            parts.append(
                f"experiments: {counts['running']} running, {counts['waiting']} waiting, {counts['done']} done "
                f"({counts['failed']} failed, {counts['reused']} reused)"
            )
            if counts["best"] is not None:
                parts.append(f"best {buffer.executor.environment.metric.name} {counts['best']:.4f}")
        return " · ".join(parts)

    def _left(self) -> str:
        done = self.step - self._first_step
        if self._training_since is None or done == 0:
            return ""
        left = (time.monotonic() - self._training_since) / done * (self.steps - self.step)
        return f" · about {_clock(left)} left"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
