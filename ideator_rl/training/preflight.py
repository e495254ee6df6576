"""Tries, before anything is paid, what a run needs up to its end; a dry run, `train` and `sft` call the same functions.

`check_recipe` is cheap and imports no torch unless a plugin does: names, packages, environment, catalogue, the model's
files, the output folder.  `check_ideator` loads the model without its weights, and saves all that is saved at the end
but them.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from pathlib import Path
from typing import Any

from ideator_rl.archive.bases import NONE
from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.fleet_estimate import refuse_misfits
from ideator_rl.llm.model_lookup import PACKAGE, ModelError, NotInstalled, first_line, require_model
from ideator_rl.patch.shown_files import BYTES_PER_TOKEN, tokens
from ideator_rl.training.checkpoints import WARMUP
from ideator_rl.training.recipe.check_names import check_names
from ideator_rl.training.recipe.recipe import Recipe

GIB = 1 << 30
_PACKAGES = {
    "use_vllm": "vllm",
    "use_peft": "peft",
    "use_liger_kernel": "liger_kernel",
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
}
"""Packages that keys of TRL need."""
_BYTES = {"float16": 2, "bfloat16": 2}
"""Of a weight, by dtype; 4 for others."""


class PreflightError(IdeatorError):
    """The run could not reach its end."""


def check_recipe(recipe: Recipe, resume: bool = False, dry: bool = False, for_rewards: bool = True) -> list[str]:
    """Check what needs no model in memory.

    Args:
        resume: the run in the recipe's folder goes on; after its warm-up the base model is not needed.
        dry: the run may be meant for another machine: what is not installed or not on this one becomes a sentence, and
            no network is used.
        for_rewards: ideas will be run and rewarded; false for a warm-up alone.

    Returns:
        sentences for people: what this machine lacks, so that the model cannot be tried.

    Raises:
        IdeatorError: the run could not reach its end; the message names the remedy.
    """
    ours = recipe.ours
    _ = recipe.template_arguments  # for its error
    if for_rewards:
        check_names(recipe)
    environment = load_environment(ours.env).at(ours.preset)
    _ = recipe.prompt(environment)  # for its error
    if for_rewards and environment.metric.is_reported and not ours.allow_reported:
        raise PreflightError(
            f"The metric {environment.metric.name} of {environment.name} is reported by code that runs together with "
            "the idea's, so a policy can learn to forge it. Let trusted code measure it, or set allow_reported: true."
        )
    if for_rewards:
        refuse_misfits(environment.preset(ours.preset), ours.fleet, ours.max_gpu_hours, recipe.generation_batch)
    if for_rewards and (ours.sft_steps or ours.scratch_model or ours.implementer == "rules"):
        # The warm-up samples its ideas there, and `rules` reads every idea with it.
        environment_catalogue(environment)
    _check_writable(recipe.output_dir)
    notes = []
    try:
        _check_packages(recipe)
        if ours.model_name_or_path is not None and not has_warmup(recipe, resume):
            name = ours.model_name_or_path
            notes.append(require_model(name, recipe.model.get("model_revision"), ask_hub=not dry))
            if dry and name.startswith(PACKAGE):  # its conversion takes a while
                notes.append(f"{name} is tried at the start of the run only")
    except NotInstalled as error:
        if not dry:
            raise
        notes.append(f"the run would be refused here: {error}")
    return [note for note in notes if note]


def check_ideator(recipe: Recipe, environment: Environment, folder: Path | None = None) -> list[str]:
    """Try the recipe's model: load it without weights, write its prompt, save it, and find room for it on the disk.

    Args:
        folder: where checkpoints and model will be written; None for the recipe's `output_dir`.

    Returns:
        sentences for people: what was repaired, and what the run will not do.

    Raises:
        IdeatorError: the model cannot be trained or saved; the message names the remedy.
    """
    ours = recipe.ours
    if ours.scratch_model is not None:
        from ideator_rl.training.models import scratch_config

        # Its tokenizer is made later, from the texts of the warm-up: any number of tokens will do here.
        scratch_config(dict(ours.scratch_model), tokens=3)
        return []
    from ideator_rl.llm.model_check import check_model

    assert ours.model_name_or_path is not None, "a recipe names one ideator"
    checked = check_model(
        ours.model_name_or_path,
        recipe.prompt(environment),
        recipe.model.get("model_revision"),
        recipe.model.get("dtype") or "float32",
        recipe.template_arguments,
        _load_options(recipe),
    )
    notes = list(checked.notes)
    if checked.window is not None:
        prompt = recipe.prompt(environment)
        length = len(checked.form.ids(checked.form.prompt(prompt)))
        needed = length + int(recipe.grpo.get("max_completion_length", 256))
        if ours.inherit != NONE:
            # The estimate of tokens is scaled where this tokenizer needs more of them.
            needed += math.ceil(_more_with_code(recipe, environment) * max(1.0, length / tokens(prompt)))
        smaller = " or code_tokens" if ours.inherit != NONE else ""
        if needed > checked.window and checked.has_learned_positions:
            raise PreflightError(
                f"Prompt and max_completion_length have {needed} tokens, and the model has positions for "
                f"{checked.window}. Lower max_completion_length{smaller}, or choose a shorter prompt (`prompts`)."
            )
        if needed > checked.window:
            notes.append(
                f"prompt and max_completion_length have {needed} tokens, more than the {checked.window} of the "
                "model's context: what it writes beyond them may be poor"
            )
    trained = checked.parameters
    if recipe.model.get("use_peft"):
        trained = _check_adapters(recipe, checked.model)
    return notes + _check_disk(recipe, folder or recipe.output_dir, checked.parameters, trained)


def _more_with_code(recipe: Recipe, environment: Environment) -> int:
    """Tokens, by estimate, that a prompt with past ideas and inherited code may have more than the one without.

    A parent's files may be longer than the baseline's, up to their half of `code_tokens`; diffs have the other half.
    """
    from ideator_rl.archive.code_prompt import LEAST_TOKENS
    from ideator_rl.archive.prompts import ArchivePrompts, parent_prompt

    ours = recipe.ours
    prompt = recipe.prompt(environment)
    own_code = tokens(prompt) - tokens(environment.prompt(ours.preset, ours.prompts, {}))
    # The text around the ideas, with a place for each; a description is no longer than an idea was written.
    around = tokens(parent_prompt(environment, prompt, [("", None)] * ours.prompt_parents)) - tokens(prompt)
    longest = int(recipe.grpo.get("max_completion_length", 256))
    description = min(longest, ArchivePrompts.idea_chars // BYTES_PER_TOKEN)
    code = max(ours.code_tokens, ours.code_tokens // 2 + ours.prompt_parents * LEAST_TOKENS)
    return max(0, code + around + ours.prompt_parents * description - own_code)


def has_warmup(recipe: Recipe, resume: bool) -> bool:
    """Whether a resumed run starts from its own warm-up, which was checked before: its base may be gone."""
    return resume and bool(recipe.ours.sft_steps) and (recipe.output_dir / WARMUP).is_dir()


def _check_packages(recipe: Recipe) -> None:
    """
    Raises:
        NotInstalled: the recipe needs a package that this machine lacks.
    """
    for key, package in _PACKAGES.items():
        wanted = recipe.grpo.get(key) or recipe.model.get(key)
        if wanted and importlib.util.find_spec(package) is None:
            how = "docs/how-to/scaling.md" if package == "vllm" else f"`pip install {package.replace('_', '-')}`"
            raise NotInstalled(
                f"The recipe has {key}: true, and {package} is not installed here. Install it ({how}), or give "
                f"--{key} false."
            )


def _load_options(recipe: Recipe) -> dict[str, Any]:
    """What the trainer gives to `from_pretrained`, beside revision, dtype and places of the weights."""
    options = {"attn_implementation": recipe.model.get("attn_implementation")}
    given = recipe.grpo.get("model_init_kwargs")
    options |= given if isinstance(given, dict) else {}  # TRL takes its JSON too, and reads it itself
    ours = ("dtype", "torch_dtype", "device_map", "revision", "trust_remote_code", "quantization_config")
    return {name: value for name, value in options.items() if name not in ours and value is not None}


def _check_writable(folder: Path) -> None:
    """
    Raises:
        PreflightError: the folder, or the nearest one above it that exists, cannot be written to.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        why = "cannot be written to by this user" if existing.is_dir() else "is no folder"
        raise PreflightError(f"The output folder {folder} cannot be used: {existing} {why}. Give another --output_dir.")


