"""The keys of an `env.yaml`, with their types, ranges and defaults.

`read_manifest` checks every key before anything is built from it.  A key without a value has its default.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StrictFloat, StrictInt, model_validator
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import (
    Config,
    Count,
    CountOrZero,
    Expected,
    Flag,
    Integer,
    PlainAmount,
    PlainNumber,
    config_fields,
    read_config,
)
from ideator_rl.errors import IdeatorError

Transform = Literal["inverse", "identity", "negative", "over_baseline"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)
Texts = list[Annotated[str, Expected("text; in quotes it is one")]]


def _is_function(text: str) -> bool:
    module, _, function = text.partition(":")
    return not text or bool(module and function)


class Section(Config):
    """A mapping in an env.yaml."""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: Any) -> Any:
        """Leave out keys without a value, so that they have their defaults or are missing; unknown keys stay."""
        if isinstance(values, dict):
            names = config_fields(cls)
            return {key: value for key, value in values.items() if value is not None or key not in names}
        return values


@dataclass(frozen=True)
class MetricKeys(Section):
    """What the evaluator measures."""

    name: str
    """Name in records and reports."""
    direction: Literal["min", "max"]
    """min: lower is better; max: higher is better."""
    plausible: tuple[StrictInt | StrictFloat, StrictInt | StrictFloat]
    """[lowest, highest]: a value outside makes the experiment `invalid`."""

    @model_validator(mode="after")
    def _ordered(self) -> MetricKeys:
        if self.plausible[0] >= self.plausible[1]:
            raise ValueError(f"metric.plausible: {list(self.plausible)}. Expected [lowest, highest].")
        return self


@dataclass(frozen=True)
class BudgetKeys(Section):
    """What one experiment may spend."""

    clock: Literal["cpu", "wall"]
    """cpu: CPU seconds of the whole process tree; wall: wall-clock seconds."""
    seconds: PlainAmount
    """Seconds that the experiment may spend after start-up."""
    startup_allowance: PlainAmount = 60.0
    """Seconds, on the same clock, for importing `preload` before the experiment's code is loaded."""


@dataclass(frozen=True)
class ResourcesKeys(Section):
    """What one experiment needs."""

    cpus: Count = 1
    """CPU cores."""
    gpus: CountOrZero = 0
    """GPUs."""
    memory_gb: PlainAmount = 2.0
    """GB (10^9 bytes) of resident memory, of the whole process tree."""
    disk_gb: PlainAmount = 2.0
    """GB (10^9 bytes) in the workspace, the artifact included."""
    processes: Count = 512
    """Processes and threads at the same time."""
    network: Flag = False
    """Whether experiments may use the machine's network."""


@dataclass(frozen=True)
class SuspiciousKeys(Section):
    """Results too good to trust after one run: they are run again, with another seed, on the second hidden split."""

    beyond: PlainNumber
    """A metric better than this is run again."""
    agree: PlainNumber
    """How far the two runs may differ, in the metric's unit; a larger difference is `invalid`."""
    control: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the budget, such as 0.1, for a third run that must be worse by over `agree`, else `invalid`: a result
    without training was in the code. A control run without a result counts as worse."""


@dataclass(frozen=True)
class RewardKeys(Section):
    """How the metric becomes a reward."""

    transform: Transform = "identity"
    """inverse (1 / metric), identity, negative, or over_baseline (relative to the baseline's noise)."""
    failure: PlainNumber = 0.0
    """Reward of an idea that failed by its own fault."""


@dataclass(frozen=True, kw_only=True)
class PresetKeys(Section):
    """One scale of the environment: the same code with other numbers."""

    budget: BudgetKeys
    """See below."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Values that are written into `settings_file`, by the name that a line there assigns."""
    resources: ResourcesKeys = ResourcesKeys()
    """See below."""
    vocab: Count = 256
    """Classes that a model under test predicts, for the library's losses."""
    suspicious: SuspiciousKeys | None = None
    """See below; null to trust every plausible result."""


@dataclass(frozen=True, kw_only=True)
class Manifest(Section):
    """The keys of an env.yaml; paths are relative to its folder."""

    schema: Integer = 1
    """Version of this format."""
    name: str
    """Name of the environment."""
    title: str = ""
    """One line for lists."""
    task: str
    """File with the task's text, which prompts include."""
    prompts: dict[str, str] = Field(default_factory=dict)
    """Files of prompts by kind, such as {short: prompts/short.md}; `{task}` and `{files}` are filled in."""
    command: Annotated[Texts, Field(min_length=1)]
    """Command of an experiment, such as [python, train.py]."""
    preload: Texts = Field(default_factory=list)
    """Modules that are imported before the budget's clock starts."""
    editable: Texts = Field(default_factory=lambda: ["**/*.py"])
    """Globs of files that ideas may change or add."""
    protected: Texts = Field(default_factory=list)
    """Globs of files that ideas must not change."""
    hidden: Texts = Field(default_factory=list)
    """Globs of files of the baseline that are protected, and shown neither to ideators nor to coders."""
    max_bytes: Count = 1_000_000
    """Bytes of UTF-8 in all files that a patch may make differ from the baseline."""
    max_compressed_bytes: Count = 16_384
    """Bytes beyond the baseline, after compression: code compresses to a third to a fifth, weights hardly."""
    metric: MetricKeys
    """See below."""
    reward: RewardKeys = RewardKeys()
    """See below."""
    evaluator: str
    """Trusted file that measures the metric."""
    scorer: Annotated[str, Expected("module:function, such as 'train:load'", _is_function)] = ""
    """`module:function` of the codebase that loads its result for the evaluator; empty where none is needed."""
    scorer_code: Literal["patched", "baseline"] = "patched"
    """Code that the scorer comes from: the patched codebase, or the baseline if ideas change weights only."""
    prepare: str | None = None
    """Trusted file that prepares public and private data."""
    catalogue: str | None = None
    """File of known edits in words, for the rules implementer and the warm-up."""
    known_good: str | None = None
    """Patch that improves the metric: `env check` uses it to prove that the metric moves."""
    settings_file: str | None = None
    """File of the baseline that a preset's settings are written into."""
    in_process: Flag = False
    """Codebases are data: the evaluator's `measured(tree, settings, replicate)` replaces a run."""
    presets: Annotated[dict[str, PresetKeys], Expected("a mapping with at least one preset", len)]
    """Presets by name."""


def read_manifest(raw: Any, path: Path, error: type[IdeatorError]) -> dict[str, Any]:
    """The checked keys of an env.yaml with their defaults, as plain values.

    Raises:
        error: with one sentence that names the file, what came, and what was expected.
    """
    if not isinstance(raw, dict):
        raise error(f"{path} must be a mapping of keys to values, got {type(raw).__name__}.")
    return asdict(read_config(Manifest, raw, f"{path} has", error))  # type: ignore[call-overload]
