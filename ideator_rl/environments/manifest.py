"""The keys of an `env.yaml`, with their types, ranges and defaults.

`read_manifest` checks every key before anything is built from it.  A key without a value has its default.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator
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
    PlainPositive,
    config_fields,
    read_config,
)
from ideator_rl.errors import IdeatorError

Transform = Literal["inverse", "identity", "negative", "over_baseline"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)
Texts = list[Annotated[str, Expected("text; in quotes it is one", str.strip)]]
NAME = re.compile(r"[^\W_][\w .+-]{0,99}")
"""Names become parts of paths in the user's cache."""


def _is_function(text: str) -> bool:
    module, _, function = text.partition(":")
    return not text or bool(module and function)


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


def _is_inside(path: str) -> bool:
    return not path.startswith(("/", "~")) and ".." not in path.split("/") and "\n" not in path


def _is_setting(value: Any, depth: int = 0) -> bool:
    """Whether a value can be written into a line of the settings file: plain data of one line, finite."""
    if isinstance(value, str):
        return value.isprintable()
    if isinstance(value, list | dict):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return depth < 10 and all(_is_setting(item, depth + 1) for item in inner)
    return value is None or (isinstance(value, bool | int | float) and math.isfinite(value))


def _have_names(mapping: dict[str, Any]) -> bool:
    return bool(mapping) and all(map(_is_name, mapping))


Name = Annotated[str, Expected("a name of letters, digits, spaces and _ . + -, at most 100, no mark first", _is_name)]
File = Annotated[str, Expected("the path of a file inside the environment's folder", _is_inside)]
Line = Annotated[str, Expected("one line of text", lambda text: text.strip() and text.isprintable())]
Setting = Annotated[
    Any, Expected("a number, true, false, one line of text, or a list or mapping of these", _is_setting)
]


def _are_folders(folders: list[str]) -> bool:
    return all(folder and ":" not in folder and _is_inside(folder) for folder in folders)


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

    name: Line
    """Name in records and reports."""
    direction: Literal["min", "max"]
    """min: lower is better; max: higher is better."""
    plausible: tuple[PlainNumber, PlainNumber]
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
    seconds: PlainPositive
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
    memory_gb: PlainPositive = 2.0
    """GB (10^9 bytes) of resident memory, of the whole process tree."""
    disk_gb: PlainPositive = 2.0
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
    agree: PlainAmount
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
    settings: dict[Line, Setting] = Field(default_factory=dict)
    """Values that are written into `settings_file`, by the name that a line there assigns."""
    resources: ResourcesKeys = ResourcesKeys()
    """See below."""
    vocab: Annotated[Integer, Field(ge=2)] = 256
    """Classes that a model under test predicts, for the library's losses."""
    suspicious: SuspiciousKeys | None = None
    """See below; null to trust every plausible result."""


@dataclass(frozen=True, kw_only=True)
class Manifest(Section):
    """The keys of an env.yaml; paths are relative to its folder."""

    schema: Annotated[Integer, Expected("1, the version that this release reads", (1).__eq__)] = 1
    """Version of this format."""
    name: Name
    """Name of the environment."""
    title: str = ""
    """One line for lists."""
    task: File
    """File with the task's text, which prompts include."""
    prompts: dict[str, File] = Field(default_factory=dict)
    """Files of prompts by kind, such as {short: prompts/short.md}; `{task}` and `{files}` are filled in."""
    command: Annotated[Texts, Field(min_length=1)]
    """Command of an experiment, such as [python, train.py]."""
    preload: Texts = Field(default_factory=list)
    """Modules that are imported before the budget's clock starts."""
    python_path: Annotated[Texts, Expected("folders of baseline/, such as [src]", _are_folders)] = Field(
        default_factory=list
    )
    """Folders such as src that Python imports from, after the script's own folder and before the root."""
    packages: Texts = Field(default_factory=list)
    """Installed packages that ideas may import too; coders also read of those that the codebase imports."""
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
    evaluator: File
    """Trusted file that measures the metric."""
    scorer: Annotated[str, Expected("module:function, such as 'train:load'", _is_function)] = ""
    """`module:function` of the codebase that loads its result for the evaluator; empty where none is needed."""
    scorer_code: Literal["patched", "baseline"] = "patched"
    """Code that the scorer comes from: the patched codebase, or the baseline if ideas change weights only."""
    prepare: File | None = None
    """Trusted file that prepares public and private data."""
    catalogue: File | None = None
    """File of known edits in words, for the rules implementer and the warm-up."""
    known_good: File | None = None
    """Patch that improves the metric: `env check` uses it to prove that the metric moves."""
    settings_file: File | None = None
    """File of the baseline that a preset's settings are written into."""
    in_process: Flag = False
    """Codebases are data: the evaluator's `measured(tree, settings, replicate)` replaces a run."""
    presets: Annotated[dict[str, PresetKeys], Expected("a mapping with at least one preset", _have_names)]
    """Presets by name."""


def read_manifest(raw: Any, path: Path, error: type[IdeatorError]) -> dict[str, Any]:
    """The checked keys of an env.yaml with their defaults, as plain values.

    Raises:
        error: with one sentence that names the file, what came, and what was expected.
    """
    if not isinstance(raw, dict):
        raise error(f"{path} must be a mapping of keys to values, got {type(raw).__name__}.")
    return asdict(read_config(Manifest, raw, f"{path} has", error))  # type: ignore[call-overload]
