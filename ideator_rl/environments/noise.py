"""The noise of an environment: its baseline over seeds, measured by `env check` and kept in the user's cache.

Kept under the environment's digest: what changes the metric's meaning leaves no noise behind.  Numbers belong to this
machine: a budget in seconds buys more on a faster one.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.files import cache_root, write_atomic


@dataclass(frozen=True)
class Noise:
    """The baseline's metric over seeds, in the metric's unit."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation of a single run (n − 1 in the denominator); 0 for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def store_noise(environment: Environment, preset: str, values: list[float]) -> Noise:
    """Keep the baseline's values; replaces what was kept before."""
    write_atomic(_path(environment, preset), json.dumps({"values": values}))
    return Noise(tuple(values))


def load_noise(environment: Environment, preset: str) -> Noise | None:
    """What `store_noise` kept for this very environment; None if nothing was."""
    try:
        return Noise(tuple(json.loads(_path(environment, preset).read_text())["values"]))
    except FileNotFoundError:
        return None


def needed_noise(environment: Environment, preset: str) -> Noise:
    """The noise, for rewards that are measured by it.

    Raises:
        IdeatorError: it was never measured, or it is 0, so that nothing can be measured by it.
    """
    noise = load_noise(environment, preset)
    ask = f"`ideator-rl env check {environment.name} --preset {preset} --seeds 5` measures it."
    if noise is None:
        raise IdeatorError(
            f"The reward is to be taken relative to the baseline's noise, and none is known for {environment.name} "
            f"({preset}) as it stands. {ask}"
        )
    if noise.spread == 0:
        raise IdeatorError(
            f"The baseline of {environment.name} ({preset}) showed no spread over {len(noise.values)} runs: a reward "
            f"relative to it has no unit. Take more seeds, or another reward_transform. {ask}"
        )
    return noise


def _path(environment: Environment, preset: str) -> Path:
    name = f"{environment.name}-{preset}-{environment.digest(preset)[:16]}.json"
    return cache_root() / "baselines" / name
