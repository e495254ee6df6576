"""`ideator-rl sft` from a recipe to a model folder: rows from one source, the recipe's ideator, SFT, a card.

The folder is new, appears whole or not at all, and is what `model_name_or_path` takes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.environments.catalogue.catalogue import idea_corpus
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.training.models import PACKAGE
from ideator_rl.training.progress import Progress
from ideator_rl.training.recipe.recipe import Recipe
from ideator_rl.training.sft.data import Row, Source, corpus_of, for_model, from_file, from_run, with_parents

CARD = """---
{head}---

# A warm start for ideas about {env}

{base} after {steps} steps of supervised fine-tuning on {origin}, so that it writes ideas in the form
`[Experiment] … [Code Changes] … [End]` (environment `{env}`, preset `{preset}`). It was not trained on rewards: it is
what reinforcement learning starts from. Made with ideator_rl {ours}, TRL {trl} and transformers {transformers}.

| | |
|---|---|
| rows | {rows}, SHA-256 `{digest}` |
| what was trained | {what} |
| learning rate, rows a step, seed | {rate:g}, {batch}, {seed} |

Nothing is known of it beyond that; it may write ideas that do not run.
"""


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for."""

    out: Path
    data: Path | None = None
    """A trajectory file."""
    from_run: Path | None = None
    best: int = 64
    """Ideas to take from the run."""
    above_baseline: bool = False
    adapters: bool = False
    """Train adapters of the recipe's LoRA keys, and merge them in."""


def sft(recipe: Recipe, wanted: Wanted, progress: Progress) -> None:
    """Warm up the recipe's ideator into `wanted.out`.

    Raises:
        IdeatorError: the folder is there already, nothing to learn from, or the ideator cannot be made.
    """
    check(recipe, wanted)
    environment = load_environment(recipe.ours.env)
    source = _rows(recipe, wanted, environment)
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        progress.say(f"learning from {source.origin}")
        for note in source.notes:
            progress.say(note)
    from transformers import AutoTokenizer

    from ideator_rl.training.libraries import prepare_libraries
    from ideator_rl.training.models import build_ideator
    from ideator_rl.training.sft.warmup import Fit, fine_tune

    prepare_libraries(recipe.ours.cpu_threads)
    ours, scratch = recipe.ours, wanted.out.with_name(f".{wanted.out.name}.scratch")
    model = build_ideator(ours.model_name_or_path, ours.scratch_model, corpus_of(source.rows), scratch, recipe.seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    rows = for_model(source, bool(tokenizer.chat_template), lambda row: _tokens(tokenizer, row), _room(model))
    adapters = _adapters(recipe) if wanted.adapters else None
    fit = Fit(ours.sft_steps, ours.sft_learning_rate, ours.sft_batch_size, recipe.seed)
    fit = replace(
        fit,
        dtype=recipe.model.get("dtype") or "float32",
        adapters=adapters,
        checkpointing=bool(recipe.grpo.get("gradient_checkpointing", False)),
    )
    card = warm_card(recipe, source, rows, "adapters, merged in" if adapters else "all weights")
    fine_tune(model, wanted.out, rows, fit, progress.warmup, card)
    if first:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.with_name(f".{scratch.name}.lock").unlink(missing_ok=True)


def check(recipe: Recipe, wanted: Wanted) -> None:
    """Refuse at once what cannot end well.

    Raises:
        IdeatorError: no steps, two sources, or the folder is taken.
    """
    if recipe.ours.sft_steps < 1:
        raise IdeatorError(
            f"The recipe has sft_steps: {recipe.ours.sft_steps}. Add a number, for example --sft_steps 100."
        )
    if wanted.data is not None and wanted.from_run is not None:
        raise IdeatorError("Both --data and --from-run were given. Name one source, or write both into one file.")
    if wanted.out.exists():
        raise IdeatorError(f"{wanted.out} exists already. Give another --out; nothing is overwritten.")


def warm_card(recipe: Recipe, source: Source, rows: list[Row], what: str) -> str:
    """Markdown with the hub's metadata block; names no folder of this machine."""
    ours, name = recipe.ours, recipe.ours.model_name_or_path
    on_hub = name is not None and not name.startswith((PACKAGE, "/", ".")) and not Path(name).exists()
    head = {"library_name": "transformers", "tags": ["ideator_rl", "sft", "trl"]}
    known = f"`{name if on_hub else Path(str(name)).name}`"
    return CARD.format(
        head=yaml.safe_dump({**head, **({"base_model": name} if on_hub else {})}, sort_keys=False),
        env=Path(ours.env).name,
        preset=ours.preset,
        base=known if name else f"A small Llama from scratch ({json.dumps(ours.scratch_model)})",
        steps=ours.sft_steps,
        origin=source.origin,
        rows=len(rows),
        digest=hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest(),
        what=what,
        rate=ours.sft_learning_rate,
        batch=ours.sft_batch_size,
        seed=recipe.seed,
        ours=version("ideator-rl"),
        trl=version("trl"),
        transformers=version("transformers"),
    )


def _rows(recipe: Recipe, wanted: Wanted, environment: Environment) -> Source:
    ours = recipe.ours
    prompt = environment.prompt(ours.preset, ours.prompts)
    if wanted.data is not None:
        return from_file(wanted.data, prompt)
    if wanted.from_run is not None:
        return from_run(wanted.from_run, environment.name, prompt, wanted.best, wanted.above_baseline)
    ideas = idea_corpus(environment, ours.sft_examples, recipe.seed)
    rows = with_parents([(prompt, text) for text in ideas], ours, recipe.seed)
    shown = sum(own != prompt for own, _ in rows)
    notes = [f"{shown} of them answer prompts that show past ideas"] if shown else []
    return Source(rows, f"{len(rows)} made-up ideas of the environment's catalogue", notes)


def _tokens(tokenizer: Any, row: Row) -> int:
    prompt, completion = row
    if isinstance(prompt, str):
        return len(tokenizer(prompt + completion).input_ids) + 1  # the end of text
    messages = [*prompt, {"role": "assistant", "content": completion}]
    return len(tokenizer(tokenizer.apply_chat_template(messages, tokenize=False)).input_ids)


def _room(model: str) -> int | None:
    from transformers import AutoConfig

    return getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)


def _adapters(recipe: Recipe) -> Any:
    from trl import ModelConfig, get_peft_config

    return get_peft_config(ModelConfig(**{**recipe.model, "use_peft": True}))
