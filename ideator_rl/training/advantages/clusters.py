"""Rewards weighted by how common a row's cluster is in its group, before any advantage.

Pushes a policy to spread over clusters, at the price of quality: a rare cluster earns more for being rare.
"""

from __future__ import annotations

import torch

from ideator_rl.config.suggest import did_you_mean
from ideator_rl.training.advantages.facts import AdvantageError, Facts, present

CLUSTER_WEIGHTS = ("ips", "share")


def check_cluster_weight(kind: str, floor: float = 0.02) -> None:
    """Check the arguments of `cluster_weighted` before a run starts.

    Raises:
        AdvantageError: no such kind, or a floor outside ]0, 1].
    """
    if kind not in CLUSTER_WEIGHTS:
        raise AdvantageError(f"There is no cluster weight {kind!r}. {did_you_mean(kind, CLUSTER_WEIGHTS)}")
    if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 < floor <= 1:
        raise AdvantageError(f"The floor of the cluster weight is {floor!r}; expected a number above 0 and at most 1.")


def cluster_weighted(rewards_PG: torch.Tensor, facts: Facts, kind: str, floor: float = 0.02) -> torch.Tensor:
    """The rewards (float32, NaN where missing) times a weight of their cluster, of n rows present c of it.

    `ips`: r / max(c/n, floor) (IPS-GRPO, 2601.21669).  A cluster's total no longer depends on how often it was sampled,
    so that expected reward stops growing with frequency alone.  The floor bounds the weight of what was seen once:
    with 0.02, from groups of 50 on.  The paper's outcomes are discrete; ours are clusters, counted in one group.

    `share`: r · max((n − c)/(n − 1), floor), the share of the *other* rows that lie in other clusters (DARLING,
    2509.02534): a row that is alone keeps all of its reward, and the floor (the paper's code has 0.1) leaves a group of
    one cluster something to learn from.  DARLING clusters by a trained classifier, and drops GRPO's division by σ:
    choose `dr_grpo` for that.

    Both are meant for rewards of at least 0, and would turn around below.  A group that holds a negative one is raised
    so that its lowest is 0 first; no advantage here sees such a shift.

    Raises:
        AdvantageError: no such kind, or a floor outside ]0, 1].
    """
    check_cluster_weight(kind, floor)
    present_PG, count_P1 = present(rewards_PG)
    cell_PG = facts.cell_PG
    # A row of an unknown cluster matches no row, not even itself; the clamp below gives it a cluster of its own.
    same_PGG = (cell_PG[:, :, None] == cell_PG[:, None, :]) & present_PG[:, None, :] & (cell_PG >= 0)[:, :, None]
    size_PG = same_PGG.sum(dim=2).clamp(min=1)
    if kind == "ips":
        weight_PG = 1 / (size_PG / count_P1.clamp(min=1)).clamp(min=floor)
    else:
        weight_PG = ((count_P1 - size_PG) / (count_P1 - 1).clamp(min=1)).clamp(min=floor)
    # The missing rows count as 0 here, so that only a negative reward shifts a group.
    lowest_P1 = rewards_PG.masked_fill(~present_PG, 0.0).amin(dim=1, keepdim=True).clamp(max=0.0)
    return ((rewards_PG - lowest_P1) * weight_PG).float()
