"""`ideator-rl sft`: rows from one source, the recipe's ideator, SFT, and a model folder with a card.

The folder is new, appears complete or not at all, and is a valid `model_name_or_path`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ideator_rl.environments.catalogue.catalogue import idea_corpus
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.llm.model_files import load_tokenizer
from ideator_rl.llm.prompt_form import PromptForm
from ideator_rl.training.models import hub_name
from ideator_rl.training.preflight import check_ideator
from ideator_rl.training.progress import Progress
from ideator_rl.training.recipe.recipe import Recipe
from ideator_rl.training.sft.data import (
    Row,
    RowSource,
    rows_for_model,
    rows_from_file,
    rows_from_run,
    tokenizer_corpus,
    with_recombinations,
)


@dataclass(frozen=True)
class WarmupRequest:
    """The options of the command line."""

    out: Path
    data: Path | None = None
    """A trajectory file."""
    from_run: Path | None = None
    best: int = 64
    """Ideas to take from the run, at most."""
    above_baseline: bool = False
    adapters: bool = False
    """Train adapters of the recipe's LoRA keys, and merge them into the model."""


def sft(recipe: Recipe, request: WarmupRequest, progress: Progress) -> None:
    """Fine-tune the recipe's ideator and write it to `request.out`.  Every process of a launch calls this.

    Raises:
        IdeatorError: the folder exists, there is nothing to learn from, or the ideator cannot be loaded.
    """
    check(recipe, request)
    environment = load_environment(recipe.ours.env).at(recipe.ours.preset)
    source = _read_rows(recipe, request, environment)
    is_first = int(os.environ.get("RANK", "0")) == 0
    if is_first:
        for line in (f"learning from {source.origin}", *source.notes):
            progress.say(line)
    # Imported late: a refused request must not wait seconds for torch and transformers.
    from transformers import AutoConfig

    from ideator_rl.training.libraries import prepare_libraries
    from ideator_rl.training.models import build_ideator
    from ideator_rl.training.sft.warmup import FitSettings, fine_tune

    prepare_libraries(recipe.ours.cpu_threads)
    if is_first:
        for note in check_ideator(recipe, environment, request.out.parent):
            progress.say(note)
    # A model from scratch is built in a hidden folder beside the target, on the same disk.
    ours, scratch = recipe.ours, request.out.with_name(f".{request.out.name}.scratch")
    model = build_ideator(
        ours.model_name_or_path, ours.scratch_model, tokenizer_corpus(source.rows), scratch, recipe.seed
    )
    # Rows can be checked only now: their form and length depend on the tokenizer.
    form = PromptForm(load_tokenizer(model)[0], recipe.template_arguments)
    config: Any = AutoConfig.from_pretrained(model)
    max_length = getattr(config.get_text_config(), "max_position_embeddings", None)
    rows = rows_for_model(source, form.is_chat, lambda row: form.length(*row), max_length)
    settings = FitSettings(
        steps=ours.sft_steps,
        learning_rate=ours.sft_learning_rate,
        batch_size=ours.sft_batch_size,
        seed=recipe.seed,
        dtype=recipe.model.get("dtype") or "float32",
        adapters=_adapter_config(recipe) if request.adapters else None,
        gradient_checkpointing=bool(recipe.grpo.get("gradient_checkpointing", False)),
        template_arguments=recipe.template_arguments,
    )
    card = warmup_card(recipe, source, rows, "adapters, merged in" if request.adapters else "all weights")
    fine_tune(model, request.out, rows, settings, progress.warmup, card)
    # `fine_tune` ends with a barrier: no other process reads the scratch model any more.
    if is_first:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.with_name(f".{scratch.name}.lock").unlink(missing_ok=True)


def check(recipe: Recipe, request: WarmupRequest) -> None:
    """Refuse at once a request that must fail later.

    Raises:
        IdeatorError: no steps, two sources, or the folder exists.
    """
    if recipe.ours.sft_steps < 1:
        raise IdeatorError(
            f"The recipe has sft_steps: {recipe.ours.sft_steps}. Add a number, for example --sft_steps 100."
        )
    if request.data is not None and request.from_run is not None:
        raise IdeatorError("Both --data and --from-run were given. Name one source, or write both into one file.")
    if request.out.exists():
        raise IdeatorError(f"{request.out} exists already. Give another --out; nothing is overwritten.")


def warmup_card(recipe: Recipe, source: RowSource, rows: list[Row], trained: str) -> str:
    """Markdown with the Hub's metadata; contains no folder of this machine.

    Args:
        trained: which weights were trained.
    """
    from huggingface_hub import ModelCard, ModelCardData

    name = recipe.ours.model_name_or_path
    base = f"`{hub_name(name) or Path(name).name}`" if name else None
    tags = ["ideator_rl", "sft", "trl"]
    card: Any = ModelCard.from_template(
        ModelCardData(base_model=hub_name(name), library_name="transformers", tags=tags),
        str(Path(__file__).with_name("model_card.md.j2")),
        ours=recipe.ours,
        seed=recipe.seed,
        environment=Path(recipe.ours.env).name,
        base=base or f"A small Llama from scratch ({json.dumps(recipe.ours.scratch_model)})",
        source=source,
        row_count=len(rows),
        digest=hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest(),
        trained=trained,
        ideator_rl=version("ideator-rl"),
        trl=version("trl"),
        transformers=version("transformers"),
    )
    return f"{card}\n"


def _read_rows(recipe: Recipe, request: WarmupRequest, environment: Environment) -> RowSource:
    ours = recipe.ours
    prompt = recipe.prompt(environment)
    if request.data is not None:
        return rows_from_file(request.data, prompt)
    if request.from_run is not None:
        return rows_from_run(request.from_run, environment.name, prompt, request.best, request.above_baseline)
    ideas = idea_corpus(environment, ours.sft_examples, recipe.seed)
    rows = with_recombinations([(prompt, idea) for idea in ideas], ours, recipe.seed)
    recombined = sum(row_prompt != prompt for row_prompt, _ in rows)
    notes = [f"{recombined} of them answer prompts that show past ideas"] if recombined else []
    return RowSource(rows, f"{len(rows)} ideas sampled from the environment's catalogue", notes)


def _adapter_config(recipe: Recipe) -> Any:
    from trl import ModelConfig, get_peft_config

    return get_peft_config(ModelConfig(**{**recipe.model, "use_peft": True}))
