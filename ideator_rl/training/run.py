"""A training run: baseline, warm-up, GRPO on executed ideas, and the saved model.

A run that is killed at any moment and resumed reaches the same end.  A finished warm-up is kept, training continues at
the newest whole checkpoint, batches sampled after it are trained as they were sampled, and results are read from the
bucket.  Only rank 0 runs experiments; the other ranks only compute.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ideator_rl.environments.catalogue.catalogue import idea_corpus
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.executor.losses import RunStopped
from ideator_rl.executor.retry import Retry
from ideator_rl.llm.model_files import load_tokenizer
from ideator_rl.llm.probe import probe_all
from ideator_rl.llm.prompt_form import PromptForm, as_messages
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.storage.run_folder import MARK, Start, lost_journal, take
from ideator_rl.training import checkpoints
from ideator_rl.training.baseline import BaselineRuns
from ideator_rl.training.checkpoints import SCRATCH, WARMUP
from ideator_rl.training.preflight import check_ideator, has_warmup
from ideator_rl.training.progress import Progress
from ideator_rl.training.recipe.recipe import Recipe, refuse_other
from ideator_rl.training.session import OtherRankFailed, Session, buffer_config, is_rank_zero
from ideator_rl.training.tracking import set_tracker_defaults, where_to_look

if TYPE_CHECKING:
    from ideator_rl.training.build import RecipeTrainer

WRITTEN_BY_START = (SCRATCH, f".{SCRATCH}.lock", WARMUP, checkpoints.BASELINE_DONE)
"""What is in a run's folder before the first batch; the bucket stays in any case, since its results are paid for."""


def train(
    recipe: Recipe,
    resume: bool,
    progress: Progress,
    model_card: Callable[[Recipe], str],
    at_end: Callable[[Path], None] | None = None,
) -> None:
    """Train a recipe's ideator to the last step and save it; to be called in every process of the launch.

    Args:
        resume: continue the run in the recipe's folder.
        model_card: returns the text of the model's card, as Markdown.
        at_end: called at rank 0 with the run's folder, which this process still holds: writes the report.

    Raises:
        RunStopped: losses in a row, or permanent faults of the coder's LLM, ended the run; what ran is kept.
        IdeatorError: the folder is taken, another number of processes wrote its checkpoints, the environment, bucket or
            sandbox is not usable, the coder's LLM would not answer, or the baseline fails.
    """
    if not is_rank_zero():
        _run_other_rank(Session(recipe, progress, model_card, resume))
        return
    # The lock holds until the end: two processes would train into one folder.
    with take(recipe.output_dir, resume), Start(recipe.output_dir, WRITTEN_BY_START) as start:
        # The mark of an earlier session would let the other ranks, which look for it after their imports, go ahead of a
        # baseline that runs again.
        checkpoints.clear_baseline_mark(recipe.output_dir)
        if resume:
            refuse_other(recipe)
            if note := lost_journal(recipe.output_dir):
                progress.say(note)
            start.begun()
        complete = resume and _is_complete(recipe)
        if resume and not complete:
            # For its error, before anything is paid for.
            checkpoints.last_checkpoint(recipe.output_dir, recipe.world)
        # What the end of the run needs is tried before the first experiment is paid for.
        needs_model = not complete and not has_warmup(recipe, resume)
        notes = check_ideator(recipe, load_environment(recipe.ours.env).at(recipe.ours.preset)) if needs_model else []
        buffer = _open_buffer(buffer_config(recipe), resume)
        progress.buffer = buffer
        try:
            if complete:
                progress.say(f"the run in {recipe.output_dir} is complete; nothing is left to do")
                asyncio.run(_finish_experiments(buffer, progress))
            else:
                for note in notes:
                    progress.say(note)
                _run_rank_zero(Session(recipe, progress, model_card, resume, buffer), buffer, start)
            if at_end is not None:
                at_end(recipe.output_dir)
            # Of experiments that no batch waited for any more: the model is saved, but its last results are missing.
            buffer.executor.losses.refuse()
        finally:
            progress.end()
            buffer.close()


