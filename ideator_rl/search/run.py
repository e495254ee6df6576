"""Runs a search from its recipe to its end: baseline, search, timings.

The run folder has the layout of a training run's, so that the same commands read both.  A search that was killed goes
on with `resume`; one that has ended goes on when it is resumed with larger budgets.  The report is written by the
command, or with `ideator_rl.report.write_report`.

    from ideator_rl.search.run import run_search
    from ideator_rl.storage.run_reader import read_run

    reason = run_search("search.yaml", overrides=["--max_experiments", "12", "--output_dir", "runs/first"])
    print(f"ended by {reason.budget}: {reason.text}")
    for record in read_run("runs/first").ranked[:3]:
        print(record.metric["value"], record.idea)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from ideator_rl._imports import renamed
from ideator_rl.archive.baseline import baseline_line
from ideator_rl.config.recipe_file import RecipeError
from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.environments.environment import Environment
from ideator_rl.executor import record_store
from ideator_rl.executor.fleet_estimate import refuse_misfits
from ideator_rl.executor.retry import Retry
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.llm.probe import probe_all
from ideator_rl.progress import ProgressReporter
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.screen.predictor import PredictorContext, load_predictor
from ideator_rl.search.config import SearchConfig, load_search, refuse_endless, refuse_other, saved_recipe
from ideator_rl.search.engine import StopReason, search_loop
from ideator_rl.search.ideator import Ideator, Subject, plugin_errors, with_defaults
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.imported_ideas import import_note, imported_records
from ideator_rl.search.population_watch import PopulationWatch
from ideator_rl.search.schedule import with_schedule
from ideator_rl.search.search_summary import charged_codebases
from ideator_rl.search.strategies import SearchStrategy, get_search_strategy
from ideator_rl.storage.ledger import Ledger
from ideator_rl.storage.run_folder import Start, keep_recipe, lost_journal, take
from ideator_rl.text.display import number


class SearchProgress(ProgressReporter):
    """Reports how far a search is."""

    def __init__(self, config: SearchConfig):
        super().__init__()
        self._max_experiments = config.max_experiments
        self._share: float | None = None
        self.buffer: RewardBuffer | None = None
        """Set by the main thread before the reporting thread starts; read by both, never reset."""

    def follow(self, buffer: RewardBuffer) -> None:
        """Start to report on the search of this buffer; experiments of earlier sessions are counted."""
        self.buffer = buffer
        self.watch()

    def parts(self) -> list[str]:
        if self.buffer is None:
            return []
        counts = self.buffer.counts()
        charged = len(charged_codebases(self.buffer))
        debugged = f", {counts['debugged']} crashed and mended" if counts["debugged"] else ""
        self._share = charged / self._max_experiments if self._max_experiments else None
        parts = [
            f"{charged}{f'/{self._max_experiments}' if self._max_experiments else ''} experiments",
            f"{counts['running']} running, {counts['waiting']} waiting",
            f"{counts['done']} ideas done ({counts['failed']} failed, {counts['reused']} reused{debugged})",
        ]
        metric = self.buffer.executor.environment.metric
        # A copy: the buffer's loop appends to the history while this thread reads it.
        history = tuple(self.buffer.history)
        values = [float(record.metric["value"]) for record in history if record.status == SUCCEEDED and record.metric]
        if values:
            best = min(values) if metric.direction == "min" else max(values)
            parts.append(f"best {metric.name} {number(best)}")
        return parts

    def share(self) -> float | None:
        return self._share


def run_search(
    recipe: str | Path | SearchConfig,
    resume: bool = False,
    overrides: Sequence[str] = (),
    at_end: Callable[[Path], None] | None = None,
) -> StopReason:
    """Run a search until a budget ends it; its records are in `output_dir` (`read_run`).

    Blocks, and runs an event loop of its own: call it in a thread where a loop is already running.

    Args:
        recipe: path of a YAML file, or the configuration itself.
        resume: go on with the search in `output_dir`, which may have been killed or have ended.
        overrides: of a recipe file, as on the command line: `["--max_experiments", "12"]`.
        at_end: called with the run's folder, which this process still holds: writes the report.

    Returns:
        The budget that ended the search, and a sentence for a person.

    Raises:
        RecipeError: the recipe has an unknown key, a wrong value or no budget, or does not fit the resumed search.
        RunStopped: losses in a row, or permanent faults of an LLM, ended the search; its results are kept.
        IdeatorError: the folder is in use; the environment, bucket, sandbox, strategy or ideator cannot be used; the
            baseline fails.
    """
    config = recipe if isinstance(recipe, SearchConfig) else load_search(str(recipe), list(overrides))
    # A resumed search keeps the numbers of its schedule, which its saved recipe has.
    config = with_schedule(config, saved_recipe(config.folder) if resume else None)
    strategy = get_search_strategy(config.strategy, config.strategy_options)  # a wrong option leaves nothing behind
    progress = SearchProgress(config)
    with take(config.folder, resume), Start(config.folder) as start:
        if resume:
            refuse_other(config)
            start.begun()
            if note := lost_journal(config.folder):
                progress.say(note)
        buffer = _open_buffer(config.buffer(), resume)
        try:
            # All that the recipe names is tried before the recipe is saved: a corrected recipe starts anew.
            refuse_endless(config, buffer.executor.environment)
            refuse_misfits(buffer.executor.environment.preset(config.preset), config.fleet, config.max_gpu_hours, None)
            _refuse_other_inputs(config, buffer)
            get_embedder(config.embedder)
            with closing(open_ideator(config, buffer.executor.environment, buffer.executor.ledger)) as ideator:
                _check_ideator(ideator, progress)
                buffer.imported = imported_records(buffer, config.archive_from, config.folder)
                if config.probe:
                    asyncio.run(probe_all(ideator.probe, buffer.executor.probe))
                keep_recipe(config.folder, config.text())
                # From the baseline's success on, the folder holds a run that `resume` continues.
                reason = _run(config, buffer, ideator, strategy, progress, start)
            if at_end is not None:
                at_end(config.folder)
            return reason
        finally:
            # The progress thread reads the buffer: it ends first.
            progress.end()
            buffer.close()


def _run(
    config: SearchConfig,
    buffer: RewardBuffer,
    ideator: Ideator,
    strategy: SearchStrategy,
    progress: SearchProgress,
    start: Start,
) -> StopReason:
    _describe(config, buffer, ideator, progress)
    progress.follow(buffer)

    # One event loop for baseline and search: the buffer's tasks live in it.
    async def work() -> StopReason:
        with progress.phase("baseline"):
            progress.say(await _run_baseline(buffer, config.baseline_replicates))
        start.begun()
        with progress.phase("search"):
            watch = PopulationWatch(buffer, get_embedder(config.embedder), config.folder, progress.say)
            return await search_loop(config, buffer, ideator, strategy, progress.say, watch)

    reason = asyncio.run(work())
    progress.end()
    progress.say(f"ended by {reason.budget}: {reason.text}")
    (config.folder / "timings.json").write_text(json.dumps(progress.timings(), indent=1))
    return reason


def _open_buffer(config: BufferConfig, resume: bool) -> RewardBuffer:
    """The buffer; a resumed run waits for a bucket that is down, which a new run may have misspelled."""
    retry = Retry(config.bucket, config.outage_patience if resume else 0)
    return asyncio.run(retry.call(lambda: open_buffer(config)))


def _refuse_other_inputs(config: SearchConfig, buffer: RewardBuffer) -> None:
    """Refuse an environment or a bucket that does not fit the results of the resumed search."""
    refuse_changed_environment(config, buffer)
    _refuse_other_bucket(config, buffer)


def refuse_changed_environment(config: SearchConfig, buffer: RewardBuffer) -> None:
    """
    Raises:
        RecipeError: this search has results of the environment as it was before a change.
    """
    environment = buffer.executor.environment
    # Helper modules did not count when earlier versions began a search.
    digests_now = [environment.digest(config.preset, modules) for modules in (True, False)]
    # Records without a digest are failures that ran nothing.
    digests = [record.hashes.get("environment", digests_now[0]) for record in (*buffer.history, *buffer.baselines)]
    if outdated := sum(old not in digests_now for old in digests):
        raise RecipeError(
            f"The environment {environment.name} has changed since the search in {config.output_dir} began: {outdated} "
            f"of its {len(digests)} results are of another baseline, evaluator, data or budget, and cannot be compared "
            "with new ones. Undo the change of the environment, or start a new run."
        )


def _refuse_other_bucket(config: SearchConfig, buffer: RewardBuffer) -> None:
    """
    Raises:
        RecipeError: the bucket is not the one of before and lacks results of this search, which it would run again.
    """
    saved = saved_recipe(config.folder)
    bucket_before = (saved or {}).get("bucket") or ""
    if saved is None or bucket_before == config.bucket:
        return
    # A copy of the old bucket will do: what counts is that no experiment would be paid for twice.
    experiment_ids = charged_codebases(buffer)
    present = dict(record_store.load_records(buffer.executor.bucket, experiment_ids))
    missing = [id for id in experiment_ids if id not in present]
    if missing:
        raise RecipeError(
            f"The search in {config.output_dir} was started with the bucket {bucket_before or 'in its folder'}, and "
            f"{buffer.executor.bucket.url} lacks the results of {len(missing)} of its {len(experiment_ids)} "
            "experiments. Name the old bucket, or copy its results to the new one."
        )


def open_ideator(config: SearchConfig, environment: Environment, ledger: Ledger | None = None) -> Ideator:
    """The ideator of a recipe.  The caller closes it.

    Args:
        ledger: counts what the ideator spends; None where it is asked for nothing.

    Raises:
        IdeatorError: the ideator does not take its options, or the screen's predictor cannot be used with it.
    """
    subject = Subject(environment, config.preset, config.prompts, config.inherit)
    ideator = with_defaults(get_ideator(config.ideator, config.ideator_options, subject, ledger))
    if config.screen:
        try:
            model = ideator.local_model()
            context = PredictorContext(environment, config.preset, config.seed, config.embedder, ideator.name, model)
            load_predictor(config.screen.predictor, context)
        except BaseException:
            ideator.close()
            raise
    return ideator


def _check_ideator(ideator: Ideator, progress: SearchProgress) -> None:
    """Let the ideator try what its answers need, before the baseline runs."""
    with plugin_errors(f"The ideator {ideator.name}"):
        notes = list(ideator.check())
    for note in notes:
        progress.say(note)


async def _run_baseline(buffer: RewardBuffer, replicates: int) -> str:
    """Run the unchanged baseline `replicates` times; returns one line about it.

    Raises:
        IdeatorError: no run of it succeeded.
    """
    records = await asyncio.gather(*(buffer.baseline(replicate) for replicate in range(replicates)))
    return baseline_line(records, buffer.executor.environment.metric.label)


def _describe(config: SearchConfig, buffer: RewardBuffer, ideator: Ideator, progress: ProgressReporter) -> None:
    executor = buffer.executor
    sandbox = executor.sandbox.isolation + (f" ({executor.sandbox.reason})" if executor.sandbox.reason else "")
    progress.say(f"run folder {config.folder}")
    progress.say(f"environment {executor.environment.name}, preset {config.preset}; isolation {sandbox}")
    progress.say(f"strategy {config.strategy}, ideator {ideator.name}, implementer {executor.implementer.name}")
    # Records of other runs are outcomes as well.
    if (
        config.screen
        and not buffer.imported
        and (note := config.screen.never_ranks(config.max_experiments, config.max_ideas))
    ):
        progress.say(note)
    if buffer.imported:
        progress.say(import_note(buffer.imported, config.seed))


__getattr__ = renamed(__name__)
