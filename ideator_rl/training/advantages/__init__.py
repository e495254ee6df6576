"""Advantages: the rewards of a step's groups in, the weight of every completion in the policy gradient out.

Guaranteed of whatever `make_advantage` returns: where a reward is missing (NaN) the advantage is 0, and a group with
fewer than two rewards gives zeros.  The built-in ones also leave a missing reward out of every mean, rank and count,
and give a row the same whatever its place in the group (up to rounding).  Not guaranteed: a common scale; `grpo` and
`anneal` have about unit size, the others the size of the rewards or a bound of their own.  Unbiasedness, where claimed,
holds for on-policy groups whose missing rows are missing at random.
"""

from ideator_rl.training.advantages.clusters import CLUSTER_WEIGHTS, check_cluster_weight, cluster_weighted
from ideator_rl.training.advantages.facts import Advantage, AdvantageError, Facts
from ideator_rl.training.advantages.make import ADVANTAGES, make_advantage

__all__ = [
    "ADVANTAGES",
    "CLUSTER_WEIGHTS",
    "Advantage",
    "AdvantageError",
    "Facts",
    "check_cluster_weight",
    "cluster_weighted",
    "make_advantage",
]
