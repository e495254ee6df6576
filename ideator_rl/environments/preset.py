"""The parts of an environment that workers and evaluators need: its metric, and the budget and resources of a preset.

Plain dataclasses: `manifest` declares the keys of env.yaml with their types and ranges, and importing that takes a
tenth of a CPU second, which each experiment would pay twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import MEASURED, REPORTED, metric_label

FEEDBACK_NONE, FEEDBACK_STATUS, FEEDBACK_TEXT = "none", "status", "text"
"""How much of an experiment an ideator is shown beyond its metric; see `feedback`."""
OLD_SIZE_GB = 0.268435456
"""256 MiB in GB (10^9 bytes): the default size of /dev/shm, of /tmp and of an artifact."""
MIN_FILE_BYTES = 1 << 30
"""The largest file that an experiment may write, where artifacts are smaller."""


@dataclass(frozen=True)
class Metric:
    """What the evaluator measures."""

    name: str
    direction: str
    """`min` (lower is better) or `max`."""
    plausible: tuple[float, float]
    """Lowest and highest value; a value outside makes the experiment `invalid`."""
    require: dict[str, float] = field(default_factory=dict, hash=False)
    """Values that secondary metrics must have; with another one the experiment is `invalid`."""
    secondary: dict[str, str] = field(default_factory=dict, hash=False)
    """`min` or `max` by name of a secondary metric: which direction is better, for figures."""
    source: str = MEASURED
    """`measured` by trusted code, or `reported` by code that runs together with the idea's."""

    @property
    def is_reported(self) -> bool:
        return self.source == REPORTED

    @property
    def label(self) -> str:
        """The name for people, marked where the metric is reported."""
        return metric_label({"name": self.name, "source": self.source})

    def facts(self, value: float) -> dict[str, Any]:
        """The entry `metric` of a record; it names the source only where it is not measured, as records ever did."""
        facts = {"name": self.name, "value": value, "direction": self.direction}
        return facts | ({"source": self.source} if self.is_reported else {})

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

    @property
    def max_wall_seconds(self) -> float:
        """Wall seconds after which a run is ended: one on the CPU clock may wait, but not for ever."""
        return 30 + 6 * self.seconds if self.clock == "cpu" else self.seconds


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
    shm_gb: float = OLD_SIZE_GB
    """GB (10^9 bytes) of /dev/shm."""
    tmp_gb: float = OLD_SIZE_GB
    """GB (10^9 bytes) of /tmp."""
    artifact_gb: float = OLD_SIZE_GB
    """GB (10^9 bytes) of the artifact, at most."""

    @property
    def shm_bytes(self) -> int:
        return round(self.shm_gb * 1e9)

    @property
    def tmp_bytes(self) -> int:
        return round(self.tmp_gb * 1e9)

    @property
    def artifact_bytes(self) -> int:
        return round(self.artifact_gb * 1e9)

    @property
    def file_bytes(self) -> int:
        """The largest file that an experiment may write: the whole artifact may be one file."""
        return max(MIN_FILE_BYTES, self.artifact_bytes)

    def identity(self) -> dict[str, Any]:
        """The values for an environment's digest; keys that are newer than digests in use count only where set."""
        newer = ("shm_gb", "tmp_gb", "artifact_gb")
        return {key: value for key, value in asdict(self).items() if key not in newer or value != OLD_SIZE_GB}


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
class ScoringLimits:
    """What the measurement of one experiment may take."""

    seconds: float = 600.0
    """Wall seconds for the evaluator of the baseline; that of an experiment is limited by what this one took."""
    answer_seconds: float = 120.0
    """Wall seconds that a scorer may take for one answer, and for its imports and loading."""
    slot_mb: int = 256
    """MiB (2^20 bytes) of the largest answer of a scorer."""

    @property
    def slot_bytes(self) -> int:
        return self.slot_mb << 20


@dataclass(frozen=True)
class Preset:
    """One scale of an environment: the same code with other numbers."""

    name: str
    settings: dict[str, Any]
    """Values that are written into the baseline's settings file; without one, for the evaluator alone."""
    budget: Budget
    resources: Resources
    vocab: int = 256
    """Classes that a model under test predicts, for the library's losses."""
    suspicious: Suspicious | None = None
    ranks: int = 1
    """Processes of the command that run together, as `torchrun` would start them on one machine."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of experiments, in addition to those that the worker sets."""
    scoring: ScoringLimits = ScoringLimits()
    target: float | None = None
    """The metric that the leaderboard asks for; None for a preset without the hidden split `final`."""

    def identity(self) -> dict[str, Any]:
        """What of the keys that are newer than digests in use is set, for an environment's digest."""
        parts: dict[str, Any] = {}
        if self.ranks != 1:
            parts["ranks"] = self.ranks
        if self.variables:
            parts["variables"] = self.variables
        if self.scoring != ScoringLimits():
            parts["scoring"] = asdict(self.scoring)
        if self.target is not None:  # records have the seconds to it
            parts["target"] = self.target
        return parts

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
            ranks=keys["ranks"],
            variables=keys["variables"],
            scoring=ScoringLimits(**keys["scoring"]),
            target=keys["target"],
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

    @property
    def run_shares(self) -> list[float]:
        """The budget's share of each run that one experiment may need: its own, a confirming and a control run."""
        if self.suspicious is None:
            return [1.0]
        return [1.0, 1.0, *filter(None, [self.suspicious.control])]

    @property
    def max_gpu_hours(self) -> float:
        """GPU-hours of one experiment at most, with the confirming and the control run of a suspicious result."""
        seconds = sum(share * self.budget.seconds + self.budget.startup_allowance for share in self.run_shares)
        return self.resources.gpus * seconds / 3600

    def hours(self, experiments: int) -> tuple[float, float]:
        """GPU-hours and CPU-hours of so many experiments at most, start-up included, where none has to be confirmed.

        A wall-clock budget counts every CPU that the experiment holds.
        """
        hours = experiments * (self.budget.seconds + self.budget.startup_allowance) / 3600
        cpus = 1 if self.budget.clock == "cpu" else self.resources.cpus
        return hours * self.resources.gpus, hours * cpus
