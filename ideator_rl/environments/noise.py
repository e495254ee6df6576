"""The noise of an environment: its baseline over seeds, measured by `env check`, stored in the user's cache.

Stored under the environment's digest: a change of the metric's meaning needs a new measurement.  The numbers are those
of this machine: in the same seconds a faster one computes more.
"""

from __future__ import annotations

import json
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.config.reader import read_json
from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.files import cache_root, write_atomic
from ideator_rl.registry import environment_folder


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
    """Store the baseline's values; replaces earlier ones."""
    write_atomic(_path(environment, preset), json.dumps({"values": values}))
    return Noise(tuple(values))


def load_noise(environment: Environment, preset: str) -> Noise | None:
    """The noise that `store_noise` stored for the environment as it is now; None if there is none."""
    path = _path(environment, preset)
    if not path.exists():
        return None
    body = read_json(path, error=IdeatorError)
    values = body.get("values") if isinstance(body, dict) else None
    if not isinstance(values, list) or not values or not all(type(value) in (int, float) for value in values):
        raise IdeatorError(f"{path} does not hold the baseline's values. Remove it and measure them again: env check.")
    return Noise(tuple(values))


def needed_noise(environment: Environment, preset: str) -> Noise:
    """The noise, for rewards in units of it.

    Raises:
        IdeatorError: it was never measured, or it is 0.
    """
    noise = load_noise(environment, preset)
    # An environment of a folder is found by its path alone.
    name = environment.name if environment_folder(environment.name) == environment.root else str(environment.root)
    advice = f"`ideator-rl env check {shlex.quote(name)} --preset {preset} --seeds 5` measures it."
    if noise is None:
        raise IdeatorError(
            f"The reward is relative to the baseline's noise, and none is stored for {environment.name} ({preset}) as "
            f"it is now. {advice}"
        )
    if noise.spread == 0:
        raise IdeatorError(
            f"The baseline of {environment.name} ({preset}) showed no spread over {len(noise.values)} runs: a reward "
            f"relative to it has no unit. Take more seeds, or another reward_transform. {advice}"
        )
    return noise


def _path(environment: Environment, preset: str) -> Path:
    name = f"{environment.name}-{preset}-{environment.digest(preset)[:16]}.json"
    return cache_root() / "baselines" / name
