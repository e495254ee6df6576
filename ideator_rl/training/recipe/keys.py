"""The keys of a training recipe: IdeatorConfig, and those of TRL's GRPOConfig and ModelConfig.

TRL's keys are read from the source of its dataclasses: importing trl takes seconds, and a wrong key is to be refused at
once.  `tests/test_trl_contract.py` checks that both ways give the same keys.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.dataclasses import dataclass

from ideator_rl.archive.bases import Inherit
from ideator_rl.config.base import (
    Amount,
    Count,
    CountOrZero,
    Expected,
    Flag,
    Fraction,
    Integer,
    Items,
    Names,
    Number,
    config_fields,
)
from ideator_rl.config.shared import RunSettings
from ideator_rl.patch.shown_files import FILES_TOKENS
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.training.pipeline_config import PipelineConfig


@dataclass(frozen=True)
class IdeatorConfig(PipelineConfig, RunSettings):
    """The keys that TRL does not have."""

    env: str = ""
    """Environment: a name, or the path of its folder."""
    preset: str = "cpu"
    """The environment's preset: one scale of it, with its own budget and resources."""
    prompts: str = "short"
    """Kind of the environment's prompt that asks for an idea."""
    bucket: str = ""
    """URL of the bucket, a folder or an object store: docs/how-to/buckets.md; empty for `<output_dir>/bucket`."""
    coder: dict[str, Any] | None = None
    """Settings of an implementer that asks an LLM, such as its endpoint and models: docs/how-to/implementers.md."""
    replicates: Count = 1
    """Runs, with different seeds, that equal ideas of one group are spread over."""
    baseline_replicates: Count = 1
    """Runs of the unchanged baseline, with different seeds, to compare with."""
    reward_funcs: Names = Field(default_factory=lambda: ["execution"])
    """Reward functions by name or dotted path; `reward_weights` is TRL's."""
    reward_options: dict[str, Any] | None = None
    """Options of reward functions by name, such as {length_most: 0.2}."""
    advantage: Annotated[str, Expected("the name of an advantage", bool)] | None = None
    """grpo, dr_grpo, loo, max_at_k, entropic, anneal, or a dotted path; null for TRL's scale_rewards."""
    advantage_options: dict[str, Annotated[Any, Expected("a value", lambda value: value is not None)]] | None = None
    """Options of the advantage by name, such as {k: 4}."""
    cluster_weight: str | None = None
    """ips or share: rewards are weighted by cluster before advantages are computed."""
    prompt_strategy: str | None = None
    """Which past ideas prompts carry: top_k, puct, random, or a dotted path; null for prompts without any."""
    free_prompts: Fraction = 0.25
    """Fraction of the groups whose prompt carries no past idea."""
    prompt_parents: Count = 2
    """Past ideas in a prompt."""
    prompt_elites: Count = 20
    """Best distinct ideas that parents are picked from."""
    inherit: Inherit = "none"
    """Whose code an idea changes. none: the baseline's; best_parent: that of the best idea in its prompt; chosen: that
    which the idea names."""
    code_tokens: Count = FILES_TOKENS
    """Tokens of code in a prompt, at most, where ideas inherit code: half for the files, half for past ideas' diffs."""
    imitation_weight: Amount = 0.0
    """Weight of the likelihood of the best past ideas, added to the policy loss; 0 for none."""
    imitation_cells: Count = 48
    """Kinds of change of which the best idea may be imitated."""
    model_name_or_path: str | None = None
    """Hub name, folder, or `package:NAME/FILE.gguf` inside an installed package; null with `scratch_model`."""
    scratch_model: dict[str, Annotated[Integer, Field(ge=1, le=10**8)]] | None = None
    """Builds a small Llama and its tokenizer: `vocab_size` and numbers of LlamaConfig."""
    cpu_threads: Count | None = None
    """Threads of the ideator's own computations; null for torch's choice.  Experiments have one each."""
    sft_steps: CountOrZero = 0
    """Optimizer steps of format SFT before RL, on ideas from the environment's catalogue; 0 for none."""
    sft_learning_rate: Amount = 1e-3
    """Learning rate of the SFT."""
    sft_batch_size: Count = 16
    """Ideas per optimizer step of the SFT."""
    sft_examples: Count = 2000
    """Ideas drawn from the catalogue for the SFT."""
    diversity: Flag = True
    """Log measures of diversity at every batch, and warn of a collapse: docs/reference/diversity.md."""
    diversity_embedder: str = "auto"
    """Embeds ideas: auto, hashed, minilm, a hub name or folder, or a dotted path."""
    screen: ScreenConfig | None = None
    """Runs only the share 1 / `over` of each batch, the ideas with the best forecasts; null: off."""
    collapse_action: Literal["warn", "stop"] = "warn"
    """What a collapse alarm does: warn logs it; stop ends the run."""
    allow_reported: Flag = False
    """Train on an environment whose metric is reported by code that ideas could forge; such a run is refused else."""


