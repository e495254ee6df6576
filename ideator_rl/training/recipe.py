"""A recipe: one flat YAML in TRL's own keys (GRPOConfig, ModelConfig), plus ours.

An unknown key, a wrong type or numbers that do not divide fail before any model is loaded, with one sentence.  The
command line may override every key; the resolved recipe is saved beside the run.
"""

from __future__ import annotations

import difflib
import os
import types
import typing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.errors import IdeatorError


class RecipeError(IdeatorError):
    """The recipe is not usable as it stands."""


@dataclass
class IdeatorConfig:
    """The keys that TRL does not have."""

    env: str = ""
    """Environment: a name, or the path of its folder."""
    preset: str = "cpu"
    bucket: str = ""
    """URL of the bucket; empty for `<output_dir>/bucket`."""
    implementer: str = "rules"
    slots: int | None = None
    """CPU slots for experiments on this machine; null for the number of cores."""
    isolation: str = "auto"
    replicates: int = 1
    """Runs that equal ideas of one group are spread over."""
    prompts: str = "short"
    """Which of the environment's prompts asks for an idea."""
    reward_funcs: list[str] = field(default_factory=lambda: ["execution"])
    scratch_model: dict[str, int] | None = None
    """Build a small Llama and its tokenizer on the spot: `vocab_size` and numbers of LlamaConfig."""
    sft_steps: int = 0
    """Optimizer steps of format SFT before RL, on ideas from the environment's catalogue; 0 for none."""
    sft_learning_rate: float = 1e-3
    sft_batch_size: int = 16
    sft_examples: int = 2000
    baseline_replicates: int = 1
    """Runs of the unchanged baseline, to compare with."""
    model_name_or_path: str | None = None
    """Hub name, folder, or `package:NAME/FILE.gguf` inside an installed package; null with `scratch_model`."""


MODEL_KEYS = ("model_revision", "dtype", "attn_implementation", "use_peft", "lora_r", "lora_alpha",
              "lora_dropout", "lora_target_modules", "lora_modules_to_save", "use_rslora")  # fmt: skip


@dataclass
class Recipe:
    ours: IdeatorConfig
    grpo: dict[str, Any]
    model: dict[str, Any]

    @property
    def output_dir(self) -> Path:
        return Path(self.grpo["output_dir"])

    @property
    def bucket(self) -> str:
        return self.ours.bucket or (self.output_dir.absolute() / "bucket").as_uri()

    def save(self, path: Path) -> None:
        """Write the resolved recipe: it can be run as it is."""
        given = {key: value for key, value in asdict(self.ours).items() if value is not None}
        path.write_text(yaml.safe_dump({**given, **self.model, **self.grpo}, sort_keys=False, allow_unicode=True))


def load_recipe(path: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply `--key value` overrides.

    Raises:
        RecipeError: no such file, an unknown key, a wrong type, or numbers that do not fit together.
    """
    raw = _read(_find(path), path)
    raw |= _overrides(overrides or [])
    from trl import GRPOConfig

    ours = {f.name: f.type for f in fields(IdeatorConfig)}
    theirs = {f.name for f in fields(GRPOConfig) if f.init}
    known = {*ours, *theirs, *MODEL_KEYS}
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "See docs/training.md for the keys."
            raise RecipeError(f"The recipe {path} has the unknown key {key!r}. {hint}")
    mine = {key: _typed(path, key, raw[key], hint) for key, hint in typing.get_type_hints(IdeatorConfig).items() if key in raw}
    recipe = Recipe(
        IdeatorConfig(**mine),
        {key: raw[key] for key in raw if key in theirs and key not in ours and key not in MODEL_KEYS},
        {key: raw[key] for key in raw if key in MODEL_KEYS},
    )
    _check(recipe, path)
    return recipe


def grpo_config(recipe: Recipe) -> Any:
    """The recipe's GRPOConfig, with defaults for what stock TRL assumes of a GPU.

    Raises:
        RecipeError: TRL refuses a value.
    """
    import torch
    from trl import GRPOConfig

    values = dict(recipe.grpo)
    if not torch.cuda.is_available():
        values.setdefault("use_cpu", True)
        values.setdefault("bf16", False)
    values.setdefault("report_to", "none")
    try:
        return GRPOConfig(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TRL refuses the recipe: {error}") from error


def _find(path: str) -> Path:
    """The file itself, or one of the shipped recipes by its file name."""
    if Path(path).is_file():
        return Path(path)
    import importlib.util

    spec = importlib.util.find_spec("recipes")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / Path(path).name).is_file():
            return Path(folder) / Path(path).name
    raise RecipeError(f"There is no recipe {path!r}. Give the path of a YAML file, or the name of a shipped one.")


class _OnceLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (YAML would silently take the last) and reads 1e-3 as a number."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise RecipeError(f"The key {key!r} stands twice in the recipe. Keep one.")
    return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}


_OnceLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read(file: Path, path: str) -> dict[str, Any]:
    try:
        raw = yaml.load(file.read_text(), _OnceLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"The recipe {path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"The recipe {path} must be a mapping of keys to values, got {type(raw).__name__}.")
    return {key: _number(value) for key, value in raw.items()}


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; everybody means the number."""
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() else value
        except ValueError:
            return value
    return value


def _overrides(words: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise RecipeError(f"Did not expect {word!r}; overrides are --key value or --key=value.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        out[key.replace("-", "_")] = _number(yaml.safe_load(value))
    return out


def _typed(path: str, key: str, value: Any, hint: Any) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        plain = typing.get_origin(option) or option
        if plain is float and type(value) is int:
            return float(value)
        if type(value) is plain:
            return value
    wanted = " or ".join(getattr(option, "__name__", str(option)).replace("NoneType", "null") for option in options)
    raise RecipeError(f"The recipe {path} has {key}: {value!r}; expected {wanted}.")


def _check(recipe: Recipe, path: str) -> None:
    for key in ("env",):
        if not getattr(recipe.ours, key):
            raise RecipeError(f"The recipe {path} has no {key!r}. Add `{key}: NAME`; `ideator-rl env list` shows names.")
    if "output_dir" not in recipe.grpo:
        raise RecipeError(f"The recipe {path} has no 'output_dir'. Add a folder for the run, e.g. runs/my_run.")
    if bool(recipe.ours.scratch_model) == bool(recipe.ours.model_name_or_path):
        raise RecipeError(f"The recipe {path} must name one ideator: either model_name_or_path or scratch_model.")
    generations = recipe.grpo.get("num_generations", 8)
    per_device = recipe.grpo.get("per_device_train_batch_size", 8)
    steps = recipe.grpo.get("steps_per_generation") or recipe.grpo.get("gradient_accumulation_steps", 1)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    batch = recipe.grpo.get("generation_batch_size") or per_device * world * steps
    if batch % generations:
        raise RecipeError(
            f"The recipe {path} generates {batch} completions a batch ({per_device} a device × {world} processes × "
            f"{steps} steps), which {generations} num_generations do not divide. Change one of them."
        )


