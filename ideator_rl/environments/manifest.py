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
from ideator_rl.environments.preset import OLD_SIZE_GB
from ideator_rl.errors import IdeatorError

Transform = Literal["inverse", "identity", "negative", "over_baseline"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)
Texts = list[Annotated[str, Expected("text; in quotes it is one", str.strip)]]
NAME = re.compile(r"[^\W_][\w .+-]{0,99}")
"""Names become parts of paths in the user's cache."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,99}")
_OWN_PREFIXES = ("LD_", "PYTHON", "IDEATOR_", "MASTER_")
_OWN_VARIABLES = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "SHELL",
        "LANG",
        "TMPDIR",
        "BASH_ENV",
        "ENV",
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "CUDA_VISIBLE_DEVICES",
    ]
)
"""Names that decide what code runs, or that the worker sets itself."""


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


def _is_variable(name: str) -> bool:
    return _VARIABLE.fullmatch(name) is not None and not name.startswith(_OWN_PREFIXES) and name not in _OWN_VARIABLES


def _are_variables(mapping: dict[str, str]) -> bool:
    return all(_is_variable(name) and text.isprintable() for name, text in mapping.items())


def _check_range(key: str, plausible: tuple[float, float]) -> None:
    if plausible[0] >= plausible[1]:
        raise ValueError(f"{key}: {list(plausible)}. Expected [lowest, highest].")


def _are_folders(folders: list[str]) -> bool:
    return all(folder and ":" not in folder and _is_inside(folder) for folder in folders)


Folder = Annotated[str, Expected("a folder inside the environment's folder", lambda path: _are_folders([path]))]
Command = Annotated[Texts, Field(min_length=1)]
SourceFolders = Annotated[Texts, Expected("folders of the baseline, such as [src]", _are_folders)]
Loader = Annotated[str, Expected("module:function, such as 'train:load'", _is_function)]


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
    require: dict[Line, PlainNumber] = Field(default_factory=dict)
    """Values that secondary metrics must have, such as {valid: 1}: with another value the experiment is `invalid`."""
    secondary: dict[Line, Literal["min", "max"]] = Field(default_factory=dict)
    """Secondary metrics with the direction that is better, such as {parameters: min}: the report shows each against the
    metric.  No part of an experiment's identity."""
    source: Literal["measured", "reported"] = "measured"
    """measured by trusted code, or reported by code that runs together with the idea's, which could forge it."""

    @model_validator(mode="after")
    def _ordered(self) -> MetricKeys:
        _check_range("metric.plausible", self.plausible)
        if self.name in self.require:
            raise ValueError(f"metric.require: {self.name!r} is the metric. Expected names of secondary metrics.")
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
    """GB (10^9 bytes) in the workspace, the artifact included.  Where `artifact_gb` is set and this is not: 2 and twice
    `artifact_gb`, since a file is written beside the one that it replaces."""
    processes: Count = 512
    """Processes and threads at the same time."""
    network: Flag = False
    """Whether experiments may use the machine's network."""
    shm_gb: PlainPositive = OLD_SIZE_GB
    """GB (10^9 bytes) of /dev/shm, which NCCL and data loaders use; the default is 256 MiB."""
    tmp_gb: PlainPositive = OLD_SIZE_GB
    """GB (10^9 bytes) of /tmp, which compilers use; the default is 256 MiB."""
    artifact_gb: PlainPositive = OLD_SIZE_GB
    """GB (10^9 bytes) of the artifact, at most; the default is 256 MiB.  No file may be larger than this, or 1 GiB."""

    @model_validator(mode="before")
    @classmethod
    def _room_for_artifact(cls, values: Any) -> Any:
        if isinstance(values, dict) and "disk_gb" not in values:
            size = values.get("artifact_gb")
            if isinstance(size, int | float) and not isinstance(size, bool):
                return values | {"disk_gb": 2.0 + 2 * size}
        return values


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
class ScoringKeys(Section):
    """What the measurement of one experiment may take."""

    seconds: PlainPositive = 600.0
    """Wall seconds for the evaluator of the baseline; that of an experiment is limited by what this one took."""
    answer_seconds: PlainPositive = 120.0
    """Wall seconds that a scorer may take for one answer, and for its imports and loading."""
    slot_mb: Count = 256
    """MiB (2^20 bytes) of the largest answer of a scorer; two such answers are reserved."""


@dataclass(frozen=True)
class RewardKeys(Section):
    """How the metric becomes a reward."""

    transform: Transform = "identity"
    """inverse (1 / metric), identity, negative, or over_baseline (relative to the baseline's noise)."""
    failure: PlainNumber = 0.0
    """Reward of an idea that failed by its own fault."""


