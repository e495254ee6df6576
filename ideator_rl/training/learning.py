"""What a trainer learns from the rewards of a batch, beyond TRL's own configuration."""

from __future__ import annotations

from dataclasses import dataclass

from ideator_rl.training.advantages import Advantage
from ideator_rl.training.imitation import Draw


@dataclass
class Learning:
    """How to learn from rewards, beyond TRL's own configuration."""

    advantage: Advantage | None = None
    """None for TRL's `scale_rewards`: `group` is grpo, `none` is dr_grpo."""
    cluster_weight: str | None = None
    """`ips` or `share`: rewards are weighted by cluster before advantages are computed."""
    imitate: Draw | None = None
    """Returns examples to imitate with a batch; called at rank 0 only."""
    imitation_weight: float = 0.0
    is_frozen: bool = False
    """Learn nothing: batches are sampled and run, and the weights stay as they are."""
    from_forecasts: bool = False
    """The chooser may return forecasts to learn from: the weights of the start are kept, for steps back to them."""
