"""`shaping`, `Call` and `Worth`, for plugins; the module is `rewards.support.shaping`."""

from .support.decorator import Call
from .support.shaping import Worth, shaping

__all__ = ["Call", "Worth", "shaping"]