@dataclass(frozen=True, kw_only=True)
class PresetKeys(Section):
    """One scale of the environment: other numbers, or another baseline.  From `baseline` on, a key replaces the
    environment's for this preset."""

    budget: BudgetKeys
    """See below."""
    settings: dict[Line, Setting] = Field(default_factory=dict)
    """Values for lines `name = …` of `settings_file`; without one, only for the evaluator, as `run.settings`."""
    resources: ResourcesKeys = ResourcesKeys()
    """See below."""
    vocab: Annotated[Integer, Field(ge=2)] = 256
    """Classes that a model under test predicts, for the library's losses."""
    suspicious: SuspiciousKeys | None = None
    """See below; null to trust every plausible result."""
    ranks: Count = 1
    """Processes of the command that run together, with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set as
    `torchrun` sets them.  The budget is that of the whole tree."""
    variables: Annotated[
        dict[str, str],
        Expected(
            "names in capitals with text; not PATH, HOME, USER, SHELL, LANG, TMPDIR, ENV, LD_*, PYTHON*, IDEATOR_*, "
            "CUDA_VISIBLE_DEVICES or those of ranks",
            _are_variables,
        ),
    ] = Field(default_factory=dict)
    """Environment variables of experiments, such as {NCCL_DEBUG: WARN}."""
    scoring: ScoringKeys = ScoringKeys()
    """See below."""
    target: PlainNumber | None = None
    """Metric on the hidden split `final` that the leaderboard asks for: the evaluator measures that split too, and
    records have the seconds to this metric, from the checkpoints that a run leaves."""
    baseline: Folder | None = None
    """Folder of the codebase."""
    command: Command | None = None
    """Command of an experiment."""
    preload: Texts | None = None
    """Modules that are imported before the budget's clock starts."""
    python_path: SourceFolders | None = None
    """Folders of the codebase that Python imports from."""
    task: File | None = None
    """File with the task's text."""
    prompts: dict[str, File] | None = None
    """Files of prompts by kind."""
    catalogue: File | None = None
    """File of known edits in words."""
    known_good: File | None = None
    """Patch that improves the metric."""
    settings_file: File | None = None
    """File of the codebase that the settings are written into."""
    prepare: File | None = None
    """Trusted file that prepares the data."""
    evaluator: File | None = None
    """Trusted file that measures the metric."""
    scorer: Loader | None = None
    """`module:function` of the codebase that loads its result."""
    scorer_code: Literal["patched", "baseline"] | None = None
    """Code that the scorer comes from."""
    protected: Texts | None = None
    """Globs of files that ideas must not change."""
    max_bytes: Count | None = None
    """Bytes of changed files."""
    max_compressed_bytes: Count | None = None
    """Bytes beyond the baseline, after compression."""
    plausible: tuple[PlainNumber, PlainNumber] | None = None
    """[lowest, highest] metric."""

    @model_validator(mode="after")
    def _ordered(self) -> PresetKeys:
        if self.plausible is not None:
            _check_range("plausible", self.plausible)
        if self.ranks >= self.resources.processes:  # the launcher is one more
            raise ValueError(
                f"ranks: {self.ranks}. Expected fewer than resources.processes, {self.resources.processes}."
            )
        return self


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
    baseline: Folder = "baseline"
    """Folder of the codebase that ideas change."""
    command: Command
    """Command of an experiment, such as [python, train.py, --seed, "{seed}"]; {data}, {artifact}, {budget} (seconds)
    and {seed} are filled in, and are in variables too."""
    preload: Texts = Field(default_factory=list)
    """Modules that are imported before the budget's clock starts."""
    python_path: SourceFolders = Field(default_factory=list)
    """Folders such as src that Python imports from, after the script's own folder and before the root."""
    packages: Texts = Field(default_factory=list)
    """Installed packages that ideas may import too; coders also read of those that the codebase imports."""
    editable: Texts = Field(default_factory=lambda: ["**/*.py"])
    """Globs of files that ideas may change or add."""
    protected: Texts = Field(default_factory=list)
    """Globs of files that ideas must not change."""
    evolve_blocks: Flag = False
    """In a file of the baseline with comments EVOLVE-BLOCK-START and EVOLVE-BLOCK-END, ideas may change only what is
    between them."""
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
    scorer: Loader = ""
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
    references: File | None = None
    """File of results to compare with, which reports and `leaderboard` show."""
    feedback: Literal["none", "status", "text"] = "status"
    """What prompts show of an experiment beyond its metric.  none: nothing; status: why it failed in a word, and
    secondary metrics; text: also words of its evaluator and its run, bounded, cleaned and marked as untrusted."""
    in_process: Flag = False
    """Codebases are data: the evaluator's `measured(tree, settings, replicate)` replaces a run."""
    presets: Annotated[dict[str, PresetKeys], Expected("a mapping with at least one preset", _have_names)]
    """Presets by name."""

    @model_validator(mode="after")
    def _no_words_of_hidden_files(self) -> Manifest:
        if self.feedback == "text" and self.hidden:
            raise ValueError(
                f"feedback: 'text' with hidden: {self.hidden}. Expected none or status: a run can read these files, "
                "and could print them into what ideators read."
            )
        return self


def read_manifest(raw: Any, path: Path, error: type[IdeatorError]) -> dict[str, Any]:
    """The checked keys of an env.yaml with their defaults, as plain values.

    Raises:
        error: with one sentence that names the file, what came, and what was expected.
    """
    if not isinstance(raw, dict):
        raise error(f"{path} must be a mapping of keys to values, got {type(raw).__name__}.")
    return asdict(read_config(Manifest, raw, f"{path} has", error))  # type: ignore[call-overload]
