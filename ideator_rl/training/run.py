"""A training run from its folder to its closing words: baseline, warm-up, GRPO on executed ideas, summary.

Killed at any moment, the same run resumed ends it: the warm-up is kept, the newest whole checkpoint is taken, batches
that were sampled since are trained again as they were, and every experiment is found again in the bucket.  Of several
processes the first runs the experiments; the others only compute.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ideator_rl.archive.prompt_rows import prompt_of
from ideator_rl.environments.catalogue.catalogue import idea_corpus
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.executor.retry import Retry
from ideator_rl.report import write_report
from ideator_rl.report.summary import summary
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.storage.run_folder import MARK, take
from ideator_rl.training import checkpoints as run_folder
from ideator_rl.training.baseline import BaselineRuns
from ideator_rl.training.progress import Progress
from ideator_rl.training.recipe.recipe import Recipe, refuse_other
from ideator_rl.training.tracking import where_to_look

if TYPE_CHECKING:
    from ideator_rl.training.build import IdeatorTrainer


def train(recipe: Recipe, resume: bool, progress: Progress) -> None:
    """Run a recipe to its end.

    Raises:
        IdeatorError: the folder is taken, the environment, bucket or sandbox is not usable, or the baseline fails.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        _help(recipe, resume, progress)
        return
    with take(recipe.output_dir, resume):
        if resume:
            refuse_other(recipe)
        buffer = progress.buffer = _opened(buffer_config(recipe), resume)
        try:
            if resume and run_folder.is_complete(recipe.output_dir, recipe.grpo.get("max_steps", -1)):
                progress.say(f"the run in {recipe.output_dir} is complete; nothing is left to do")
                asyncio.run(_settled(buffer, progress))
            else:
                _lead(recipe, resume, progress, buffer)
            write_report([recipe.output_dir], recipe.output_dir / "report.html")
            print(summary(recipe.output_dir), flush=True)
        finally:
            progress.end()
            buffer.close()


def _opened(config: BufferConfig, resume: bool) -> RewardBuffer:
    """A run that had found its bucket waits for it to come back; a new one may have misspelled it."""
    retry = Retry(config.bucket, config.outage_patience if resume else 0)
    return asyncio.run(retry.call(lambda: open_buffer(config)))


def _lead(recipe: Recipe, resume: bool, progress: Progress, buffer: RewardBuffer) -> None:
    """The first process: it alone runs experiments."""
    recipe.save(recipe.output_dir / MARK)
    _introduce(recipe, buffer, progress)
    baseline = BaselineRuns(buffer, recipe.ours.baseline_replicates)
    trainer = _trainer(recipe, resume, progress, buffer, baseline)
    _go(trainer, recipe, resume, progress)
    with progress.phase("draining"):
        _say_left(buffer.outstanding, progress)
        trainer.drain()
    (recipe.output_dir / "timings.json").write_text(json.dumps(progress.timings(), indent=1))


async def _settled(buffer: RewardBuffer, progress: Progress) -> None:
    """Enter what a process that was killed while it drained had waited for."""
    buffer.reattach()
    await asyncio.sleep(0)
    _say_left(buffer.outstanding, progress)
    await buffer.drain()


def _say_left(left: int, progress: Progress) -> None:
    if left:
        progress.say(f"the model is saved; waiting for {left} experiments still under way (--resume enters them too)")


def _help(recipe: Recipe, resume: bool, progress: Progress) -> None:
    """Any other process."""
    if resume and run_folder.is_complete(recipe.output_dir, recipe.grpo.get("max_steps", -1)):
        return
    try:
        _go(_trainer(recipe, resume, progress), recipe, resume, progress)
    finally:
        progress.end()


