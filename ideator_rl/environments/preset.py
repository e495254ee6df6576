"""The parts of an environment that workers and evaluators need: its metric, and the budget and resources of a preset.

Plain dataclasses: `manifest` declares the keys of env.yaml with their types and ranges, and importing that takes a
tenth of a CPU second, which each experiment would pay twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ideator_rl.errors import IdeatorError


@dataclass(frozen=True)
class Metric:
    """What the evaluator measures."""

    name: str
    direction: str
    """`min` (lower is better) or `max`."""
    plausible: tuple[float, float]
    """Lowest and highest value; a value outside makes the experiment `invalid`."""

    def better(self, value: float, reference: float) -> bool:
        """Whether a value is strictly better than a reference."""
        return value < reference if self.direction == "min" else value > reference


@dataclass(frozen=True)
class Budget:
    """What one experiment may spend."""

    clock: str
    """`cpu` (CPU seconds of the whole process tree) or `wall`."""
    seconds: float
    startup_allowance: float
    """Seconds, on the same clock, for importing `preload` before the experiment's code is loaded."""


@dataclass(frozen=True)
class Resources:
    """What one experiment needs."""

    cpus: int = 1
    gpus: int = 0
    memory_gb: float = 2.0
    """GB (10^9 bytes) of resident memory, of the whole process tree."""
    disk_gb: float = 2.0
    """GB (10^9 bytes) in the workspace, the artifact included."""
    processes: int = 512
    """Processes and threads at the same time."""
    network: bool = False
    """Whether experiments may use the machine's network."""


@dataclass(frozen=True)
class Suspicious:
    """Results too good to trust after one run: they are run again, with another seed, on the second hidden split."""

    beyond: float
    """A metric better than this is run again."""
    agree: float
    """How far the two runs may differ, in the metric's unit; a larger difference is `invalid`."""
    control: float | None = None
    """Share of the budget of a third run, which must be worse by over `agree`; None for no such run."""


@dataclass(frozen=True)
class Preset:
    """One scale of an environment: the same code with other numbers."""

    name: str
    settings: dict[str, Any]
    """Values that are written into the baseline's settings file."""
    budget: Budget
    resources: Resources
    vocab: int = 256
    """Classes that a model under test predicts, for the library's losses."""
    suspicious: Suspicious | None = None

    @classmethod
    def from_keys(cls, name: str, keys: Mapping[str, Any]) -> Preset:
        """A preset from the checked keys of env.yaml."""
        return cls(
            name=name,
            settings=keys["settings"],
            budget=Budget(**keys["budget"]),
            resources=Resources(**keys["resources"]),
            vocab=keys["vocab"],
            suspicious=Suspicious(**keys["suspicious"]) if keys["suspicious"] else None,
        )

    def refuse_network(self, bucket_url: str) -> None:
        """To be called for a remote bucket: its workers have credentials, or run where the node's role gives some.

        Raises:
            IdeatorError: experiments would have the machine's network.
        """
        if self.resources.network:
            raise IdeatorError(
                f"The preset {self.name} has `network: true`, and the bucket {bucket_url} is remote: experiments could "
                "ask the node for its cloud credentials (169.254.169.254). Use a preset without, or a file bucket."
            )

    def hours(self, experiments: int) -> tuple[float, float]:
        """GPU-hours and CPU-hours of so many experiments at most, start-up included.

        A wall-clock budget counts every CPU that the experiment holds.
        """
        hours = experiments * (self.budget.seconds + self.budget.startup_allowance) / 3600
        cpus = 1 if self.budget.clock == "cpu" else self.resources.cpus
        return hours * self.resources.gpus, hours * cpus
