"""Recipes shipped with the library, for training, search and accelerate."""

from ideator_rl._imports import alias_shipped

alias_shipped(__name__)