def _trainer(
    recipe: Recipe,
    resume: bool,
    progress: Progress,
    buffer: RewardBuffer | None = None,
    baseline: BaselineRuns | None = None,
) -> IdeatorTrainer:
    with progress.phase("imports"):
        if buffer is not None:
            progress.say("loading libraries while the baseline runs")
        from ideator_rl.training.build import build_trainer
        from ideator_rl.training.from_archive import archive_prompts, elites
        from ideator_rl.training.libraries import prepare_libraries

        prepare_libraries(recipe.ours.cpu_threads)
    if baseline is not None:
        with progress.phase("baseline"):
            progress.say(baseline.words())
            run_folder.say_baseline(recipe.output_dir)
    else:
        run_folder.wait_for_baseline(recipe.output_dir)
    environment = buffer.executor.environment if buffer else load_environment(recipe.ours.env)
    with progress.phase("warmup"):
        source, chat = ideator(recipe, environment, progress)
    with progress.phase("loading"):
        prompt = prompt_of(environment, recipe.ours.preset, recipe.ours.prompts, chat)
        rows = [{"prompt": prompt}] * recipe.groups_per_epoch
        prompts = archive_prompts(recipe, buffer, chat) if buffer else None
        imitate = elites(recipe, buffer, chat) if buffer else None
        trainer = build_trainer(recipe, source, rows, progress, buffer, prompts, imitate, resume)
    if buffer is not None and (where := where_to_look(recipe, trainer.args.report_to)):
        progress.say(where)
    return trainer


def _go(trainer: IdeatorTrainer, recipe: Recipe, resume: bool, progress: Progress) -> None:
    from ideator_rl.training.build import save_model

    world = int(os.environ.get("WORLD_SIZE", "1"))
    checkpoint = run_folder.last_checkpoint(recipe.output_dir, world) if resume else None
    if checkpoint is not None:
        progress.say(f"resuming from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    progress.end()
    with progress.phase("saving"):
        save_model(trainer)


def buffer_config(recipe: Recipe) -> BufferConfig:
    """Where and how the recipe's experiments are run."""
    ours = recipe.ours
    return BufferConfig(
        environment=ours.env,
        preset=ours.preset,
        bucket=recipe.bucket,
        implementer=ours.implementer,
        coder=json.dumps(ours.coder, sort_keys=True) if ours.coder else "",
        reward_transform=ours.reward_transform,
        max_usd=ours.max_usd,
        max_coder_tokens=ours.max_coder_tokens,
        max_gpu_hours=ours.max_gpu_hours,
        backend=ours.backend,
        slots=ours.slots,
        isolation=ours.isolation,
        replicates=ours.replicates,
        seed=recipe.seed,
        run_dir=str(recipe.output_dir),
    )


def ideator(recipe: Recipe, environment: Environment, progress: Progress) -> tuple[str, bool]:
    """Where to load the ideator from, warmed up if the recipe says so; and whether it has a chat template."""
    from transformers import AutoTokenizer

    from ideator_rl.training.models import build_ideator
    from ideator_rl.training.sft.data import corpus_of, with_parents
    from ideator_rl.training.sft.warmup import warm_up

    ours, folder, seed = recipe.ours, recipe.output_dir, recipe.seed
    ideas = idea_corpus(environment, ours.sft_examples, seed) if ours.sft_steps or ours.scratch_model else []
    text = environment.prompt(ours.preset, ours.prompts)
    corpus = corpus_of(with_parents([(text, idea) for idea in ideas], ours, seed))  # what the warm-up will read
    source = build_ideator(ours.model_name_or_path, ours.scratch_model, corpus, folder / "scratch", seed)
    chat = bool(AutoTokenizer.from_pretrained(source).chat_template)
    target = folder / "warmup"
    if not ours.sft_steps:
        return source, chat
    if target.is_dir():
        progress.say("the warm-up is there from before")
    else:
        progress.say(f"warm-up: {ours.sft_steps} steps of SFT on {len(ideas)} ideas from the environment's catalogue")
        prompt: Any = [{"role": "user", "content": text}] if chat else text
        warm_up(source, target, prompt, ideas, ours, seed, progress.warmup)
    return str(target), chat


def _introduce(recipe: Recipe, buffer: RewardBuffer, progress: Progress) -> None:
    executor, ours = buffer.executor, recipe.ours
    sandbox = executor.sandbox.level + (f" ({executor.sandbox.reason})" if executor.sandbox.reason else "")
    rules = " (reads ideas against the environment's catalogue, asks no LLM)" if ours.implementer == "rules" else ""
    progress.say(f"environment {executor.environment.name}, preset {ours.preset}; isolation {sandbox}")
    progress.say(f"implementer {executor.implementer.name}{rules}; run folder {Path(recipe.output_dir)}")
