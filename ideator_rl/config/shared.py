"""Settings that recipes of training and of search, and the reward buffer, have in common."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from ideator_rl.config.backend_config import backend_config_text
from ideator_rl.config.base import Config, Count, CountOrZero, Expected, Flag, Fraction, Number, PlainAmount
from ideator_rl.experiment import HARDWARE, is_hardware


@dataclass(frozen=True, kw_only=True)
class RunLimits(Config):
    """Caps on what a run may spend, resumed or not."""

    max_usd: PlainAmount | None = None
    """USD for LLM calls: the coder's, and in a search the ideator's too. The run winds down there."""
    max_coder_tokens: CountOrZero | None = None
    """Tokens of LLM calls, prompts included."""
    max_gpu_hours: PlainAmount | None = None
    """GPU-hours for experiments, confirming runs included."""


@dataclass(frozen=True)
class CascadeConfig(Config):
    """The cheaper preset that each idea must pass before it runs at the run's own."""

    preset: str
    """Another preset of the environment, a cheaper one."""
    keep_above: Number
    """Reward at that preset, by the run's reward transform, above which an idea runs at the run's own preset.  Others,
    and those that fail there, are `not_promoted`."""
    pass_share: Fraction | None = None
    """Share of the ideas that is expected to pass, for the dry run's estimate; null to show several."""


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings(RunLimits):
    """How ideas are implemented and experiments run."""

    implementer: str = "rules"
    """What turns an idea into a patch: rules, direct, llm, command (an agent), an entry point, or a
    dotted path."""
    reward_transform: str | None = None
    """Replaces the environment's transform: inverse, identity, negative, or over_baseline (relative to its noise)."""
    backend: str = "local"
    """What starts experiments: local, bucket (any scheduler that watches the bucket), slurm, ray, command (an engine by
    its command line), in_process (codebases that are data), an entry point, or a dotted path of a class."""
    hardware: Annotated[str, Expected(HARDWARE, is_hardware)] = ""
    """Model of the machines that run experiments, such as h100: words of the GPU's name as `nvidia-smi -L` lists it, or
    of the processor's where a preset has no GPUs.  It is part of an experiment's id, and workers on another model
    refuse; empty for not declared."""
    slots: Count | None = None
    """CPU slots for experiments on this machine; null for this process's share of its cores."""
    isolation: Annotated[str, Expected("auto or none", ("auto", "none").__contains__)] = "auto"
    """auto for the strongest sandbox that works here; none risks the machine."""
    start: Annotated[str, Expected("forked or cold", ("forked", "cold").__contains__)] = "forked"
    """How Python starts for an experiment: forked from a process that has the imports, or cold, anew each time.  The
    results are equal."""
    max_losses_in_a_row: Count | None = None
    """Ideas lost in a row, whatever the cause, after which the run ends with an error; null for one batch."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(ExperimentSettings):
    """Settings of runs that a recipe describes."""

    probe: Flag = True
    """Before anything is paid, ask each LLM that the run names for a few tokens; false is the option --no-probe."""
    track: Literal["", "wandb", "trackio", "tensorboard"] = ""
    """Tracker that gets a run for each experiment and a table of all; empty for none.  See docs/how-to/tracking.md."""
    track_runs: Literal["all", "successes", "none"] = "all"
    """Experiments that get a run of their own in that tracker; the table has all."""
    backend_config: dict[str, Any] | str | None = None
    """Settings of the backend: a mapping, the path of a YAML file, or the name of a shipped one such as slurm."""
    cascade: CascadeConfig | None = None
    """Runs each idea at a cheaper preset first, and at `preset` only if it passes there, such as
    `{preset: cpu, keep_above: 0.3}`; null: off."""
    fleet: dict[str, Any] | None = None
    """Machines for experiments, so that a dry run estimates hours and USD, and what does not fit is refused: `gpus`,
    and where known `gpus_per_node` (8), `cpus_per_node`, `memory_gb_per_node`, `usd_per_gpu_hour`."""

    def experiment_settings(self) -> dict[str, Any]:
        """The settings of experiments by name, for an executor's configuration.

        Raises:
            ConfigError: `backend_config` names no file, or one that is no mapping.
        """
        settings = {field.name: getattr(self, field.name) for field in fields(ExperimentSettings)}
        # The share is for estimates alone: runs that differ in it are the same.
        cascade = json.dumps(asdict(self.cascade) | {"pass_share": None}, sort_keys=True) if self.cascade else ""
        return settings | {"backend_config": backend_config_text(self.backend_config), "cascade": cascade}
