"""The screen of a search: from an archive and the answers of an ideator to the ideas that are run.

    over × room ideas → known and unreadable ones are dropped → `screen.Screen` → picks → engine → reward buffer

With `near_duplicates: reject`, near-duplicates of earlier ideas, and of earlier samples of the pool, are dropped too:
they would take places and not be run.

Guarantees: with `flow: epochs` a round sees the archive of its epoch's beginning and the ideas that were proposed until
then, both of which a resumed search has again; so a kill changes no pick, unless ideas were lost.
"""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ideator_rl.archive.archive import Archive
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen.figures import MOST_STEPS, lift_of
from ideator_rl.screen.pool import ScreenAlarms, candidate_of, open_screen, outcomes_of, read_pool
from ideator_rl.screen.predictor import Seen
from ideator_rl.screen.screen import Picks, Pool
from ideator_rl.search.config import EPOCHS, SearchConfig
from ideator_rl.search.ideator import Answer, Ask, Ideator, parents_of
from ideator_rl.search.near_duplicates import NearDuplicates
from ideator_rl.search.stopping import Patience
from ideator_rl.storage.forecasts import next_number, read_forecasts, write_forecasts
from ideator_rl.storage.journal import Note
from ideator_rl.storage.search_journal import ideas_of_step, open_ideas

Sample = tuple[int, Ask, Answer]
"""An idea that an ideator answered: number of its question, the question, the completion."""


class SearchScreen:
    """Only the event loop of the search calls it.

    Args:
        rejects: finds the ideas that would be rejected as near-duplicates; None where none are rejected.
    """

    def __init__(
        self, config: SearchConfig, buffer: RewardBuffer, ideator: Ideator, rejects: NearDuplicates | None = None
    ):
        assert config.screen is not None
        self._config, self._buffer, self._journal, self._rejects = config, buffer, buffer.journal, rejects
        ideas = config.embedder, ideator.name, ideator.local_model()
        self._screen = open_screen(config.screen, buffer, config.max_experiments, *ideas)
        self.new_alarms = ScreenAlarms(config.screen, buffer).new_alarms
        # The event loop alone reads and writes the next two; `_pool` resets them with the epoch.
        self._name_by_idea: dict[tuple[str, str], str] = {}
        """What names the codebase of each idea that was proposed and is not in the archive, by its text and the hash of
        its base: ideas of this epoch, or still running."""
        self._epoch = -1

    def outcomes(self, archive: Archive, epoch: int) -> list[Seen] | None:
        """The outcomes that forecasts are fitted on, in the order in which they became known.

        Args:
            archive: as the questions of this epoch see it.

        Returns:
            None while they are too few: until then, ideas are not sampled in surplus.
        """
        # By epochs: descents of this epoch come in any order, and must not change what an outcome's parents are.
        seen = outcomes_of(archive, self._buffer, epoch if self._config.flow == EPOCHS else None)
        return seen if self._screen.ranks(seen) else None

    async def choose(
        self,
        samples: Sequence[Sample],
        seen: list[Seen],
        archive: Archive,
        proposed: int,
        epoch: int,
        room: int,
    ) -> Picks:
        """Pick at most `room` of the samples.

        Args:
            seen: what `outcomes` returned.
            archive: as the questions saw it.
            proposed: ideas that this epoch has proposed already; they are in the journal.
        """
        pool = await self._pool(samples, archive, epoch, proposed)
        before = epoch if self._config.flow == EPOCHS else None
        forecasts = read_forecasts(self._journal, before, only_executed=True, with_texts=False, last_steps=MOST_STEPS)
        if before is not None:
            # Outcomes that arrive during an epoch, of whichever step, must not move the gate within it.
            known = {record.id for record in archive.records()}
            forecasts = [outcome for outcome in forecasts if outcome.experiment_id in known]
        lift = lift_of(forecasts)
        span = archive.span()
        assert span is not None, "the screen ranks after successes"
        rng = random.Random(f"{self._config.seed}:screen:{samples[0][0] if samples else 0}")
        # In a thread: a predictor may run a model, and experiments that end meanwhile are to be stored.
        picks = await asyncio.to_thread(self._screen.choose, pool, room, seen, span[1], lift, rng)
        first = next_number(self._journal, epoch)
        return replace(picks, rows=[replace(row, number=first + row.number) for row in picks.rows])

    def with_forecasts(self, note: Note, step: int, picks: Picks) -> Note:
        """A note that also writes the forecasts of a round, in the transaction that proposes its picks."""

        def write(db: sqlite3.Connection, first: int) -> None:
            note(db, first)
            moved = ((row, None if row.position is None else first + row.position) for row in picks.rows)
            rows = [replace(row, position=position) for row, position in moved]
            write_forecasts(db, step, rows)

        return write

    def judged(
        self, questions: Mapping[int, Ask], rows: Sequence[Sample], sampled: int, patience: Patience
    ) -> list[int]:
        """The questions of a round that patience judges: those whose ideas are run.

        A question whose ideas were merely outranked has not failed.  Where nothing of the round is run, its ideas were
        known or unusable, and as many questions have failed as the round would have asked without a screen.
        """
        assert self._config.screen is not None
        if rows:
            return list(dict.fromkeys(number for number, _, _ in rows))
        patience.screened(sampled)
        return list(questions)[: math.ceil(len(questions) / self._config.screen.over)]

    async def _pool(self, samples: Sequence[Sample], archive: Archive, epoch: int, proposed: int) -> Pool:
        # A resumed epoch has proposed ideas that this process has not seen yet.
        ideas = ideas_of_step(self._journal, epoch)[:proposed]
        if epoch != self._epoch:
            self._epoch, self._name_by_idea = epoch, {}
            # Ideas of earlier epochs that still run are the best of their pools: without this they would be run again.
            ideas = [*open_ideas(self._journal, epoch, [record.id for record in archive.records()]), *ideas]
        for text, base in ideas:
            key = text, base.tree if base else ""
            if key not in self._name_by_idea:
                self._name_by_idea[key] = (await candidate_of(self._buffer.executor, text, (), base))[1]
        parents = [[parent.id for parent in parents_of(ask, text)] for _, ask, text in samples]
        bases = [text.context.base if text.context else None for _, _, text in samples]
        known = set(self._name_by_idea.values())
        pool = await read_pool([text for _, _, text in samples], parents, archive, self._buffer, known, bases)
        if self._rejects is None:
            return pool
        fresh = pool.fresh
        rejected = {fresh[at] for at in self._rejects.duplicates_among([pool.completions[index] for index in fresh])}
        candidates = [None if index in rejected else candidate for index, candidate in enumerate(pool.candidates)]
        return replace(pool, candidates=candidates)
