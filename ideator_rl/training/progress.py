"""Progress of a training run on stderr.

While the trainer waits for experiments, a line shows how many run, are done and failed, the best metric, and the time
left.
"""

from __future__ import annotations

import time

from ideator_rl.progress import ProgressReporter, clock
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.text.display import number


class Progress(ProgressReporter):
    """The run's progress.  The main thread writes the fields; the reporter's thread reads them to show the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer: RewardBuffer | None = None
        """The run's experiments, set when they can be counted; None at every rank but 0, and for a warm-up alone."""
        self.step, self.steps = 0, 0
        """Optimizer steps that are done, and all of them."""
        self._warmup: tuple[int, int, float] | None = None
        """Step, steps and loss of the warm-up while it goes on."""
        self._warmup_left = 0.0
        self._first_step, self._training_since = 0, 0.0
        self._counts_at_step = (0, 0)
        """Proposed and done ideas when the last step ended."""

    def warmup(self, step: int, steps: int, loss: float, seconds: float) -> None:
        """Report a warm-up step, `seconds` after the first one began."""
        self._warmup = (step, steps, loss)
        self._warmup_left = seconds / step * (steps - step)
        self.show()
        if step == steps:
            self.hide()
            self.say(f"warm-up done: {steps} steps, loss {loss:.3f}")

    def begin(self, step: int, steps: int) -> None:
        """Training starts at `step` of `steps`."""
        self.step, self.steps, self._first_step = step, steps, step
        self._warmup = None
        self._training_since = time.monotonic()
        self.watch()

    def stepped(self, step: int) -> None:
        """`step` steps are done."""
        self.step, self._counts_at_step = step, self._idea_counts()

    def parts(self) -> list[str]:
        if self._warmup is not None:
            step, steps, loss = self._warmup
            return [f"warm-up {step}/{steps}", f"loss {loss:.3f}"]
        parts = [f"step {min(self.step + 1, self.steps)}/{self.steps}"]
        if self.buffer is not None:
            counts = self.buffer.counts()
            parts.append(f"{counts['running']} running, {counts['waiting']} waiting")
            parts.append(f"{counts['done']} done ({counts['failed']} failed, {counts['reused']} reused)")
            if counts["best"] is not None:
                parts.append(f"best {self.buffer.executor.environment.metric.label} {number(counts['best'])}")
        return parts

    def share(self) -> float | None:
        return self._share_done() if self._warmup is None else self._warmup[0] / self._warmup[1]

    def left(self) -> str:
        if self._warmup is not None:
            return f"about {clock(self._warmup_left)} of warm-up left"
        # A forecast from this session alone: its machine and settings may differ from an earlier one's.
        share = self._share_done()
        if share == 0.0:
            return ""
        return f"about {clock((time.monotonic() - self._training_since) * (1 / share - 1))} left"

    def _share_done(self) -> float:
        """The share of this session's training that is done; the current step counts by its finished experiments."""
        # Ideas proposed since the last step count for the current one: their outcomes move the share between steps.
        (proposed, finished), (proposed_before, finished_before) = self._idea_counts(), self._counts_at_step
        current = (finished - finished_before) / (proposed - proposed_before) if proposed > proposed_before else 0.0
        return (self.step - self._first_step + current) / max(1, self.steps - self._first_step)

    def _idea_counts(self) -> tuple[int, int]:
        """Ideas proposed and done in this session."""
        if self.buffer is None:
            return 0, 0
        counts = self.buffer.counts()
        return counts["proposed"], counts["done"]
