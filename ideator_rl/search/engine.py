"""The search itself: ask, propose, wait, and again, until a budget ends it.  The whole loop on one page.

    history → strategy → questions → ideator → ideas → reward buffer → records → archive → history

By epochs, all of an epoch's questions are asked on what was known when it began, and the next begins once a quorum of
its results is in.  Steady, so many ideas are kept under way, and every question is asked on all that is known.

Guarantees: an idea stands in the journal, with the question it answers, before it is run; a killed search goes on from
the journal alone, runs nothing twice and counts its budgets over all sittings.  Distinct codebases never exceed
`max_experiments`: what is under way counts as if it were one, so the last ideas are asked for as room comes.  An
ideator that is killed while it answers is asked again (its ledger counts what was in flight as spent).
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

from ideator_rl._imports import renamed
from ideator_rl.archive.archive import Archive, archive_of
from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, NEAR_DUPLICATE, REJECTED, Experiment, proposal_id
from ideator_rl.reward_buffer import RewardBuffer, Running
from ideator_rl.search.config import EPOCHS, PENALISE, REJECT, SearchConfig
from ideator_rl.search.ideator import Answer, Ask, Ideator, Subject, answers
from ideator_rl.search.near_duplicates import NearDuplicates
from ideator_rl.search.search_journal import Asked, Origin, Place, charged
from ideator_rl.search.strategies import History, SearchStrategy, asks_of
from ideator_rl.storage.journal import Descent, sections
from ideator_rl.storage.ledger import KEYS, BudgetSpent

__getattr__ = renamed(__name__)
LOOK_SECONDS = 1.0
"""The longest wait between two looks at the clock."""


@dataclass(frozen=True)
class StopReason:
    """Why a search ended."""

    budget: str
    """The recipe's key that ended it."""
    text: str
    """For a person."""


async def search_loop(
    config: SearchConfig,
    buffer: RewardBuffer,
    ideator: Ideator,
    strategy: SearchStrategy,
    say: Callable[[str], None] = lambda text: None,
    look: Callable[[int], None] = lambda epoch: None,
) -> StopReason:
    """Search until a budget ends it, and wait for what is under way.

    Args:
        buffer: of this search alone; what its journal holds of an earlier sitting is gone on with.
        say: told of every epoch.
        look: called with every epoch that is over, as far as its outcomes are in.

    Raises:
        IdeatorError: the ideator cannot be had, the journal cannot be written, or a sandbox does not work.  What was
            under way is waited for first.
    """
    search = Search(config, buffer, ideator, strategy, say)
    search.look = look
    try:
        ending = await search.go()
    except IdeatorError:
        await search.abandon()
        raise
    await search.drain()
    search.asked.seen(ending.budget)
    return ending


