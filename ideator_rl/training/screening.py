"""The screen of a training run: which completions of a sampled batch are run, and which are left without a reward.

    sampled batch → known and unreadable ideas are dropped → `screen.Screen` → picks in the journal → reward functions

A batch holds `over` times as many completions as are run of it.  Picks are made over the whole batch, whatever the
group.  The others have no reward, and are masked as every row without one.  With `learn: predicted` all rows of a batch
are trained on forecasts instead, and a batch with too few new ideas trains nothing.

Guarantees: picks and forecasts are in the journal before any experiment of the batch is submitted, and a resumed run
reads them there.  Where it was killed before they were written, the journal holds how many records were known when the
batch came, so that they are made again as they were.  Before there are enough outcomes, every completion is run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ideator_rl.archive.archive import Archive, archive_of
from ideator_rl.archive.bases import COLUMN, chosen_base, read_options
from ideator_rl.diversity.alarms import Alarm
from ideator_rl.reward import text_of
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.screen.figures import MOST_STEPS, lift_of
from ideator_rl.screen.learning import forecast_rewards, fresh_share
from ideator_rl.screen.pool import ScreenAlarms, candidate_of, open_screen, outcomes_of, read_pool
from ideator_rl.screen.predictor import IdeatorModel
from ideator_rl.screen.screen import Pool
from ideator_rl.storage.forecasts import forecasts_of_step, picks_of_step, read_forecasts, replace_forecasts
from ideator_rl.storage.idea_context import Base
from ideator_rl.storage.search_journal import open_ideas
from ideator_rl.text.display import encodable
from ideator_rl.training.rollouts import Batch

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the event loop of the rewards, and returns its result."""


@dataclass(frozen=True)
class Choice:
    """What of a batch is run, and what the batch is trained on."""

    rows: list[int] | None = None
    """Rows that get rewards, in ascending order; None for all."""
    forecasts: list[float] | None = None
    """What each row of the batch is trained on; None to train on rewards."""
    is_dry: bool = False
    """Too few of its ideas are new: it trains nothing, and the weights step back towards the start."""


class RowChooser(Protocol):
    """Chooses the rows of a batch that get rewards; called at rank 0, by the thread that trains."""

    def choose(self, batch: Batch, run: Run) -> Choice:
        """Called again for a batch that is submitted again, and returns the same then."""
        ...


class BatchScreen:
    """Args:
    share: completions of a batch that are run once the screen ranks.
    budget: experiments of the run; None for no limit.
    staleness: batches that may be under way when one is sampled.
    model: the policy as the run started with it.
    say: prints a line.
    alert: takes each alarm that begins.
    """

    def __init__(
        self,
        config: ScreenConfig,
        buffer: RewardBuffer,
        *,
        share: int,
        budget: int | None = None,
        staleness: int = 0,
        embedder: str = "auto",
        model: IdeatorModel | None = None,
        say: Callable[[str], None] = lambda text: None,
        alert: Callable[[Alarm], None] = lambda alarm: None,
    ):
        self._config, self._share, self._staleness = config, share, staleness
        self._buffer, self._journal = buffer, buffer.journal
        self._screen = open_screen(config, buffer, budget, embedder, "", model)
        self._alarms, self._say, self._alert = ScreenAlarms(config, buffer), say, alert
        self._executed: dict[int, list[tuple[str, Base | None]]] = {}
        """Completions that are run, with their bases, of the batches under way: the journal may not have them yet."""

    def choose(self, batch: Batch, run: Run) -> Choice:
        """
        Raises:
            PluginError: the predictor failed.
            JournalError: the journal cannot be read or written.
        """
        texts = [encodable(text_of(completion)) for completion in batch.completions]
        decided, rows = picks_of_step(self._journal, batch.index, texts)
        if not decided:
            rows = self._new_picks(batch, texts, run)
        ideas = list(zip(texts, _bases_of(batch, texts), strict=True))
        self._executed[batch.index] = ideas if rows is None else [ideas[row] for row in rows]
        for index in [index for index in self._executed if index < batch.index - self._staleness]:
            del self._executed[index]
        return self._choice(batch.index, rows)

    def _choice(self, index: int, rows: list[int] | None) -> Choice:
        """What a batch with these picks is trained on; read from the journal, as a resumed run reads it."""
        pool = forecasts_of_step(self._journal, index) if rows is not None else []
        if self._config.learn != "predicted" or not pool:
            return Choice(rows)
        is_dry = fresh_share(pool) < self._config.fresh
        # A closed gate means that forecasts were no better than chance: then only outcomes can teach.
        if not is_dry and not all(row.is_open for row in pool):
            return Choice(rows)
        return Choice(rows, forecast_rewards(pool, self._config.acquisition, self._share), is_dry)

    def _new_picks(self, batch: Batch, texts: list[str], run: Run) -> list[int] | None:
        index = batch.index
        known = self._journal.mark(index, texts, len(archive_of(self._buffer)))
        archive = archive_of(self._buffer, known, index)
        seen = outcomes_of(archive, self._buffer, index)
        span = archive.span()
        if span is None or not self._screen.ranks(seen):
            replace_forecasts(self._journal, index, [])
            return None
        pool = run(self._pool(batch, texts, archive))
        # Batches that are under way are left out: which of their outcomes have come depends on the clock.  Of earlier
        # batches, a resumed run has outcomes that came too late for this one: those of this archive count alone.
        known_ids = {record.id for record in archive.records()}
        forecasts = read_forecasts(self._journal, index - self._staleness, True, False, MOST_STEPS)
        lift = lift_of([outcome for outcome in forecasts if outcome.experiment_id in known_ids])
        rng = random.Random(f"{self._buffer.config.seed}:screen:{index}")
        picks = self._screen.choose(pool, self._share, seen, span[1], lift, rng)
        replace_forecasts(self._journal, index, picks.rows)
        for alarm in self._alarms.new_alarms():
            self._say(f"batch {index + 1}, {alarm.level}: {alarm.text}")
            self._alert(replace(alarm, step=index))
        return picks.indices

    async def _pool(self, batch: Batch, texts: list[str], archive: Archive) -> Pool:
        oldest = batch.index - self._staleness
        under_way = [ideas for index, ideas in self._executed.items() if oldest <= index < batch.index]
        # A quorum or a deadline closes a batch before all of its experiments have ended.
        closed = open_ideas(self._journal, oldest, [record.id for record in archive.records()])
        known = {
            (await candidate_of(self._buffer.executor, text, (), base))[1]
            for ideas in (closed, *under_way)
            for text, base in ideas
        }
        parents = batch.columns().get("parents") or [()] * len(texts)
        return await read_pool(texts, parents, archive, self._buffer, known, _bases_of(batch, texts))


def _bases_of(batch: Batch, texts: list[str]) -> list[Base | None]:
    """The codebase that each completion of a batch changes.

    Raises:
        IdeatorError: the column `code_bases` is not ours.
    """
    offered = batch.columns().get(COLUMN) or [None] * len(texts)
    return [chosen_base(text, read_options(value)) for text, value in zip(texts, offered, strict=True)]
