"""What an advantage is given with the rewards, and sums over the rows present that several advantages share.

Letters in names: P groups of a batch, G completions a group; P1 is one value a group, kept as a column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ideator_rl.errors import IdeatorError

EPSILON = 1e-4
"""Added to every spread that is divided by, as TRL does: differences below it are not blown up to unit size."""


class AdvantageError(IdeatorError):
    """A recipe asks for an advantage that cannot be made, or an advantage broke its contract."""


@dataclass(frozen=True)
class Facts:
    """Facts about the rows of a batch, beyond their rewards."""

    success_PG: torch.Tensor
    """bool: the experiment succeeded."""
    cell_PG: torch.Tensor
    """long: equal numbers within a group mean the same cluster; a negative one is unknown, and a cluster of its own."""
    progress: float
    """Share of the training that is done, 0 to 1."""


Advantage = Callable[[torch.Tensor, Facts], torch.Tensor]
"""rewards_PG (float32, NaN where missing), facts → advantages_PG (float32, 0 where missing)."""


def present(rewards_PG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows have a reward (bool, PG) and how many of each group do (long, P1)."""
    present_PG = ~torch.isnan(rewards_PG)
    return present_PG, present_PG.sum(dim=1, keepdim=True)


def centered(values_PG: torch.Tensor, present_PG: torch.Tensor) -> torch.Tensor:
    """Minus the mean of the rows present of each group; 0 where missing.  `values_PG` must be 0 there too."""
    count_P1 = present_PG.sum(dim=1, keepdim=True).clamp(min=1)
    return (values_PG - values_PG.sum(dim=1, keepdim=True) / count_P1).masked_fill(~present_PG, 0.0)


def unit_size(values_PG: torch.Tensor, present_PG: torch.Tensor) -> torch.Tensor:
    """Over the root mean square of each group's rows present, plus `EPSILON`.  `values_PG` must be 0 where missing."""
    count_P1 = present_PG.sum(dim=1, keepdim=True).clamp(min=1)
    return values_PG / ((values_PG**2).sum(dim=1, keepdim=True).div(count_P1).sqrt() + EPSILON)
