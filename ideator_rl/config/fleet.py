"""The machines that a run's experiments may use, as a recipe states them: for estimates and early refusals only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Config, Count, PlainAmount, PlainPositive, read_config


@dataclass(frozen=True, kw_only=True)
class Fleet(Config):
    """`fleet` of a recipe."""

    gpus: Count
    """GPUs for experiments, over all machines."""
    gpus_per_node: Count = 8
    """GPUs of one machine."""
    cpus_per_node: Count | None = None
    """CPU cores of one machine; null for not stated."""
    memory_gb_per_node: PlainPositive | None = None
    """GB (10^9 bytes) of memory of one machine; null for not stated."""
    usd_per_gpu_hour: PlainAmount | None = None
    """Price of a GPU for an hour, in USD; null for not stated."""


def read_fleet(value: Mapping[str, Any] | None) -> Fleet | None:
    """
    Raises:
        ConfigError: an unknown key, or a value of a wrong type or range.
    """
    return None if value is None else read_config(Fleet, value, "fleet has")
