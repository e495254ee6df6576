"""How far sampling may run ahead of training, and when a batch is trained although rewards are missing."""

from __future__ import annotations

from dataclasses import dataclass

from ideator_rl.errors import IdeatorError


@dataclass(frozen=True)
class PipelineConfig:
    """
    Raises:
        IdeatorError: a number is out of its range.
    """

    max_staleness: int = 0
    """Batches that are sampled ahead; 0 for stock TRL's order."""
    quorum: float = 1.0
    """Fraction of a batch's rewards that closes it."""
    deadline: float | None = None
    """Seconds from its submission after which a batch closes whatever has come; None for never."""
    max_age: int = 4
    """Batches that an incomplete group may wait for."""

    def __post_init__(self) -> None:
        if self.max_staleness < 0:
            raise IdeatorError(f"max_staleness is {self.max_staleness}; expected 0 or more batches.")
        if not 0.0 < self.quorum <= 1.0:
            raise IdeatorError(f"quorum is {self.quorum}; expected a fraction above 0 and up to 1.")
        if self.deadline is not None and self.deadline <= 0:
            raise IdeatorError(f"deadline is {self.deadline}; expected seconds above 0, or null for none.")
        if self.max_age < 1:
            raise IdeatorError(f"max_age is {self.max_age}; expected 1 batch or more.")

    @property
    def off_policy(self) -> bool:
        """Whether anything may be trained on weights that it was not sampled from."""
        return self.max_staleness > 0 or self.quorum < 1.0 or self.deadline is not None
