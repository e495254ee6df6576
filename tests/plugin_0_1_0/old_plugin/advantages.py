"""The advantage of docs/advantages.md of 0.1.0."""

import torch

from ideator_rl.training.advantages import Facts
from old_plugin import note


def top_share(rewards_PG: torch.Tensor, facts: Facts, *, keep: float = 0.25) -> torch.Tensor:
    """+1 for the best share of each group's rows that have a reward, −1 for the others."""
    note("top_share", keep=keep, successes=int(facts.success_PG.sum()))
    bar_P1 = torch.nanquantile(rewards_PG, 1 - keep, dim=1, keepdim=True)
    return torch.where(rewards_PG >= bar_P1, 1.0, -1.0)
