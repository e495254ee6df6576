"""One session of a training run: what its parts are handed, from the start until the end or a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from ideator_rl.errors import IdeatorError
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.training.progress import Progress
from ideator_rl.training.recipe.recipe import Recipe


@dataclass(frozen=True)
class Session:
    """A session in one process of the run."""

    recipe: Recipe
    progress: Progress
    model_card: Callable[[Recipe], str]
    """Returns the text of the trained model's card, as Markdown."""
    resume: bool = False
    """Continue the run in the recipe's folder."""
    buffer: RewardBuffer | None = None
    """The run's experiments; None at every rank but 0."""

    def spent_cap(self) -> str | None:
        """Why no experiment may be started any more, as a sentence; None while one may, and at every rank but 0."""
        return self.buffer.executor.ledger.exhausted if self.buffer is not None else None


class OtherRankFailed(IdeatorError):
    """Rank 0 failed to compute what it was to broadcast."""


def is_rank_zero() -> bool:
    """Whether this process runs the experiments; read from the environment, since torch may not be loaded yet."""
    return int(os.environ.get("RANK", "0")) == 0


def buffer_config(recipe: Recipe) -> BufferConfig:
    """Where and how the recipe's experiments are run."""
    ours = recipe.ours
    return BufferConfig(
        environment=ours.env,
        preset=ours.preset,
        bucket=recipe.bucket,
        coder=json.dumps(ours.coder, sort_keys=True) if ours.coder else "",
        replicates=ours.replicates,
        seed=recipe.seed,
        run_dir=str(recipe.output_dir),
        **ours.experiment_settings() | {"max_losses_in_a_row": ours.max_losses_in_a_row or recipe.generation_batch},
    )