def _run_rank_zero(session: Session, buffer: RewardBuffer, start: Start) -> None:
    recipe, progress = session.recipe, session.progress
    # Before the recipe is saved: a refused start leaves the folder free for a corrected one.
    if recipe.ours.probe:
        asyncio.run(probe_all(buffer.executor.probe))
    recipe.save(recipe.output_dir / MARK)
    _introduce(recipe, buffer, progress)
    # Experiments of the baseline and imports of libraries take about as long: they run at the same time.
    baseline = BaselineRuns(buffer, recipe.ours.baseline_replicates)
    trainer = _make_trainer(session, baseline, start)
    try:
        _train_and_save(trainer, session)
    except RunStopped:
        with progress.phase("draining"):
            _say_outstanding(buffer, progress, "the run stops")
            trainer.drain()
        trainer.end_together()
        raise
    # Rewards that came too late to be trained are still results: buffer, archive and report get them.
    with progress.phase("draining"):
        _say_outstanding(buffer, progress, "the model is saved")
        trainer.drain()
    (recipe.output_dir / "timings.json").write_text(json.dumps(progress.timings(), indent=1))


def _run_other_rank(session: Session) -> None:
    # Rank 0 decides the same from the same folder, so no rank waits for another.
    if session.resume and _is_complete(session.recipe):
        return
    try:
        trainer = _make_trainer(session)
        try:
            _train_and_save(trainer, session)
        except OtherRankFailed:
            # Rank 0 prints the reason, perhaps after a wait for experiments.
            trainer.end_together()
            raise
    finally:
        session.progress.end()


def _make_trainer(session: Session, baseline: BaselineRuns | None = None, start: Start | None = None) -> RecipeTrainer:
    """The trainer with its model and prompts; `baseline`, whose runs it waits for, and `start` are rank 0's."""
    recipe, progress, buffer = session.recipe, session.progress, session.buffer
    with progress.phase("imports"):
        if buffer is not None:
            progress.say("loading libraries while the baseline runs")
        set_tracker_defaults(recipe)  # before trl is imported
        # Imported late, since these load torch and trl: the baseline is under way by then.
        from ideator_rl.training.build import build_trainer, check_trl
        from ideator_rl.training.imitation import elite_examples
        from ideator_rl.training.libraries import prepare_libraries
        from ideator_rl.training.prompts import archive_prompts
        from ideator_rl.training.ranks import keep_to_this_machine

        prepare_libraries(recipe.ours.cpu_threads)
        keep_to_this_machine()
        check_trl(recipe)
    # The ideator's own computations would slow the baseline down, so every rank waits for its end.
    if baseline is not None:
        with progress.phase("baseline"):
            progress.say(baseline.wait())
            checkpoints.mark_baseline_done(recipe.output_dir)
    else:
        checkpoints.wait_for_baseline(recipe.output_dir)
    environment = buffer.executor.environment if buffer else load_environment(recipe.ours.env).at(recipe.ours.preset)
    with progress.phase("warmup"):
        source, chat = prepare_ideator(recipe, environment, progress)
    # A warm-up has its price: from here on there is something that --resume continues.
    if start is not None:
        start.begun()
    with progress.phase("loading"):
        text = recipe.prompt(environment)
        prompt = as_messages(text) if chat else text
        rows = [{"prompt": prompt}] * recipe.groups_per_epoch
        prompts = archive_prompts(recipe, buffer, chat) if buffer else None
        imitate = elite_examples(recipe, buffer, chat) if buffer else None
        trainer = build_trainer(session, source, rows, prompts, imitate)
    if buffer is not None and (where := where_to_look(trainer.args.report_to, trainer.args.project)):
        progress.say(where)
    return trainer