REMOVED_ACTION = "It was removed: write `collapse_action: warn` or `collapse_action: stop`."
REMOVED_KEYS: dict[str, tuple[Any, str]] = {
    "collapse_factor": (1.2, REMOVED_ACTION),
    "collapse_ceiling": (1.5, REMOVED_ACTION),
    "collapse_advantage": ("max_at_k", REMOVED_ACTION),
    "collapse_advantage_options": (None, REMOVED_ACTION),
}
"""Keys of 0.1.0 that are gone: their default, which every recipe saved by 0.1.0 holds, and what to write instead."""
REMOVED_VALUES: dict[tuple[str, str], str] = {
    ("collapse_action", "raise_temperature"): REMOVED_ACTION,
    ("collapse_action", "switch_advantage"): REMOVED_ACTION,
}

_SOURCES = {
    "grpo": (
        ("trl", "trainer/grpo_config.py", "GRPOConfig"),
        ("trl", "trainer/base_config.py", "_BaseConfig"),
        ("transformers", "training_args.py", "TrainingArguments"),
    ),
    "model": (("trl", "trainer/model_config.py", "ModelConfig"),),
}
_TYPES = {"int": Integer, "float": Number, "str": str, "bool": Flag, "dict": dict, "list": Items, "None": None}
_TEXT_LIKE = {"SchedulerType", "OptimizerNames", "IntervalStrategy", "SaveStrategy", "HubStrategy"}
"""Enums of transformers, which a recipe spells as text."""
_TRL_RANGES: dict[str, Any] = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "num_iterations",
         "max_completion_length"), Field(ge=1)),
    **dict.fromkeys(("learning_rate", "weight_decay", "beta", "max_grad_norm", "epsilon"), Field(ge=0)),
    "temperature": Field(gt=0),
    "max_steps": Expected("a whole number other than 0, at most 10^9", lambda steps: steps and steps <= 10**9),
    # Of numpy's generator, which transformers seeds.
    **dict.fromkeys(("seed", "data_seed"), Field(ge=0, le=2**32 - 1)),
}  # fmt: skip
"""Ranges that TRL or torch would report in a traceback only."""
_LOSSES = Literal["grpo", "dr_grpo", "dapo", "bnpo", "luspo", "cispo", "sapo", "vespo"]
"""Those of TRL 1.16."""
TRL_SCALES = {"group": "grpo", "none": "dr_grpo"}
"""TRL's `scale_rewards`, and the advantage that computes the same."""
AGGREGATION = "sum_then_normalize"
"""The only `multi_objective_aggregation` here: rewards are summed, then compared within their group."""


def our_keys() -> list[str]:
    """Keys of IdeatorConfig."""
    return list(config_fields(IdeatorConfig))


@cache
def trl_keys(group: str) -> dict[str, Any]:
    """Keys of GRPOConfig (`grpo`) or ModelConfig (`model`), with the types of their values."""
    keys: dict[str, Any] = {}
    for package, file, name in _SOURCES[group]:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None, f"{package} is a dependency of this library"
        # Read as source, since importing trl takes longer than a refusal should.
        tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_argument(node.value):
                keys.setdefault(node.target.id, _type_of(node.annotation))
    return keys


@cache
def recipe_model() -> type[BaseModel]:
    """A model of all keys that a training recipe may have; where TRL has one of ours, ours counts."""
    ours = {name: (field.annotation, field) for name, field in config_fields(IdeatorConfig).items()}
    theirs: dict[str, Any] = {}
    for name, kind in (trl_keys("grpo") | trl_keys("model")).items():
        theirs[name] = (Annotated[kind, _TRL_RANGES[name]] if name in _TRL_RANGES else kind, None)
    theirs["loss_type"] = (_LOSSES, None)
    rules = ConfigDict(extra="forbid", protected_namespaces=())
    model: type[BaseModel] = create_model("TrainingRecipe", __config__=rules, **(theirs | ours))  # type: ignore[call-overload]
    return model


def _is_argument(value: ast.expr | None) -> bool:
    """Whether the constructor takes the field: not `field(init=False)`."""
    keywords = value.keywords if isinstance(value, ast.Call) else []
    return not any(k.arg == "init" and isinstance(k.value, ast.Constant) and not k.value.value for k in keywords)


def _type_of(annotation: ast.expr) -> Any:
    """The type that a recipe's value must have; Any where the source has a type that YAML has not."""
    kinds: Any = None
    for number, member in enumerate(ast.unparse(annotation).split(" | ")):
        name = member.partition("[")[0]
        if name not in _TYPES and name not in _TEXT_LIKE:
            return Any
        kind = _TYPES.get(name, str)
        kinds = kind if number == 0 else kinds | kind
    return kinds
