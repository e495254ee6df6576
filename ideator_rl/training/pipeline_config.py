"""How far sampling may run ahead of training, and when a batch is trained although rewards are missing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Config, Count, CountOrZero, Number, Positive


@dataclass(frozen=True)
class PipelineConfig(Config):
    """
    Raises:
        pydantic.ValidationError: a number is out of its range.
    """

    max_staleness: CountOrZero = 0
    """Batches that are sampled ahead of the one that is trained; 0 for stock TRL's order."""
    quorum: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Fraction of a batch's rewards that closes it; missing rewards are masked, or trained later."""
    deadline: Positive | None = None
    """Seconds from its submission after which a batch closes with the rewards it has; null for never."""
    max_age: Count = 4
    """Batches that an incomplete group may wait for the rest of its rewards."""

    @property
    def off_policy(self) -> bool:
        """Whether a completion may be trained on weights that it was not sampled from."""
        return self.max_staleness > 0 or self.quorum < 1.0 or self.deadline is not None