def _train_and_save(trainer: RecipeTrainer, session: Session) -> None:
    from ideator_rl.training.build import save_model

    recipe, progress = session.recipe, session.progress
    # Without a whole checkpoint a resumed run starts from the warm-up, and reads its batches from `rollouts/`.
    checkpoint = checkpoints.last_checkpoint(recipe.output_dir, recipe.world) if session.resume else None
    if checkpoint is not None:
        progress.say(f"resuming from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    progress.end()
    with progress.phase("saving"):
        save_model(trainer)


def prepare_ideator(recipe: Recipe, environment: Environment, progress: Progress) -> tuple[str, bool]:
    """Make the model that training starts from, with the recipe's warm-up.

    Returns:
        the folder or hub name to load it from, and whether its tokenizer has a chat template.
    """
    from ideator_rl.training.models import build_ideator
    from ideator_rl.training.sft.data import tokenizer_corpus, with_recombinations
    from ideator_rl.training.sft.warmup import warm_up

    ours, folder, seed = recipe.ours, recipe.output_dir, recipe.seed
    ideas = idea_corpus(environment, ours.sft_examples, seed) if ours.sft_steps or ours.scratch_model else []
    text = recipe.prompt(environment)
    # A tokenizer from scratch learns from the very texts of the warm-up.
    corpus = tokenizer_corpus(with_recombinations([(text, idea) for idea in ideas], ours, seed))
    source = build_ideator(ours.model_name_or_path, ours.scratch_model, corpus, folder / SCRATCH, seed)
    # The folder of a model from scratch has no revision, and a warm-up allows none.
    form = PromptForm(load_tokenizer(source, recipe.model.get("model_revision"))[0], recipe.template_arguments)
    target = folder / WARMUP
    if not ours.sft_steps:
        return source, form.is_chat
    # The folder appears when the warm-up is complete, so one that is there is whole.
    if target.is_dir():
        progress.say("the warm-up is there from before")
    else:
        progress.say(f"warm-up: {ours.sft_steps} steps of SFT on {len(ideas)} ideas from the environment's catalogue")
        prompt, arguments = form.prompt(text), form.template_arguments
        warm_up(source, target, prompt, ideas, ours, seed, progress.warmup, arguments)
    return str(target), form.is_chat


def _open_buffer(config: BufferConfig, resume: bool) -> RewardBuffer:
    """The run's buffer.  Only a resumed run waits for a bucket that is away: a new one may have a misspelled URL."""
    retry = Retry(config.bucket, config.outage_patience if resume else 0)
    return asyncio.run(retry.call(lambda: open_buffer(config)))


def _is_complete(recipe: Recipe) -> bool:
    return checkpoints.is_complete(recipe.output_dir, recipe.grpo.get("max_steps", -1))


async def _finish_experiments(buffer: RewardBuffer, progress: Progress) -> None:
    """Store the outcomes that a process was waiting for when it was killed after its last step."""
    buffer.reattach()
    await asyncio.sleep(0)
    _say_outstanding(buffer, progress, "the model is saved")
    await buffer.drain()


def _say_outstanding(buffer: RewardBuffer, progress: Progress, state: str) -> None:
    if count := buffer.outstanding:
        progress.say(f"{state}; waiting for {count} experiments still under way (--resume enters them too)")


def _introduce(recipe: Recipe, buffer: RewardBuffer, progress: Progress) -> None:
    progress.hide()  # what was shown while the checks went on
    executor, ours = buffer.executor, recipe.ours
    sandbox = executor.sandbox.isolation + (f" ({executor.sandbox.reason})" if executor.sandbox.reason else "")
    rules = " (reads the environment's catalogue, asks no LLM)" if ours.implementer == "rules" else ""
    progress.say(f"run folder {recipe.output_dir}")
    progress.say(f"environment {executor.environment.name}, preset {ours.preset}; isolation {sandbox}")
    progress.say(f"implementer {executor.implementer.name}{rules}")
