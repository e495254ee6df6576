"""The entropic advantage: exponential weights whose sharpness is set anew for every group.

Always finite: weights are relative to the best, β has a bound, and so has the advantage.
"""

from __future__ import annotations

import math

import torch

from ideator_rl.training.advantages.facts import Facts, present

HALVINGS = 100
"""Of the interval that holds β: enough for the last bit of a float64, for rewards of any scale."""
REACHABLE_SHARE = 0.5
"""γ is at most this share of the KL that β → ∞ would give: two or three successes could ask for an infinite β."""


def entropic(
    rewards_PG: torch.Tensor,
    facts: Facts,
    *,
    gamma: float = math.log(2),
    clip: float | None = None,
    beta_max: float = 1e4,
) -> torch.Tensor:
    """e^{βr} / (mean of the others' e^{βr}) − 1, over the rows present (TTT-Discover, 2601.16175).

    β of each group is the one with KL(softmax βr ‖ uniform) = γ.  Departures from the paper's published code: the KL is
    over the group's successes only (over all rows, β is spent on telling failures from successes as soon as fewer than
    half succeed), or over all rows present if fewer than two different successes are among them; γ is at most half
    of what β → ∞ would reach, so that few successes do not ask for an infinite β; β is bounded earlier (there at 1e6);
    and the advantage is bounded, for the mean of the others leaves the best one out and can be arbitrarily near 0.

    Args:
        gamma: nats.  About m·e^{−γ} of m successes carry the gradient: ln 2 (the paper's) half of them, ln(G/8) eight.
        clip: the largest advantage; null for n − 1, the bound that the weight would have if the mean included itself.
        beta_max: in units of 1/reward: with 1e4, differences far below 1e-4 do not count, as in `grpo`.
    """
    present_PG, count_P1 = present(rewards_PG)
    rewards_or_zero_PG = rewards_PG.double().masked_fill(~present_PG, 0.0)
    wanted_PG = _rows_that_differ(rewards_or_zero_PG, present_PG & facts.success_PG.bool(), present_PG)
    beta_P1 = solve_beta(rewards_or_zero_PG, wanted_PG, gamma, beta_max)
    best_P1 = rewards_or_zero_PG.masked_fill(~present_PG, -torch.inf).amax(dim=1, keepdim=True)
    best_P1 = torch.where(count_P1 > 0, best_P1, 0.0)
    # Relative to the best, so that no exponential overflows.
    tilted_PG = torch.exp(beta_P1 * (rewards_or_zero_PG - best_P1)).masked_fill(~present_PG, 0.0)
    others_PG = (tilted_PG.sum(dim=1, keepdim=True) - tilted_PG) / (count_P1 - 1).clamp(min=1)
    bound_P1 = count_P1.double() - 1 if clip is None else torch.full_like(best_P1, clip)
    # The mean of the others may be 0 for the best row: the bound replaces an infinite ratio.
    values_PG = torch.minimum(tilted_PG / others_PG - 1, bound_P1)
    usable_PG = present_PG & (count_P1 >= 2)
    return torch.where(usable_PG, values_PG, 0.0).float()


def solve_beta(rewards_or_zero_PG: torch.Tensor, rows_PG: torch.Tensor, gamma: float, beta_max: float) -> torch.Tensor:
    """β ≥ 0 of each group with KL(softmax βr ‖ uniform) = γ over the marked rows (float64, P1).

    The KL grows with β (its slope is β times the variance under the softmax), so that halving finds it.  0 where the
    marked rows are all equal; `beta_max` where γ is out of reach below it.
    """
    rows_PG = rows_PG | ~rows_PG.any(dim=1, keepdim=True)  # a group without a marked row: its result is not used
    count_P1 = rows_PG.sum(dim=1, keepdim=True).double()
    best_P1 = rewards_or_zero_PG.masked_fill(~rows_PG, -torch.inf).amax(dim=1, keepdim=True)
    # As β → ∞ the softmax is uniform over the rows that tie for the best: KL = log(count / ties).
    below_PG = (rewards_or_zero_PG - best_P1).masked_fill(~rows_PG, -torch.inf)
    ties_P1 = (below_PG == 0).sum(dim=1, keepdim=True)
    wanted_P1 = (REACHABLE_SHARE * torch.log(count_P1 / ties_P1)).clamp(max=gamma)
    # All groups at once, and a fixed number of halvings: no data-dependent loop on a GPU.
    low_P1, high_P1 = torch.zeros_like(best_P1), torch.full_like(best_P1, beta_max)
    for _ in range(HALVINGS):
        middle_P1 = (low_P1 + high_P1) / 2
        share_PG = torch.softmax((middle_P1 * below_PG).masked_fill(~rows_PG, -torch.inf), dim=1)
        kl_P1 = torch.log(count_P1) - torch.special.entr(share_PG).sum(dim=1, keepdim=True)
        short_P1 = kl_P1 < wanted_P1
        low_P1 = torch.where(short_P1, middle_P1, low_P1)
        high_P1 = torch.where(short_P1, high_P1, middle_P1)
    return torch.where(ties_P1 == count_P1, 0.0, high_P1)


def _rows_that_differ(
    rewards_or_zero_PG: torch.Tensor, success_PG: torch.Tensor, present_PG: torch.Tensor
) -> torch.Tensor:
    """The successes of a group that has two different ones, else all its rows present."""
    most_P1 = rewards_or_zero_PG.masked_fill(~success_PG, -torch.inf).amax(dim=1, keepdim=True)
    least_P1 = rewards_or_zero_PG.masked_fill(~success_PG, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(most_P1 > least_P1, success_PG, present_PG)