class Search:
    def __init__(
        self,
        config: SearchConfig,
        buffer: RewardBuffer,
        ideator: Ideator,
        strategy: SearchStrategy,
        say: Callable[[str], None],
    ):
        self._config, self._buffer, self._ideator, self._strategy, self._say = config, buffer, ideator, strategy, say
        self._subject = Subject(buffer.executor.environment, config.preset, config.prompts)
        self.asked = Asked(buffer.journal)
        self._before, self._since, self._seen = self.asked.seconds(), time.monotonic(), 0.0
        self.codebases = charged(buffer)
        """Distinct codebases that this search asked for."""
        self.ideas = int(buffer.journal.read("select count(*) from rollouts")[0][0])
        self._number = self.asked.next_number
        self._in_flight = config.in_flight or 2 * (config.slots or os.cpu_count() or 1)
        self._tasks: dict[Running, Place] = {}
        self._pending: Counter[int] = Counter()
        """Ideas under way, by question."""
        self._fruitful: set[int] = set()
        self._barren = 0
        """Questions in a row that led to no new codebase."""
        self._spent = ""
        self.look: Callable[[int], None] = lambda epoch: None
        self._archive: Archive | None = None
        self._rejects = config.near_duplicates == REJECT
        self._near = self._near_duplicates()
        if hasattr(ideator, "remember"):
            ideator.remember([text for _, text in self.asked.texts()])
        self._penalised = self.asked.penalised(buffer.history) if config.near_duplicates == PENALISE else set()
        """Trees that ideas led to which said what another said."""
        self._begin(max(0, buffer.journal.next_step() - 1))

    async def go(self) -> StopReason:
        """The loop; what is under way at its end is left to `drain`."""
        self._take_up()
        while True:
            self._gather()
            if (ending := self._over()) is not None:
                return ending
            if self._epoch_ended():
                self._tell()
                self._begin(self.epoch + 1)
            elif (room := self._room()) > 0:
                await self._ask(room)
            else:
                await self._wait()

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await self._wait()
            self._gather()
        self._tell()

    async def abandon(self) -> None:
        """The same after an error: of others that follow from it, none ends the wait for the rest."""
        while self._tasks:
            with suppress(IdeatorError):
                await self._wait()
                self._gather()
        self._tell()

    def _near_duplicates(self) -> NearDuplicates | None:
        """What looks for them, with the ideas of earlier sittings known to it."""
        if self._config.near_duplicates is None:
            return None
        found = NearDuplicates(get_embedder(self._config.embedder), self._config.near_duplicate_similarity)
        for step, group in groupby(self.asked.texts(), key=lambda row: row[0]):
            found.look([text for _, text in group], step, 0)
        return found

    def _begin(self, epoch: int) -> None:
        """Begin an epoch, or go on with one that an earlier sitting began."""
        self.epoch, self._archive = epoch, None
        self._buffer.journal.go_on(epoch)
        self._texts, self._kinds = self.asked.of_step(epoch)
        self._settled = len(self._texts)
        """Ideas of this epoch that have an outcome; what is taken up has none yet."""

    def _take_up(self) -> None:
        """Go on with what an earlier sitting left; what was lost is run as far as there is room for codebases."""
        most = self._config.max_experiments
        self.asked.retry_lost(None if most is None else most - len(self.codebases))
        known = set(self._buffer.lineage)
        self._descend([descent for descent in self.asked.descents() if descent not in known])
        for (step, position), task in self._buffer.take_up().items():
            self._enter(task, self.asked.place(step, position))

    def _enter(self, task: Running, place: Place) -> None:
        self._tasks[task] = place
        self._pending[place.ask] += 1
        self._settled -= place.step == self.epoch

    def _over(self) -> StopReason | None:
        """Why nothing more is asked for."""
        config = self._config
        if spent := self._spent or self._buffer.executor.ledger.exhausted:
            return StopReason(next((key for key in KEYS.values() if key in spent), "max_usd"), spent)
        if config.max_experiments is not None and len(self.codebases) >= config.max_experiments:
            return StopReason("max_experiments", f"{len(self.codebases)} experiments were run, as many as there may be")
        if config.max_ideas is not None and self.ideas >= config.max_ideas:
            return StopReason("max_ideas", f"{self.ideas} ideas were proposed, as many as there may be")
        if config.max_epochs is not None and self.epoch + 1 >= config.max_epochs and self._full:
            return StopReason("max_epochs", f"{self.epoch + 1} epochs are done")
        if config.max_seconds is not None and self.seconds >= config.max_seconds:
            return StopReason("max_seconds", f"{self.seconds:.0f} seconds are over")
        if self._barren >= config.patience:
            words = (
                f"the last {self._barren} questions led to no new codebase: the ideator repeats itself, or what it says"
            )
            return StopReason(
                "patience", words + " cannot be run. Look at the outcomes; patience is how many may do so"
            )
        return None

    @property
    def seconds(self) -> float:
        """Wall seconds of this search, over all sittings."""
        return self._before + time.monotonic() - self._since

    @property
    def _full(self) -> bool:
        return len(self._texts) >= self._config.epoch_size

    @property
    def _in_order(self) -> bool:
        """Every question is a function of the results of earlier epochs: the same seed asks the same."""
        return self._config.flow == EPOCHS and self._config.quorum == 1

    def _epoch_ended(self) -> bool:
        """Full, and by epochs enough of its results are in."""
        quorum = math.ceil(self._config.quorum * self._config.epoch_size) if self._config.flow == EPOCHS else 0
        return self._full and self._settled >= quorum

    def _room(self) -> int:
        """How many ideas are to be asked for now."""
        config, under_way = self._config, len(self._tasks)
        limits = [config.batch * config.asks_at_once, config.epoch_size - len(self._texts)]
        if config.max_ideas is not None:
            limits.append(config.max_ideas - self.ideas)
        if config.max_experiments is not None:
            left = config.max_experiments - len(self.codebases)
            if under_way and self._in_order and left < config.epoch_size - len(self._texts):
                return 0  # how many are left must not depend on which known codebase was found to be one first
            limits.append(left - under_way)
        if config.flow != EPOCHS:
            free = self._in_flight - under_way
            few = min(config.batch, self._in_flight) // 2  # not a question for every single result
            limits.append(free if free >= max(1, few) else 0)
        return min(limits)

    async def _ask(self, room: int) -> None:
        archive, config = self._known(), self._config
        ideas, kinds = tuple(self._texts), Counter(self._kinds)  # ours stay as they are, whatever a strategy does
        history = History(archive, self.epoch, config.epoch_size, config.batch, ideas, kinds, self._subject)
        rng = random.Random(f"{config.seed}:{self._number}")
        asks = asks_of(self._strategy, config.strategy, history, room, rng)
        asks = [replace(ask, salt=f"{config.seed}:{self._number + at}") for at, ask in enumerate(asks)]
        try:
            replies = await answers(self._ideator, asks, archive)
        except BudgetSpent as error:
            self._spent = str(error)
            return
        self._propose([(ask, texts) for ask, texts in zip(asks, replies, strict=True)], room)

    def _known(self) -> Archive:
        """What questions are asked on."""
        archive = self._archive
        if self._config.flow != EPOCHS:
            archive = archive_of(self._buffer)
        elif archive is None:
            known = self._buffer.mark(self.epoch, len(archive_of(self._buffer)))
            archive = self._archive = archive_of(self._buffer, known, self.epoch)
        if self._penalised:
            archive.penalise(frozenset(self._penalised), self._config.near_duplicate_penalty)
        return archive

    def _propose(self, replies: Sequence[tuple[Ask, Sequence[str]]], room: int) -> None:
        """Write questions and answers, and have these run, at most as many as there is room for."""
        step, first = self.epoch, len(self._texts)
        rows: list[tuple[int, Ask, str]] = []
        asked: dict[int, Ask] = {}
        for ask, texts in replies:
            asked[self._number] = ask
            rows += [(self._number, ask, text) for text in texts[: room - len(rows)]]
            self._number += 1
        texts = [text.encode("utf-8", "replace").decode() for _, _, text in rows]  # half surrogate pairs have no bytes
        near = self._near.look(texts, step, first) if self._near and texts else {}
        origins = [
            (number, Origin(tuple(parent.id for parent in _parents(ask, text)), *near.get(index, ())))
            for index, (number, ask, text) in enumerate(rows)
        ]
        refused = {index: self._refusal(texts[index], *near[index]) for index in near} if self._rejects else {}
        _, begun = self._buffer.propose(
            texts, step, refused, note=lambda db, first: self.asked.note(db, step, asked, first, origins)
        )
        self.ideas += len(rows)
        self._texts += texts
        self._kinds.update(ask.kind for _, ask, _ in rows)
        self._settled += len(rows)
        for index, task in begun.items():
            number, origin = origins[index]
            self._enter(task, Place(step, first + index, number, origin.parents, origin.like is not None))
        for number in asked:
            if not self._pending[number]:
                self._ended(number)

    def _refusal(self, text: str, like: tuple[int, int], similarity: float) -> Experiment:
        """The record of an idea that is not run because another said the same."""
        executor, idea = self._buffer.executor, sections(text)[1] or text
        message = (
            f"It says what idea {like[1] + 1} of epoch {like[0] + 1} said (similarity {similarity:.2f}), and "
            "near_duplicates is reject: it was not run."
        )
        return Experiment(
            id=proposal_id(idea, "near_duplicate", self._buffer.config.run_dir or "", self._config.preset),
            status=REJECTED,
            idea=idea,
            environment=executor.environment.name,
            preset=self._config.preset,
            seed=self._config.seed,
            reward=executor.environment.failure_reward,
            error={"kind": NEAR_DUPLICATE, "message": message},
            created=time.time(),
            finished=time.time(),
        )

    async def _wait(self) -> None:
        """Until something has an outcome, or a moment."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if time.monotonic() - self._seen >= LOOK_SECONDS:
            self._seen = time.monotonic()
            self.asked.seen()

    def _gather(self) -> None:
        """Take in the outcomes that are there."""
        descents: list[Descent] = []
        for task in [task for task in self._tasks if task.done()]:
            place = self._tasks.pop(task)
            _, record = task.result()
            self._settled += place.step == self.epoch
            if record.status != LOST:
                if record.tree and record.id not in self.codebases:
                    self.codebases.add(record.id)
                    self._fruitful.add(place.ask)
                    if place.near and self._config.near_duplicates == PENALISE:
                        self._penalised.add(record.tree)
                if place.parents:
                    descents.append((record.id, place.parents, place.step))
            self._pending[place.ask] -= 1
            if not self._pending[place.ask]:
                self._ended(place.ask)
        self._descend(descents)

    def _descend(self, descents: list[Descent]) -> None:
        if descents:
            self._buffer.descend_all(descents)

    def _ended(self, ask: int) -> None:
        """All of a question's answers have an outcome."""
        self._barren = 0 if ask in self._fruitful else self._barren + 1
        self._fruitful.discard(ask)

    def _tell(self) -> None:
        if not self._texts:  # begun when the budget ended
            return
        archive, metric = archive_of(self._buffer), self._buffer.executor.environment.metric
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items()))
        best = archive.metric(archive.successes()[0]) if archive.successes() else None
        words = f"best {metric.name} {best:.4f}" if best is not None else "none succeeded yet"
        epoch = f"epoch {self.epoch + 1}: {len(self._texts)} ideas ({kinds})"
        self._say(f"{epoch} · {len(self.codebases)} experiments of {self.ideas} ideas so far · {words}")
        self.look(self.epoch)


def _parents(ask: Ask, text: str) -> Sequence[Experiment]:
    if isinstance(text, Answer):
        return text.parents
    return ask.shown if ask.descends else ()
