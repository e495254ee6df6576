"""What accelerate launches: `accelerate launch -m ideator_rl.train --config RECIPE.yaml [--key value …] [--resume]`.

Takes the run's folder, warms the ideator up, trains it on executed ideas, and closes with what came out.  Killed at
any moment, the same line with --resume ends it, and nothing is run twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when the run ended by itself, 2 for an expected error (one sentence on stderr)."""
    _quiet()
    try:
        config, resume, overrides = _arguments(sys.argv[1:] if argv is None else argv)
        _train(config, resume, overrides)
    except IdeatorError as error:
        print(f"ideator_rl.train: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments(argv: list[str]) -> tuple[str, bool, list[str]]:
    words, resume, config = list(argv), False, None
    if "--resume" in words:
        words.remove("--resume")
        resume = True
    for index, word in enumerate(words):
        if word == "--config" and index + 1 < len(words):
            config = words[index + 1]
            del words[index : index + 2]
            break
        if word.startswith("--config="):
            config = words.pop(index).partition("=")[2]
            break
    if config is None:
        raise IdeatorError("No recipe was given. Expected --config RECIPE.yaml, for example recipes/quickstart.yaml.")
    return config, resume, words


def _train(path: str, resume: bool, overrides: list[str]) -> None:
    from ideator_rl.training.progress import Progress

    progress = Progress()
    progress.say(f"reading {path}")
    with progress.phase("imports"):
        from ideator_rl.training.recipe import load_recipe

        recipe = load_recipe(path, overrides)
        from ideator_rl.training import run_folder
        from ideator_rl.training.trainer import build_trainer, save_model
    first = int(os.environ.get("RANK", "0")) == 0
    folder = recipe.output_dir
    lock = run_folder.take(folder, resume) if first else None
    from ideator_rl.environment import load_environment
    from ideator_rl.reward_buffer import BufferConfig, open_buffer
    from ideator_rl.rollout_prompts import prompt_rows

    ours = recipe.ours
    config = BufferConfig(
        environment=ours.env,
        preset=ours.preset,
        bucket=recipe.bucket,
        implementer=ours.implementer,
        slots=ours.slots,
        isolation=ours.isolation,
        replicates=ours.replicates,
        seed=recipe.grpo.get("seed", 42),
        run_dir=str(folder),
    )
    buffer = open_buffer(config)
    if first:
        recipe.save(folder / run_folder.MARK)
    if ours.implementer == "rules":
        progress.say("implementer: rules (reads ideas against the environment's catalogue; no code LLM is asked)")
    progress.say(f"isolation: {buffer.executor.sandbox.level} {buffer.executor.sandbox.reason}".rstrip())
    baseline = _Baselines(buffer, ours.baseline_replicates) if first else None
    with progress.phase("warmup"):
        source, chat = _ideator(recipe, buffer.executor.environment, progress)
    if baseline is not None:
        with progress.phase("baseline"):
            baseline.join()
    with progress.phase("loading"):
        generations = recipe.grpo.get("num_generations", 8)
        batch = recipe.grpo.get("generation_batch_size") or (
            recipe.grpo.get("per_device_train_batch_size", 8)
            * int(os.environ.get("WORLD_SIZE", "1"))
            * (recipe.grpo.get("steps_per_generation") or recipe.grpo.get("gradient_accumulation_steps", 1))
        )
        rows = prompt_rows(load_environment(ours.env), config, max(1, batch // generations), ours.prompts, chat)
        trainer = build_trainer(recipe, source, rows, progress)
    checkpoint = run_folder.last_checkpoint(folder) if resume else None
    if checkpoint is not None:
        progress.say(f"resuming from {checkpoint.name}")
    before = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    progress.seconds["training"] = time.monotonic() - before
    progress.end()
    if first:
        with progress.phase("saving"):
            save_model(trainer, folder / "model")
        _close(folder, progress, buffer)
    buffer.close()
    if lock is not None:
        lock.close()


class _Baselines:
    """The baseline's runs, under way while the ideator warms up."""

    def __init__(self, buffer: Any, replicates: int):
        from ideator_rl.executor.executor import Executor

        self._buffer, self._replicates = buffer, replicates
        self._executor = Executor(buffer.config)
        self._error: IdeatorError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        async def all_of_them() -> None:
            for replicate in range(self._replicates):
                self._buffer.record(await self._executor.baseline(replicate))

        try:
            asyncio.run(all_of_them())
        except IdeatorError as error:
            self._error = error

    def join(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error


def _ideator(recipe: Any, environment: Any, progress: Any) -> tuple[str, bool]:
    """Where to load the ideator from, warmed up if the recipe says so; and whether it has a chat template."""
    from transformers import AutoTokenizer, set_seed

    from ideator_rl.catalogue import idea_corpus
    from ideator_rl.training.models import build_ideator
    from ideator_rl.training.warmup import warm_up

    ours, folder, seed = recipe.ours, recipe.output_dir, recipe.grpo.get("seed", 42)
    needs_corpus = ours.sft_steps or ours.scratch_model
    ideas = idea_corpus(environment, ours.sft_examples, seed) if needs_corpus else []
    text = environment.prompt(ours.preset, ours.prompts)
    progress.say("loading the ideator")
    source = build_ideator(ours.model_name_or_path, ours.scratch_model, [text, *ideas], folder / "scratch", seed)
    chat = bool(AutoTokenizer.from_pretrained(source).chat_template)
    if not ours.sft_steps:
        return source, chat
    target = folder / "warmup"
    if not target.is_dir():
        progress.say(f"warm-up: {ours.sft_steps} steps of SFT on {len(ideas)} ideas from the catalogue")
        prompt = [{"role": "user", "content": text}] if chat else text
        tick = _Tick(progress)
        set_seed(seed)
        warm_up(source, target, prompt, ideas, ours, seed, tick)
    return str(target), chat


class _Tick:
    def __init__(self, progress: Any):
        self._progress = progress

    def __call__(self, step: int, steps: int, loss: float) -> None:
        self._progress.say(f"warm-up step {step}/{steps} · loss {loss:.3f}")


def _close(folder: Path, progress: Any, buffer: Any) -> None:
    """Write the timings and the report, and say what came out."""
    total = time.monotonic() - progress.started
    timings = {**{name: round(value, 3) for name, value in progress.seconds.items()}, "total": round(total, 3)}
    (folder / "timings.json").write_text(json.dumps(timings, indent=1))
    from ideator_rl.diagnostics.summary import summary

    print(summary(folder), flush=True)


def _quiet() -> None:
    """Warnings of the libraries that a user cannot act on; errors stay."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    for name in ("transformers", "trl", "datasets", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
