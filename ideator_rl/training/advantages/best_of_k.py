"""The advantage whose gradient is that of E[the best of k ideas], and a transition to it from GRPO over a run.

`max_at_k` without options is unbiased for a loss that takes the mean over a group's rows present (tests enumerate it).
Which rows are missing must not depend on their rewards.  With a deadline it does: then the gradient is that of the best
of k ideas that finish in time.
"""

from __future__ import annotations

import torch

from ideator_rl.training.advantages.facts import Facts, centered, present, unit_size
from ideator_rl.training.advantages.group_mean import grpo


def default_k(group_size: int) -> int:
    """(4·G)^⅓, rounded, at least 2: 4 of 16, 6 of 64, 8 of 128.

    k of 3 to 4 is what leaves a simple mode in realistic cases, and about G/k rows carry the gradient: so k grows, but
    slower than G, through the two settings that were measured (4 of 16, 8 of 128).
    """
    return max(2, round((4 * group_size) ** (1 / 3)))


def max_at_k(
    rewards_PG: torch.Tensor, facts: Facts, *, k: int | None = None, center: bool = False, scale: bool = False
) -> torch.Tensor:
    """The gain of the best of k by a row: n times the mean over all k-subsets of (best with it − best without it).

    With the n rows present sorted ascending, A_(i) = n / C(n,k) · Σ_{j<i} C(j−1, k−2) (r_(i) − r_(j)): PKPO's estimator
    with the baseline of the k − 1 others (2505.15201), n times because a loss takes the mean over rows.  Written by
    steps, since Σ_{j<i} C(j−1, k−2) = C(i−1, k−1): A_(i) = n · Σ_{l≤i} C(l−1, k−1)/C(n,k) · (r_(l) − r_(l−1)).  All
    terms are at least 0, nothing cancels, and ties are equal to the last bit.  O(G log G).

    No advantage is below 0, and the best row's is at most k times the spread of the rewards.

    Args:
        k: null for `default_k`.  A group with fewer than k rows present takes k = n, the best of all of them: its
            experiments are paid for, and dropping it would waste them.
        center: subtract the group's mean advantage.  Biased: it lowers the variance and pulls towards the mean.
        scale: divide by the group's root mean square.  Biased between groups, not within one.
    """
    present_PG, count_P1 = present(rewards_PG)
    n_P1 = count_P1.double()
    k_P1 = n_P1.clamp(max=k or default_k(rewards_PG.shape[1]))
    rank_G = torch.arange(1, rewards_PG.shape[1] + 1, dtype=torch.float64, device=rewards_PG.device)
    # Missing rows become +∞ and sort last.
    sorted_PG, order_PG = rewards_PG.double().masked_fill(~present_PG, torch.inf).sort(dim=1)
    steps_PG = sorted_PG.diff(dim=1, prepend=sorted_PG[:, :1])
    # In logs, since the binomials of a large group overflow.
    weights_PG = torch.exp(_log_choose(rank_G - 1, k_P1 - 1) - _log_choose(n_P1, k_P1))
    usable_PG = (rank_G <= n_P1) & (n_P1 >= 2)
    terms_PG = torch.where(usable_PG, weights_PG * steps_PG, 0.0)
    # Back from sorted order to the order of the rows.
    values_PG = torch.zeros_like(sorted_PG).scatter(1, order_PG, n_P1 * terms_PG.cumsum(dim=1))
    values_PG = values_PG.masked_fill(~present_PG, 0.0)
    # Both are off by default, since each makes the estimator biased.
    if center:
        values_PG = centered(values_PG, present_PG)
    if scale:
        values_PG = unit_size(values_PG, present_PG)
    return values_PG.float()


def anneal(
    rewards_PG: torch.Tensor,
    facts: Facts,
    *,
    k: int | None = None,
    scale: bool = True,
    start: float = 0.0,
    end: float = 1.0,
) -> torch.Tensor:
    """(1 − α) · `grpo` + α · `max_at_k`, α from 0 at progress `start` to 1 at `end`.

    As the two phases of PACEvolve++ (2605.07039): group-relative credit early, gain of the frontier late.  A straight
    line between the two is our own choice.

    Args:
        k: as in `max_at_k`.
        scale: bring `max_at_k` to unit size first, which `grpo` has.  Without it the mixture is `grpo` alone for most
            of the run and then a drop of the step size: rewards that differ by 0.02 make `max_at_k` that small.
        start, end: shares of the training, 0 ≤ start < end ≤ 1.
    """
    alpha = min(1.0, max(0.0, (facts.progress - start) / (end - start)))
    return (1 - alpha) * grpo(rewards_PG, facts) + alpha * max_at_k(rewards_PG, facts, k=k, scale=scale)


def _log_choose(n: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """log C(n, k) for whole numbers as float64; −inf where k > n, for lgamma is infinite at 0, −1, −2, …"""
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