def _check_adapters(recipe: Recipe, model: Any) -> int:
    """Put the recipe's adapters on the model; returns the number of their weights.

    Raises:
        ModelError: they do not fit it.
    """
    from peft import get_peft_model
    from trl import ModelConfig, get_peft_config

    try:
        adapters: Any = get_peft_config(ModelConfig(**recipe.model))
        adapted: Any = get_peft_model(model, adapters)
    # peft raises many kinds of exception for what a recipe may hold.
    except Exception as error:
        raise ModelError(
            f"The recipe's adapters do not fit the model: {first_line(error)} Correct the lora_ keys."
        ) from error
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def _check_disk(recipe: Recipe, folder: Path, parameters: int, trained: int) -> list[str]:
    """Compare the disk's room with one checkpoint, the warm-up's model and the final one, the least that must fit.

    Returns:
        a sentence if all checkpoints that the recipe keeps need more room than there is.

    Raises:
        PreflightError: not even the least fits.
    """
    size = _BYTES.get(str(recipe.model.get("dtype")), 4)
    # Weights, and two moments of Adam for each; another optimizer may need less, and none needs more.
    checkpoint = trained * size * 3
    models = parameters * size * (2 if recipe.ours.sft_steps else 1)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if str(recipe.grpo.get("save_strategy", "steps")) in ("no", "False"):
        checkpoint = 0
    if models + checkpoint > free:
        raise PreflightError(
            f"The run needs at least {(models + checkpoint) / GIB:.1f} GiB for one checkpoint and its models, and the "
            f"disk of {existing} has {free / GIB:.1f} GiB free. Free some, or give another --output_dir."
        )
    steps, interval = int(recipe.grpo.get("max_steps", -1)), float(recipe.grpo.get("save_steps", 500))
    count = math.ceil(steps / interval) if steps > 0 and interval >= 1 else 1
    # A new checkpoint is written before the oldest is removed.
    count = min(count, int(recipe.grpo.get("save_total_limit") or count) + 1)
    if models + checkpoint * count > free:
        return [
            f"up to {count} checkpoints and the models need {(models + checkpoint * count) / GIB:.1f} GiB, and the "
            f"disk has {free / GIB:.1f} GiB free: give --save_total_limit 2"
        ]
    return []
