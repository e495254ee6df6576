"""Writes the reference pages of configuration from the classes that read it: `make reference`.

Every key is on a page once, with its values, its default, and the docstring of its field.  `tests/test_reference.py`
fails when a page differs from what this writes, and when a key has no docstring.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from ideator_rl.config.base import config_fields, expected
from ideator_rl.config.shared import CascadeConfig, RunLimits, RunSettings
from ideator_rl.environments import manifest
from ideator_rl.executor.backends.command_settings import CommandSettings, EngineSettings
from ideator_rl.executor.backends.ray_settings import RaySettings
from ideator_rl.executor.backends.slurm import SlurmSettings
from ideator_rl.implementers.agent_settings import AgentSettings
from ideator_rl.implementers.coder import CoderSettings
from ideator_rl.llm.settings import LLMSettings
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.search.config import SearchConfig
from ideator_rl.search.ideators.catalogue import CatalogueSettings
from ideator_rl.search.ideators.chat import ChatSettings
from ideator_rl.search.ideators.local import LocalSettings
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.recipe.keys import IdeatorConfig

FOLDER = Path(__file__).parent / "reference"
NOTE = (
    "<!-- Written by docs/generate.py from the configuration classes; edit their docstrings, run `make reference`. -->"
)
TRL = "https://huggingface.co/docs/trl/"

TRAINING_GROUPS = {
    "Environment and prompts": ["env", "preset", "prompts", "bucket", "allow_reported"],
    "The model": ["model_name_or_path", "scratch_model", "cpu_threads"],
    "Rewards and advantages": ["reward_funcs", "reward_options", "advantage", "advantage_options", "cluster_weight"],
    "Past ideas in prompts": [
        "prompt_strategy",
        "free_prompts",
        "prompt_parents",
        "prompt_elites",
        "inherit",
        "code_tokens",
    ],
    "Imitation of the best ideas": ["imitation_weight", "imitation_cells"],
    "Warm-up before RL": ["sft_steps", "sft_learning_rate", "sft_batch_size", "sft_examples"],
    "Diversity and collapse": ["diversity", "diversity_embedder", "collapse_action"],
    "Implementation and experiments": ["coder", "replicates", "baseline_replicates"],
    "The screen": ["screen"],
}
SEARCH_GROUPS = {
    "The run": ["output_dir", "env", "preset", "prompts", "bucket", "seed"],
    "Strategy and ideator": ["strategy", "strategy_options", "inherit", "ideator", "ideator_options", "batch",
                             "asks_at_once"],
    "Flow": ["flow", "schedule", "epoch_size", "quorum", "in_flight"],
    "Budgets: at least one is needed": ["max_experiments", "max_ideas", "max_epochs", "max_seconds", "patience"],
    "Archive and near-duplicates": ["archive_from", "near_duplicates", "near_duplicate_similarity",
                                    "near_duplicate_penalty", "embedder"],
    "Implementation and experiments": ["coder", "baseline_replicates"],
    "The screen": ["screen"],
}  # fmt: skip


def pages() -> dict[str, str]:
    """The text of every page by file name."""
    return {
        "recipe_training.md": _training(),
        "recipe_search.md": _search(),
        "coder_and_ideators.md": _coder_and_ideators(),
        "env_yaml.md": _env_yaml(),
        "backends.md": _backends(),
    }


def description(kind: Any, name: str) -> str:
    """The docstring of a field, from the class that declares it; empty for none."""
    for base in kind.__mro__:
        field = config_fields(base).get(name)
        if field is not None and field.description:
            return " ".join(field.description.split())
    return ""


def _training() -> str:
    return _page(
        "Keys of a training recipe",
        "A recipe is one flat YAML file. `ideator-rl train RECIPE.yaml --key value` overrides a key, "
        "`--key.inner value` one value of a mapping. "
        f"Besides the keys below, a recipe takes every key of TRL's [GRPOConfig]({TRL}grpo_trainer#trl.GRPOConfig), "
        "such as `output_dir`, `num_generations`, `learning_rate`, `max_steps`, `save_steps` or `report_to`, and of "
        f"its [ModelConfig]({TRL}script_utils#trl.ModelConfig), such as `dtype`, `use_peft` or `lora_r`. "
        "How they work together: [training](../how-to/training.md).",
        *_grouped(IdeatorConfig, TRAINING_GROUPS, (PipelineConfig, RunSettings)),
        _section("`screen`", _table(ScreenConfig)),
        _section("`cascade`", _table(CascadeConfig)),
        *_inherited(IdeatorConfig),
        _section("Sampling ahead of training", _table(IdeatorConfig, config_fields(PipelineConfig))),
    )


def _search() -> str:
    return _page(
        "Keys of a search recipe",
        "A recipe is one flat YAML file. `ideator-rl search RECIPE.yaml --key value` overrides a key, "
        "`--key.inner value` one value of a mapping. "
        "How they work together: [search](search.md).",
        *_grouped(SearchConfig, SEARCH_GROUPS, (RunSettings,)),
        _section("`screen`", _table(ScreenConfig)),
        _section("`cascade`", _table(CascadeConfig)),
        *_inherited(SearchConfig),
    )


def _coder_and_ideators() -> str:
    client = config_fields(LLMSettings)
    chat = [name for name in config_fields(ChatSettings) if name not in client]
    return _page(
        "Settings of coders and ideators",
        "`coder` in a recipe (or a file for `execute --coder`) sets the implementer `llm`: the first two tables; or "
        "`command`: the third. `ideator_options` of a search set its ideator. See "
        "[implementers](../how-to/implementers.md) and [ideators](../how-to/ideators.md).",
        _section("`coder`: drafts", _table(CoderSettings)),
        _section("`coder` and ideator `chat`: the LLM's server", _table(LLMSettings)),
        _section("`coder` of the implementer `command`: an agent", _table(AgentSettings)),
        _section("Ideator `chat`: prompts", _table(ChatSettings, chat)),
        _section("Ideator `local`", _table(LocalSettings)),
        _section("Ideator `catalogue`", _table(CatalogueSettings)),
    )


def _backends() -> str:
    shared = config_fields(EngineSettings)
    own = {
        kind: [name for name in config_fields(kind) if name not in shared] for kind in (CommandSettings, SlurmSettings)
    }
    templates = (
        "A template is a line for `sh`. The value of each name in braces is quoted for the shell, in `stdin` as JSON: "
        "`{name}` and `{id}` of the job and of the experiment, `{cpus}`, `{gpus}`, `{memory_gb}`, `{minutes}`, "
        "`{seconds}`, `{hardware}`, `{hosts}` to avoid, `{worker}` as one line for a shell, `{argv}` as a JSON list, "
        "`{python}`, `{log}`, `{prefix}` of all jobs' names for this bucket, and `{exports}`, the names of the "
        "variables that a worker needs. Configurations of eight engines are in `recipes/fleet`."
    )
    return _page(
        "Settings of backends",
        "`backend_config` in a recipe, or `--backend-config FILE.yaml`, sets the backend that `backend` names. "
        "`local`, `bucket` and `in_process` have no settings.",
        _section("`slurm` and `command`", _table(EngineSettings)),
        _section("`slurm`", _table(SlurmSettings, own[SlurmSettings])),
        _section("`command`", f"{templates}\n\n{_table(CommandSettings, own[CommandSettings])}"),
        _section("`ray`", _table(RaySettings)),
    )


def _env_yaml() -> str:
    sections = {
        "`metric`": manifest.MetricKeys,
        "`reward`": manifest.RewardKeys,
        "A preset: presets.NAME": manifest.PresetKeys,
        "`presets.NAME.budget`": manifest.BudgetKeys,
        "`presets.NAME.resources`": manifest.ResourcesKeys,
        "`presets.NAME.suspicious`": manifest.SuspiciousKeys,
        "`presets.NAME.scoring`": manifest.ScoringKeys,
    }
    return _page(
        "Keys of env.yaml",
        "The manifest of an environment; paths are relative to its folder. "
        "`ideator-rl env new` writes one, `ideator-rl env check` proves it: [environments](../how-to/environments.md).",
        _section("The environment", _table(manifest.Manifest)),
        *(_section(title, f"{inspect.getdoc(kind)}\n\n{_table(kind)}") for title, kind in sections.items()),
    )


def _grouped(kind: Any, groups: Mapping[str, list[str]], bases: tuple[Any, ...]) -> list[str]:
    """Sections of a recipe's own keys.

    Raises:
        ValueError: a key is in no group, or in several.
    """
    inherited = {name for base in bases for name in config_fields(base)}
    names = sorted(name for group in groups.values() for name in group)
    if names != sorted(config_fields(kind).keys() - inherited):
        raise ValueError(f"docs/generate.py: put every key of {kind.__name__} in one group.")
    return [_section(title, _table(kind, group)) for title, group in groups.items()]


def _inherited(kind: Any) -> list[str]:
    ends = [*config_fields(RunLimits), "max_losses_in_a_row", "probe"]
    settings = [name for name in config_fields(RunSettings) if name not in ends]
    return [_section("Where experiments run", _table(kind, settings)), _section("What ends a run", _table(kind, ends))]


def _page(title: str, intro: str, *sections: str) -> str:
    return "\n\n".join([f"# {title}", NOTE, intro, *sections]) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _table(kind: Any, names: Iterable[str] | None = None) -> str:
    rows = [f"| `{name}` | {_values(kind, name)} | {_default(kind, name)} | {_cell(description(kind, name))} |"
            for name in (config_fields(kind) if names is None else names)]  # fmt: skip
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows])


def _values(kind: Any, name: str) -> str:
    field = config_fields(kind)[name]
    return _cell(expected(field.annotation, tuple(field.metadata)))


def _default(kind: Any, name: str) -> str:
    field = config_fields(kind)[name]
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or (value == "" and name in ("env", "output_dir")):
        return "needed"
    if dataclasses.is_dataclass(value):
        return "its defaults"
    if value == "":
        return "empty"
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
