"""Advantages: from the rewards of a batch's groups to the weight of every completion in the policy gradient.

- Where a reward is missing (NaN) the advantage is 0, and a group with fewer than two rewards gives zeros.
- Built-in advantages also leave a missing reward out of every mean, rank and count, and do not depend on the order of
  the rows (up to rounding).
- There is no common scale: `grpo` and `anneal` have about unit size, the others the size of the rewards or a bound of
  their own.
- Unbiasedness, where claimed, holds for on-policy groups whose missing rows are missing at random.
"""

from ideator_rl.training.advantages.by_name import ADVANTAGES, advantage_of_trl, make_advantage
from ideator_rl.training.advantages.clusters import CLUSTER_WEIGHTS, check_cluster_weight, cluster_weighted
from ideator_rl.training.advantages.facts import Advantage, AdvantageError, Facts

__all__ = [
    "ADVANTAGES",
    "CLUSTER_WEIGHTS",
    "Advantage",
    "AdvantageError",
    "Facts",
    "advantage_of_trl",
    "check_cluster_weight",
    "cluster_weighted",
    "make_advantage",
]
