"""A search from its folder to its closing words: baseline, search, summary, report.

Its folder looks like a training run's, so that whatever reads the one reads the other.  Killed at any moment, the same
run resumed goes on; one that has ended is extended by resuming it with larger budgets.
"""

from __future__ import annotations

import asyncio
import json

import yaml

from ideator_rl.archive.baseline import baseline_words
from ideator_rl.config import RecipeError
from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.executor import store as attempts
from ideator_rl.executor.retry import Patience
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.progress import Voice
from ideator_rl.report import write_report
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.search.asked import charged
from ideator_rl.search.asking import Ideator, Subject
from ideator_rl.search.config import SearchConfig, refuse_endless, refuse_other
from ideator_rl.search.engine import Ending, run_search
from ideator_rl.search.figures import notes
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.seeds import known_elsewhere, words_of
from ideator_rl.search.strategies import SearchStrategy, get_search_strategy
from ideator_rl.search.watching import Population
from ideator_rl.storage.run_folder import MARK, keep_recipe, take


class SearchVoice(Voice):
    """Says how far a search is."""

    def __init__(self, config: SearchConfig):
        super().__init__()
        self._of = f"/{config.max_experiments}" if config.max_experiments else ""
        self.buffer: RewardBuffer | None = None

    def follow(self, buffer: RewardBuffer) -> None:
        """Begin to say how far the search on this buffer is; what earlier sittings ran is counted, and their best."""
        self.buffer = buffer
        self.watch()

    def line(self) -> str:
        if self.buffer is None:
            return ""
        counts = self.buffer.counts()
        words = (
            f"{counts['running']} running, {counts['waiting']} waiting · {len(charged(self.buffer))}{self._of} "
            f"experiments · {counts['done']} ideas done ({counts['failed']} failed, {counts['reused']} reused)"
        )
        metric = self.buffer.executor.environment.metric
        found = [record.metric for record in tuple(self.buffer.history) if record.status == SUCCEEDED]
        values = [float(each["value"]) for each in found if each]
        if not values:
            return words
        best = min(values) if metric.direction == "min" else max(values)
        return f"{words} · best {metric.name} {best:.4f}"


def search(config: SearchConfig, resume: bool) -> Ending:
    """Run a recipe to its end.

    Raises:
        IdeatorError: the folder is taken; environment, bucket, sandbox, strategy or ideator are not usable; the
            baseline fails.
    """
    strategy = get_search_strategy(config.strategy, config.strategy_options)
    voice = SearchVoice(config)
    with take(config.folder, resume):
        if resume:
            refuse_other(config)
        buffer = _opened(config.buffer(), resume)
        try:
            refuse_endless(config, buffer.executor.environment)
            _refuse_other_environment(config, buffer)
            _refuse_other_bucket(config, buffer)
            get_embedder(config.embedder)  # one that cannot be had is told before anything is begun
            ideator = _ideator(config, buffer)
            buffer.elsewhere = known_elsewhere(buffer, config.archive_from, config.folder)
            keep_recipe(config.folder, config.text())
            try:
                return _search(config, buffer, ideator, strategy, voice)
            finally:
                ideator.close()
        finally:
            voice.end()
            buffer.close()


def _search(
    config: SearchConfig, buffer: RewardBuffer, ideator: Ideator, strategy: SearchStrategy, voice: SearchVoice
) -> Ending:
    _introduce(config, buffer, ideator, voice)
    voice.follow(buffer)

    async def work() -> Ending:
        with voice.phase("baseline"):
            voice.say(await _baseline(buffer, config.baseline_replicates))
        with voice.phase("search"):
            look = Population(buffer, get_embedder(config.embedder), config.folder, voice.say)
            return await run_search(config, buffer, ideator, strategy, voice.say, look)

    ending = asyncio.run(work())
    voice.end()
    voice.say(f"ended by {ending.budget}: {ending.words}")
    (config.folder / "timings.json").write_text(json.dumps(voice.timings(), indent=1))
    with voice.phase("report"):
        write_report([config.folder], config.folder / "report.html", notes=notes)
    return ending


def _opened(config: BufferConfig, resume: bool) -> RewardBuffer:
    """A run that had found its bucket waits for it to come back; a new one may have misspelled it."""
    patience = Patience(config.bucket, config.outage_patience if resume else 0)
    return asyncio.run(patience.through(lambda: open_buffer(config)))


def _refuse_other_environment(config: SearchConfig, buffer: RewardBuffer) -> None:
    """
    Raises:
        RecipeError: what this search has measured was measured with the environment as it no longer is.
    """
    environment = buffer.executor.environment
    digest = environment.digest(config.preset)
    known = [record.hashes.get("environment", digest) for record in (*buffer.history, *buffer.baselines)]
    if others := sum(each != digest for each in known):
        raise RecipeError(
            f"The environment {environment.name} has changed since the search in {config.output_dir} began: {others} "
            f"of its {len(known)} results are of another baseline, evaluator, data or budget, and cannot be compared "
            "with what would be measured now. Put the environment back as it was, or begin a new run."
        )


def _refuse_other_bucket(config: SearchConfig, buffer: RewardBuffer) -> None:
    """
    Raises:
        RecipeError: the bucket is another than before, without the results of this search: it would run them again.
    """
    saved = config.folder / MARK
    before = (yaml.safe_load(saved.read_text(encoding="utf-8")) or {}).get("bucket") if saved.is_file() else None
    if not saved.is_file() or (before or "") == config.bucket:
        return
    ran = charged(buffer)
    missing = [id for id in ran if attempts.load_result(buffer.executor.bucket, id) is None]
    if missing:
        raise RecipeError(
            f"The search in {config.output_dir} was begun with the bucket {before or 'in its folder'}, and "
            f"{buffer.executor.bucket.url} lacks the results of {len(missing)} of its {len(ran)} experiments. "
            "Leave it as it was, or copy them there."
        )


def _ideator(config: SearchConfig, buffer: RewardBuffer) -> Ideator:
    subject = Subject(buffer.executor.environment, config.preset, config.prompts)
    return get_ideator(config.ideator, config.ideator_options, subject, buffer.executor.ledger)


async def _baseline(buffer: RewardBuffer, replicates: int) -> str:
    """Run the unchanged baseline, as often as is asked for; one line about it.

    Raises:
        IdeatorError: no run of it succeeded.
    """
    records = await asyncio.gather(*(buffer.baseline(replicate) for replicate in range(replicates)))
    return baseline_words(records, buffer.executor.environment.metric.name)


def _introduce(config: SearchConfig, buffer: RewardBuffer, ideator: Ideator, voice: Voice) -> None:
    executor = buffer.executor
    sandbox = executor.sandbox.level + (f" ({executor.sandbox.reason})" if executor.sandbox.reason else "")
    voice.say(f"environment {executor.environment.name}, preset {config.preset}; isolation {sandbox}")
    voice.say(f"strategy {config.strategy}, ideator {ideator.name}, implementer {executor.implementer.name}")
    voice.say(f"run folder {config.folder}")
    if buffer.elsewhere:
        voice.say(words_of(buffer.elsewhere, config.seed))
