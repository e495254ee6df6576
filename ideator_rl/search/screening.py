"""The screen of a search: from an archive and the answers of an ideator to the ideas that are run.

    over × room ideas → known and unreadable ones are dropped → `screen.Screen` → picks → engine → reward buffer

Guarantees: with `flow: epochs` a round sees the archive of its epoch's beginning and the ideas of the epoch so far,
both of which a resumed search has again; so a kill changes no pick.  Where the implementer asks a model, candidates
have no patch, and features and the test for known ideas are those of the text alone.
"""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ideator_rl.archive.archive import Archive
from ideator_rl.diversity.alarms import Alarm
from ideator_rl.executor.codebases import NoCodebase
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen.alarms import active_screen_alarms
from ideator_rl.screen.figures import lift_of, screen_steps
from ideator_rl.screen.predictor import Candidate, PredictorContext, Seen, load_predictor, usable
from ideator_rl.screen.screen import Picks, Pool, Screen
from ideator_rl.search.config import EPOCHS, SearchConfig
from ideator_rl.search.ideator import Ask, parents_of
from ideator_rl.search.stopping import Patience
from ideator_rl.storage.forecasts import (
    create_table,
    next_number,
    read_forecasts,
    screened_out,
    write_forecasts,
)
from ideator_rl.storage.journal import Note
from ideator_rl.text.display import encodable

Sample = tuple[int, Ask, str]
"""An idea that an ideator answered: number of its question, the question, the completion."""


class SearchScreen:
    """Only the event loop of the search calls it."""

    def __init__(self, config: SearchConfig, buffer: RewardBuffer):
        assert config.screen is not None
        self._config, self._buffer, self._journal = config, buffer, buffer.journal
        executor = buffer.executor
        context = PredictorContext(executor.environment, config.preset, config.seed, config.embedder)
        predictor = load_predictor(config.screen.predictor, context)
        after = config.screen.outcomes_before(config.max_experiments)
        self._screen = Screen(config.screen, predictor, after, executor.environment.failure_reward)
        create_table(self._journal)
        self.screened_out = screened_out(self._journal)
        """Ideas that were sampled and not run, over all sessions."""
        self._trees_of_epoch: dict[str, str] = {}
        """Tree of each idea proposed in this epoch, by its text; reset with the epoch."""
        self._epoch = -1
        self._alarms: set[str] = set()
        """Kinds that hold since an earlier epoch."""

    def outcomes(self, archive: Archive) -> list[Seen] | None:
        """The outcomes that forecasts are fitted on, in the order in which they became known.

        Returns:
            None while they are too few: until then, ideas are not sampled in surplus.
        """
        previews = self._buffer.executor.previews
        # An idea that was proposed twice has the parents of its first time, whichever outcome came first.
        parents: dict[str, tuple[int, tuple[str, ...]]] = {}
        for child, ids, step in self._buffer.lineage:
            parents[child] = min(parents.get(child, (step, ids)), (step, ids))
        # Candidates without a codebase are dropped: their like among the outcomes must not count either.
        seen = [
            Seen.of(record, parents[record.id][1] if record.id in parents else (), previews)
            for record in usable(archive.records())
            if record.tree or not previews
        ]
        return seen if self._screen.ranks(seen) else None

    async def choose(
        self,
        samples: Sequence[Sample],
        seen: list[Seen],
        archive: Archive,
        texts: Sequence[str],
        epoch: int,
        room: int,
    ) -> Picks:
        """Pick at most `room` of the samples.

        Args:
            seen: what `outcomes` returned.
            archive: as the questions saw it.
            texts: completions that this epoch has proposed already.
        """
        pool = await self._pool(samples, archive, epoch, texts)
        # By epochs: outcomes of this epoch arrive in any order, and must not move the gate within it.
        before = epoch if self._config.flow == EPOCHS else None
        lift = lift_of(read_forecasts(self._journal, before, only_executed=True))
        span = archive.span()
        assert span is not None, "the screen ranks after successes"
        rng = random.Random(f"{self._config.seed}:screen:{samples[0][0] if samples else 0}")
        picks = self._screen.choose(pool, room, seen, span[1], lift, rng)
        first = next_number(self._journal, epoch)
        self.screened_out += len(samples) - len(picks.indices)
        return replace(picks, rows=[replace(row, number=first + row.number) for row in picks.rows])

    def with_forecasts(self, note: Note, step: int, picks: Picks) -> Note:
        """A note that also writes the forecasts of a round, in the transaction that proposes its picks."""

        def write(db: sqlite3.Connection, first: int) -> None:
            note(db, first)
            moved = ((row, None if row.position is None else first + row.position) for row in picks.rows)
            rows = [replace(row, position=position) for row, position in moved]
            write_forecasts(db, step, rows)

        return write

    def judged(self, questions: Mapping[int, Ask], rows: Sequence[Sample], patience: Patience) -> list[int]:
        """The questions of a round that patience judges: those whose ideas are run.

        A question whose ideas were merely outranked has not failed.  Where nothing of the round is run, its ideas were
        known or unusable, and as many questions have failed as the round would have asked without a screen.
        """
        assert self._config.screen is not None
        if rows:
            return list(dict.fromkeys(number for number, _, _ in rows))
        patience.screened(len(questions))
        return list(questions)[: math.ceil(len(questions) / self._config.screen.over)]

    def new_alarms(self) -> list[Alarm]:
        """The alarms that began with the last epoch."""
        assert self._config.screen is not None
        active = active_screen_alarms(screen_steps(read_forecasts(self._journal)), self._config.screen)
        beginnings = [alarm for alarm in active if alarm.kind not in self._alarms]
        self._alarms = {alarm.kind for alarm in active}
        return beginnings

    async def _pool(self, samples: Sequence[Sample], archive: Archive, epoch: int, texts: Sequence[str]) -> Pool:
        if epoch != self._epoch:
            self._epoch, self._trees_of_epoch = epoch, {}
        # A resumed epoch has proposed ideas that this process has not seen yet.
        for text in texts:
            if text not in self._trees_of_epoch:
                self._trees_of_epoch[text] = (await self._candidate(text, ()))[1]
        known = set(self._trees_of_epoch.values())
        if not self._buffer.executor.previews:
            known |= {record.idea for record in archive.records()}
        candidates: list[Candidate | None] = []
        for _, ask, text in samples:
            parents = [parent.id for parent in parents_of(ask, text)]
            candidate, tree = await self._candidate(encodable(text), parents)
            is_new = candidate is not None and tree not in known and not archive.knows(tree)
            candidates.append(candidate if is_new else None)
            known.add(tree)
            await asyncio.sleep(0)  # other tasks of this loop may finish meanwhile
        return Pool([encodable(text) for _, _, text in samples], candidates)

    async def _candidate(self, completion: str, parents: Sequence[str]) -> tuple[Candidate | None, str]:
        """An idea as a candidate and what names its codebase: the tree, or the text where no patch is made beforehand.

        None for a text without an idea, and for an idea without a codebase.
        """
        try:
            idea = parse_idea(completion)
        except MalformedIdea:
            return None, ""
        if not self._buffer.executor.previews:
            return Candidate(idea.text, "", tuple(parents)), idea.text
        codebase = await self._buffer.executor.preview(idea)
        if isinstance(codebase, NoCodebase):
            return None, ""
        return Candidate(idea.text, codebase.patch, tuple(parents)), codebase.tree_hash
