"""Advantages that compare a reward with the mean of its group.

`grpo` and `dr_grpo` are, bit for bit, TRL 1.16's `scale_rewards="group"` and `"none"` with
`multi_objective_aggregation="sum_then_normalize"`: the same float32 operations in the same order, so that a run can be
compared with stock TRL.  `tests/test_advantages.py` checks it.
"""

from __future__ import annotations

import torch

from ideator_rl.training.advantages.facts import EPSILON, Facts, present


def grpo(rewards_PG: torch.Tensor, facts: Facts) -> torch.Tensor:
    """(r − r̄)/(σ + 1e-4), σ with n − 1 (DeepSeekMath, 2402.03300)."""
    difference_PG = _difference(rewards_PG)
    _, count_P1 = present(rewards_PG)
    variance_P1 = torch.nanmean(difference_PG**2, dim=1, keepdim=True)
    # A group of one gets n/(n − 1) = inf and 0 · inf = NaN for its spread, which the last line makes 0.
    spread_P1 = torch.sqrt(variance_P1 * (count_P1 / (count_P1 - 1)))
    return torch.nan_to_num(difference_PG / (spread_P1 + EPSILON), nan=0.0)


def dr_grpo(rewards_PG: torch.Tensor, facts: Facts) -> torch.Tensor:
    """r − r̄ (2503.20783): no division by σ, which favours groups that hardly differ."""
    return torch.nan_to_num(_difference(rewards_PG), nan=0.0)


def loo(rewards_PG: torch.Tensor, facts: Facts) -> torch.Tensor:
    """r − mean of the others (RLOO, 2402.14740): unbiased, and n/(n − 1) times `dr_grpo`."""
    present_PG, count_P1 = present(rewards_PG)
    rewards_or_zero_PG = rewards_PG.double().masked_fill(~present_PG, 0.0)
    others_PG = (rewards_or_zero_PG.sum(dim=1, keepdim=True) - rewards_or_zero_PG) / (count_P1 - 1).clamp(min=1)
    usable_PG = present_PG & (count_P1 >= 2)
    return (rewards_or_zero_PG - others_PG).masked_fill(~usable_PG, 0.0).float()


def _difference(rewards_PG: torch.Tensor) -> torch.Tensor:
    """r − r̄ in float32; NaN where missing."""
    rewards_PG = rewards_PG.float().contiguous()
    return rewards_PG - torch.nanmean(rewards_PG, dim=1, keepdim=True)
