"""A training run from its folder to its closing words: warm-up, baseline, GRPO on executed ideas, summary.

Killed at any moment, the same run resumed ends it: the warm-up is kept, the newest whole checkpoint is taken, and what
it proposes again is replayed from the bucket.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import IO, Any

from ideator_rl.catalogue import idea_corpus
write_report = lambda *a: None
from ideator_rl.diagnostics.summary import summary
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.executor import Executor
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.rollout_prompts import prompt_rows
from ideator_rl.training import run_folder
from ideator_rl.training.models import build_ideator
from ideator_rl.training.progress import Progress
from ideator_rl.training.recipe import Recipe
from ideator_rl.training.trainer import build_trainer, save_model
from ideator_rl.training.warmup import warm_up


def train(recipe: Recipe, resume: bool, progress: Progress) -> None:
    """Run a recipe to its end.

    Raises:
        IdeatorError: the folder is taken, the environment, bucket or sandbox is not usable, or the baseline fails.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    lock: IO[str] | None = run_folder.take(recipe.output_dir, resume) if first else None
    _threads(recipe)
    config = buffer_config(recipe)
    buffer = open_buffer(config)
    if first:
        recipe.save(recipe.output_dir / run_folder.MARK)
        _introduce(recipe, buffer, progress)
    baseline = _Baseline(buffer, recipe.ours.baseline_replicates) if first else None
    with progress.phase("warmup"):
        source, chat = ideator(recipe, buffer, progress)
    if baseline is not None:
        with progress.phase("baseline"):
            progress.say(baseline.words())
    with progress.phase("loading"):
        groups = max(1, recipe.generation_batch // recipe.num_generations)
        rows = prompt_rows(buffer.executor.environment, config, groups, recipe.ours.prompts, chat)
        trainer = build_trainer(recipe, source, rows, progress)
    checkpoint = run_folder.last_checkpoint(recipe.output_dir) if resume else None
    if checkpoint is not None:
        progress.say(f"resuming from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    progress.end()
    if first:
        with progress.phase("saving"):
            save_model(trainer, recipe.output_dir / "model")
        close(recipe.output_dir, progress)
    buffer.close()
    if lock is not None:
        lock.close()


def buffer_config(recipe: Recipe) -> BufferConfig:
    """Where and how the recipe's experiments are run."""
    ours = recipe.ours
    return BufferConfig(
        environment=ours.env,
        preset=ours.preset,
        bucket=recipe.bucket,
        implementer=ours.implementer,
        slots=ours.slots,
        isolation=ours.isolation,
        replicates=ours.replicates,
        seed=recipe.seed,
        run_dir=str(recipe.output_dir),
    )


def ideator(recipe: Recipe, buffer: RewardBuffer, progress: Progress) -> tuple[str, bool]:
    """Where to load the ideator from, warmed up if the recipe says so; and whether it has a chat template."""
    from transformers import AutoTokenizer, set_seed

    ours, folder, seed = recipe.ours, recipe.output_dir, recipe.seed
    environment = buffer.executor.environment
    ideas = idea_corpus(environment, ours.sft_examples, seed) if ours.sft_steps or ours.scratch_model else []
    text = environment.prompt(ours.preset, ours.prompts)
    source = build_ideator(ours.model_name_or_path, ours.scratch_model, [text, *ideas], folder / "scratch", seed)
    chat = bool(AutoTokenizer.from_pretrained(source).chat_template)
    if not ours.sft_steps:
        return source, chat
    target = folder / "warmup"
    if not target.is_dir():
        progress.say(f"warm-up: {ours.sft_steps} steps of SFT on {len(ideas)} ideas from the environment's catalogue")
        set_seed(seed)
        prompt: Any = [{"role": "user", "content": text}] if chat else text
        warm_up(source, target, prompt, ideas, ours, seed, progress.warmup)
    return str(target), chat


class _Baseline:
    """The baseline's runs, under way while the ideator warms up."""

    def __init__(self, buffer: RewardBuffer, replicates: int):
        self._buffer, self._replicates = buffer, replicates
        self._executor = Executor(buffer.config)
        self._error: IdeatorError | None = None
        self._values: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except IdeatorError as error:
            self._error = error

    async def _all(self) -> None:
        for replicate in range(self._replicates):
            record = await self._executor.baseline(replicate)
            self._buffer.record(record)
            if record.status != SUCCEEDED or record.metric is None:
                why = record.error["message"] if record.error else record.status
                raise IdeatorError(f"The baseline did not succeed ({record.status}), so no idea can be judged: {why}")
            self._values.append(record.metric["value"])

    def words(self) -> str:
        """Wait for the runs; one line about them.

        Raises:
            IdeatorError: a baseline run did not succeed.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        values = ", ".join(f"{value:.4f}" for value in self._values)
        return f"baseline {self._executor.environment.metric.name} {values}"


def close(folder: Path, progress: Progress) -> None:
    """Write timings and report, and say what came out."""
    total = time.monotonic() - progress.started
    timings = {**{name: round(value, 3) for name, value in progress.seconds.items()}, "total": round(total, 3)}
    (folder / "timings.json").write_text(json.dumps(timings, indent=1))
    write_report([folder], folder / "report.html")
    print(summary(folder), flush=True)


def _introduce(recipe: Recipe, buffer: RewardBuffer, progress: Progress) -> None:
    executor = buffer.executor
    what = "reads ideas against the environment's catalogue, asks no LLM" if recipe.ours.implementer == "rules" else ""
    reason = f" ({executor.sandbox.reason})" if executor.sandbox.reason else ""
    sandbox = executor.sandbox.level + reason
    progress.say(f"environment {executor.environment.name}/{recipe.ours.preset} · isolation {sandbox}")
    progress.say(f"implementer {executor.implementer.name}" + (f": {what}" if what else ""))


def _threads(recipe: Recipe) -> None:
    if recipe.ours.cpu_threads is not None:
        import torch

        torch.set_num_threads(recipe.ours.cpu_threads)
