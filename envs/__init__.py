"""Environments shipped with the library: one folder each, with an `env.yaml` in it."""

from ideator_rl._imports import alias_shipped

alias_shipped(__name__)
