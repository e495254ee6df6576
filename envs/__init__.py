"""Environments that ship with the library: one folder each, with an `env.yaml` in it."""
