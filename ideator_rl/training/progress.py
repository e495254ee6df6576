"""Progress of a training run that a person can follow: while the trainer waits for experiments, a line says what runs,
what is done and failed, the best so far, and the time left."""

from __future__ import annotations

import time

from ideator_rl.progress import Voice, clock
from ideator_rl.reward_buffer import RewardBuffer


class Progress(Voice):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.steps = 0, 0
        self._training_since = 0.0
        self._first_step = 0
        self._settled = (0, 0)
        self.buffer: RewardBuffer | None = None
        """The run's, in the process that runs experiments; set once it is open."""

    def warmup(self, step: int, steps: int, loss: float, seconds: float) -> None:
        """`seconds` since the first warm-up step began."""
        left = clock(seconds / step * (steps - step))
        self.say(f"warm-up step {step}/{steps} · loss {loss:.3f} · about {left} of warm-up left")

    def begin(self, step: int, steps: int) -> None:
        """Training starts at `step` of `steps`."""
        self.step, self.steps, self._first_step = step, steps, step
        self._training_since = time.monotonic()
        self.watch()

    def stepped(self, step: int) -> None:
        """`step` steps are done."""
        self.step, self._settled = step, self._ideas()

    def line(self) -> str:
        parts = [f"step {min(self.step + 1, self.steps)}/{self.steps}"]
        if self.buffer is not None:
            counts = self.buffer.counts()
            parts.append(
                f"experiments: {counts['running']} running, {counts['waiting']} waiting, {counts['done']} done "
                f"({counts['failed']} failed, {counts['reused']} reused)"
            )
            if counts["best"] is not None:
                parts.append(f"best {self.buffer.executor.environment.metric.name} {counts['best']:.4f}")
        return " · ".join(parts)

    def left(self) -> str:
        share = self._share()
        if share == 0.0:
            return ""
        return f" · about {clock((time.monotonic() - self._training_since) * (1 / share - 1))} left"

    def _share(self) -> float:
        """How much of this process's training is done, counting the experiments of the step under way."""
        (proposed, done), (proposed_before, done_before) = self._ideas(), self._settled
        under_way = (done - done_before) / (proposed - proposed_before) if proposed > proposed_before else 0.0
        return (self.step - self._first_step + under_way) / max(1, self.steps - self._first_step)

    def _ideas(self) -> tuple[int, int]:
        """Ideas proposed and done in this process."""
        if self.buffer is None:
            return 0, 0
        counts = self.buffer.counts()
        return counts["proposed"], counts["done"]
