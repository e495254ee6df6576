"""Progress that a person can follow in a terminal or a log: plain lines on stderr, at most one in two seconds.

While the trainer waits for experiments, a line says what runs, what is done and failed, the best so far, and the time
left; in a terminal it is rewritten in place, in a log it is printed when it changes.  Also the run's stop-watch.
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
ERASE_LINE = "\r\x1b[K"


class Progress:
    """The voice of a run, and its stop-watch: wall seconds by phase, for `timings.json`."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.step, self.steps = 0, 0
        self._training_since = 0.0
        self._first_step = 0
        self._settled = (0, 0)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, text: str, passing: bool = False) -> None:
        """Print a line with the time since the start; a passing one is overwritten where that can be done."""
        live = sys.stderr.isatty()
        start, end = (ERASE_LINE, "" if passing else "\n") if live else ("", "\n")
        with self._lock:
            print(f"{start}[{_clock(time.monotonic() - self.started)}] {text}", end=end, file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the wall seconds of a block under a name, without those counted under another name inside it."""
        before, inside = time.monotonic(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - inside
            self.seconds[name] += time.monotonic() - before - inside

    def warmup(self, step: int, steps: int, loss: float, seconds: float) -> None:
        """`seconds` since the first warm-up step began."""
        left = _clock(seconds / step * (steps - step))
        self.say(f"warm-up step {step}/{steps} · loss {loss:.3f} · about {left} of warm-up left")

    def begin(self, step: int, steps: int) -> None:
        """Training starts at `step` of `steps`."""
        self.step, self.steps, self._first_step = step, steps, step
        self._training_since = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stepped(self, step: int) -> None:
        """`step` steps are done."""
        self.step, self._settled = step, _ideas()

    def end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(INTERVAL_SECONDS)

    def timings(self) -> dict[str, float]:
        """Wall seconds by phase; `other` is what no phase counted."""
        total = time.monotonic() - self.started
        known = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**known, "other": round(total - sum(self.seconds.values()), 3), "total": round(total, 3)}

    def _watch(self) -> None:
        last = ""
        while not self._stop.wait(INTERVAL_SECONDS):
            line = self.line()
            if line != last or sys.stderr.isatty():
                self.say(line + self._left(), passing=True)
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
        share = self._share()
        if share == 0.0:
            return ""
        return f" · about {_clock((time.monotonic() - self._training_since) * (1 / share - 1))} left"

    def _share(self) -> float:
        """How much of this process's training is done, counting the experiments of the step under way."""
        (proposed, done), (proposed_before, done_before) = _ideas(), self._settled
        under_way = (done - done_before) / (proposed - proposed_before) if proposed > proposed_before else 0.0
        return (self.step - self._first_step + under_way) / max(1, self.steps - self._first_step)


def _ideas() -> tuple[int, int]:
    """Ideas proposed and done in this process."""
    counts = [buffer.counts() for buffer in live_buffers()]
    return sum(each["proposed"] for each in counts), sum(each["done"] for each in counts)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
