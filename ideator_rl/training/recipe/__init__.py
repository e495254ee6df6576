"""The recipe of a training run: its keys, their ranges, and the names that it refers to."""

from ideator_rl._imports import renamed

__getattr__ = renamed(__name__)
