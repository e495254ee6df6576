"""The search loop: ask for ideas, run them, wait for outcomes, until a budget ends the search.

    history → strategy → questions → ideator → ideas → reward buffer → records → archive → history

As in pyribs, an archive holds results, a strategy asks, and the engine schedules.  A strategy has no state.
A question is an `Ask`, which the ideator answers with ideas.  An epoch is `epoch_size` ideas; the journal's column
`step` holds its number, from 0 (in training: the batch's).

`flow: epochs`  all questions of an epoch see the archive as it was when the epoch began; the next epoch begins once a
                quorum of the results is in
`flow: steady`  `in_flight` ideas run at any time; every question sees the archive as it is

Guarantees:
- An idea and its question are in the journal before the idea is run.
- A killed search resumes from the journal alone and runs no finished experiment again.  Budgets count all sessions.
- Distinct codebases never exceed `max_experiments`: an idea that runs counts as a codebase until its outcome is known.
- An ideator that is killed while it answers is asked again.  The ledger counts the calls in flight as spent.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from ideator_rl._imports import renamed
from ideator_rl.archive.archive import Archive, archive_of
from ideator_rl.archive.bases import Bases
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.losses import REMEDY, RunStopped
from ideator_rl.executor.share import cpu_share
from ideator_rl.experiment import LOST
from ideator_rl.llm import LLMUnavailable
from ideator_rl.reward_buffer import RewardBuffer, Running
from ideator_rl.screen.screen import Picks
from ideator_rl.search.charges import Charges
from ideator_rl.search.config import EPOCHS, PENALISE, REJECT, SearchConfig
from ideator_rl.search.ideator import Ask, Ideator, Subject, ask_ideator, parents_of, with_context, with_defaults
from ideator_rl.search.near_duplicates import read_near_duplicates, rejected_record
from ideator_rl.search.schedule import with_schedule
from ideator_rl.search.screening import Sample, SearchScreen
from ideator_rl.search.search_summary import best_result
from ideator_rl.search.stopping import Patience, StopReason, used_up
from ideator_rl.search.strategies import History, SearchStrategy, ask_strategy
from ideator_rl.storage.forecasts import screened_out
from ideator_rl.storage.journal_reader import Descent
from ideator_rl.storage.ledger import BudgetSpent
from ideator_rl.storage.search_journal import Origin, PendingIdea, SearchJournal
from ideator_rl.text.display import encodable

__getattr__ = renamed(__name__)
POLL_SECONDS = 1.0
"""The longest wait between two looks at the clock."""


async def search_loop(
    config: SearchConfig,
    buffer: RewardBuffer,
    ideator: Ideator,
    strategy: SearchStrategy,
    log_line: Callable[[str], None] = lambda text: None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> StopReason:
    """Search until a budget ends it, and wait for the ideas that still run.

    Args:
        buffer: of this search alone; a search that its journal holds is resumed.
        log_line: receives one line per epoch.
        on_epoch: called with the number of every epoch that has ended; some of its outcomes may still be missing.

    Raises:
        RunStopped: losses in a row, or permanent faults of an LLM, ended the search.
        IdeatorError: the ideator or strategy failed, the journal cannot be written, or a sandbox does not work.  Both
            are raised after the ideas that still run have ended.
    """
    engine = SearchEngine(config, buffer, ideator, strategy, log_line, on_epoch)
    try:
        reason = await engine.run()
        await engine.drain()
        # The last ideas may have shown that none is asked for with success.
        buffer.executor.losses.refuse()
    except IdeatorError as error:
        await engine.abandon()
        if isinstance(error, RunStopped):
            engine.journal.heartbeat(ended_by=error.key)
        raise
    engine.journal.heartbeat(ended_by=reason.budget)
    return reason


class SearchEngine:
    """The state of one search.  Only the event loop of `run` reads and writes it."""

    def __init__(
        self,
        config: SearchConfig,
        buffer: RewardBuffer,
        ideator: Ideator,
        strategy: SearchStrategy,
        log_line: Callable[[str], None],
        on_epoch: Callable[[int], None],
    ):
        config = with_schedule(config)  # changes nothing where `run_search` has done so
        self._config, self._buffer, self._ideator, self._strategy = config, buffer, with_defaults(ideator), strategy
        assert config.epoch_size is not None and config.quorum is not None, "with_schedule sets both"
        self._epoch_size, self._quorum = config.epoch_size, config.quorum
        self._log_line, self._on_epoch = log_line, on_epoch
        self._subject = Subject(buffer.executor.environment, config.preset, config.prompts, config.inherit)
        self._bases = Bases(buffer.executor.environment, config.preset, config.inherit)
        self.journal = SearchJournal(buffer.journal)

        # Counts that budgets are compared with: all begin with what earlier sessions left in the journal.
        self._seconds_before, self._started, self._last_heartbeat = self.journal.seconds(), time.monotonic(), 0.0
        self._charges = Charges(buffer, config.max_experiments)
        self._near_duplicates = read_near_duplicates(config, self.journal)
        rejects = self._near_duplicates if config.near_duplicates == REJECT else None
        self._screen = SearchScreen(config, buffer, self._ideator, rejects) if config.screen else None
        self.ideas = buffer.journal.rollout_count() + screened_out(buffer.journal)
        """Ideas that were asked for, those included that a screen, of an earlier session too, did not run."""
        self._next_question = self.journal.next_number
        self._in_flight = config.in_flight or 2 * (config.slots or cpu_share())

        # Ideas that run.  `_track` adds to the first two, `_collect` removes.
        self._running: dict[Running, PendingIdea] = {}
        self._open_answers: Counter[int] = Counter()
        """Ideas that run, by the number of their question."""
        self._patience = Patience(config.patience)
        self._budget_spent: BudgetSpent | None = None
        """Set once an ideator had no room on the ledger for a call; never reset."""
        self._ideator_refused = False
        """The last question met a permanent fault of the ideator's LLM; reset by an answer."""

        self._archive: Archive | None = None
        """`flow: epochs`: what this epoch's questions see; reset by `_begin_epoch`."""
        self._ideator.remember(self.journal.sampled_completions())
        self._penalised = self.journal.penalised_trees(buffer.history) if config.near_duplicates == PENALISE else set()
        """Trees that near-duplicates led to."""
        self._begin_epoch(max(0, buffer.journal.next_step() - 1))

    async def run(self) -> StopReason:
        """The loop.  Ideas that still run at its end are left to `drain`."""
        self._resume()
        while True:
            # Outcomes first: budgets, the quorum and the room for new ideas depend on them.
            self._collect()
            self._buffer.executor.losses.refuse()
            if (reason := self._stop_reason()) is not None:
                return reason
            # Then exactly one turn: begin an epoch, ask for ideas, or wait.  Each may change what the next turn sees.
            if self._epoch_ended():
                self._report_epoch()
                self._begin_epoch(self.epoch + 1)
            elif (room := self._room()) > 0:
                await self._ask(room)
            else:
                await self._wait()

    async def drain(self) -> None:
        """Wait for the ideas that still run."""
        while self._running:
            await self._wait()
            self._collect()
        self._report_epoch()

    async def abandon(self) -> None:
        """As `drain`, after an error: errors that follow from it do not end the wait for the other ideas."""
        while self._running:
            with suppress(IdeatorError):
                await self._wait()
                self._collect()
        self._report_epoch()

    # Begin and resume

    def _begin_epoch(self, epoch: int) -> None:
        """Begin an epoch, or continue one that an earlier session began."""
        self.epoch, self._archive = epoch, None
        self._buffer.journal.go_on(epoch)
        self._texts, self._kinds = self.journal.answers_of_step(epoch)
        # Ideas of this epoch with an outcome.  `_track` subtracts the ideas that a resumed search runs again.
        self._settled = len(self._texts)

    def _resume(self) -> None:
        """Run the ideas that an earlier session left open; lost ones only as far as `max_experiments` has room."""
        self.journal.retry_lost(self._charges.room(0))
        # A kill between an outcome and its descent left the outcome alone in the journal.
        recorded = set(self._buffer.lineage)
        self._buffer.descend_all([descent for descent in self.journal.descents() if descent not in recorded])
        for (step, position), task in self._buffer.resume().items():
            self._track(task, self.journal.pending_idea(step, position))

    def _track(self, task: Running, idea: PendingIdea) -> None:
        self._running[task] = idea
        self._open_answers[idea.question] += 1
        if idea.step == self.epoch:
            self._settled -= 1

    # Budgets and room

    def _stop_reason(self) -> StopReason | None:
        """The budget, or the patience, that is used up; None while the search may go on."""
        # The ledger first: once a cap is reached, no question can be answered, whatever the other budgets leave.
        if spent := self._budget_spent or self._buffer.executor.ledger.refusal:
            return StopReason(spent.key, str(spent))
        epochs, experiments = self.epoch + self._epoch_is_full, len(self._charges.ids)
        return used_up(self._config, experiments, self.ideas, epochs, self.seconds) or self._patience.reason()

    @property
    def seconds(self) -> float:
        """Wall seconds of this search, over all sessions."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def _epoch_is_full(self) -> bool:
        return len(self._texts) >= self._epoch_size

    @property
    def _is_deterministic(self) -> bool:
        """Whether the same seed asks the same questions, whatever the order in which results arrive."""
        # Then every question depends only on earlier epochs, of which all results are in.
        return self._config.flow == EPOCHS and self._quorum == 1

    def _epoch_ended(self) -> bool:
        """All ideas were proposed, and by epochs a quorum of the results is in."""
        quorum = math.ceil(self._quorum * self._epoch_size) if self._config.flow == EPOCHS else 0
        return self._epoch_is_full and self._settled >= quorum

    def _room(self) -> int:
        """How many ideas to ask for now: the least of what the recipe's limits leave."""
        config, running = self._config, len(self._running)
        limits = [config.batch * config.asks_at_once, self._epoch_size - len(self._texts)]
        if config.max_ideas is not None:
            # Rounded up: the last round of a screen samples fewer ideas for each that it runs.
            limits.append(math.ceil((config.max_ideas - self.ideas) / (config.screen.over if config.screen else 1)))
        if (left := self._charges.room(running)) is not None:
            # Near the end the room depends on which running ideas turn out to be known codebases.  A deterministic
            # search waits until all are in, so that their order of arrival changes no question.
            if running and self._is_deterministic and left + running < self._epoch_size - len(self._texts):
                return 0
            limits.append(left)
        if config.flow != EPOCHS:
            # Wait for a few free slots: one question for every single result would be many small questions.
            free = self._in_flight - running
            enough = max(1, min(config.batch, self._in_flight) // 2)
            limits.append(free if free >= enough else 0)
        return min(limits)

    # Ask and propose

    async def _ask(self, room: int) -> None:
        """One turn: the strategy's questions, the ideator's answers, and their ideas to the buffer."""
        archive, config = self._archive_for_questions(), self._config
        # Copies: a strategy that changes them does not change this search.
        ideas, kinds = tuple(self._texts), Counter(self._kinds)
        history = History(archive, self.epoch, self._epoch_size, config.batch, ideas, kinds, self._subject)
        # Seeds come from the question's number, which a resumed search continues.
        seen = self._screen.outcomes(archive, self.epoch) if self._screen else None
        asks: list[Ask] = []
        # For a screen, several draws of what would be asked without it: shares of kinds and choice of parents stay.
        for draw in range(config.screen.over if config.screen and seen else 1):
            rng = random.Random(f"{config.seed}:{self._next_question}" + (f":{draw}" if draw else ""))
            asks += ask_strategy(self._strategy, config.strategy, history, room, rng)
        asks = [replace(ask, salt=f"{config.seed}:{self._next_question + index}") for index, ask in enumerate(asks)]
        try:
            answers = await ask_ideator(self._ideator, asks, archive)
        except BudgetSpent as error:
            self._budget_spent = error
            return
        except LLMUnavailable as error:
            if not error.permanent:
                raise
            # One may be an accident of a gateway: the loop comes back with the same question, once.
            if self._ideator_refused or error.repeated:
                raise RunStopped(f"{error} {REMEDY}") from error
            self._ideator_refused = True
            return
        self._ideator_refused = False
        questions = dict(enumerate(asks, self._next_question))
        samples = [
            (number, ask, with_context(ask, text, archive, self._bases))
            for (number, ask), texts in zip(questions.items(), answers, strict=True)
            for text in texts
        ]
        # An ideator may return more ideas than it was asked for: those beyond the room are dropped.
        if self._screen is None or seen is None:
            self._propose(questions, samples[:room])
            return
        samples = samples[: sum(ask.count for ask in asks)]
        if config.max_ideas is not None:
            samples = samples[: config.max_ideas - self.ideas]
        picks = await self._screen.choose(samples, seen, archive, len(self._texts), self.epoch, room)
        self._propose(questions, [samples[index] for index in picks.indices], picks)

    def _archive_for_questions(self) -> Archive:
        archive = self._archive
        # Steady: the archive of this moment.  By epochs: one copy for all questions of the epoch.
        if self._config.flow != EPOCHS:
            archive = archive_of(self._buffer)
        elif archive is None:
            # The journal keeps how many records the epoch began with, so that a resumed epoch sees the same archive.
            count = self._buffer.journal.mark(self.epoch, (), len(archive_of(self._buffer)))
            archive = self._archive = archive_of(self._buffer, count, self.epoch)
        # Again for every question: outcomes of this epoch may have added trees.
        if self._penalised:
            archive.penalise(frozenset(self._penalised), self._config.near_duplicate_penalty)
        return archive

    def _propose(self, questions: dict[int, Ask], rows: Sequence[Sample], picks: Picks | None = None) -> None:
        """Write questions and answers to the journal in one transaction, and run the ideas.

        Args:
            questions: by number.
            rows: the ideas that are run.
            picks: of the screen, if that chose them.
        """
        step, first = self.epoch, len(self._texts)
        self._next_question += len(questions)
        texts = [encodable(text) for _, _, text in rows]  # a lone surrogate has no bytes
        contexts = {index: text.context for index, (_, _, text) in enumerate(rows) if text.context}
        # Duplicates are found before the ideas run: `reject` saves their experiments.
        duplicates = self._near_duplicates.add(texts, step, first) if self._near_duplicates and texts else {}
        origins = [
            (number, Origin(tuple(parent.id for parent in parents_of(ask, text)), *duplicates.get(index, ())))
            for index, (number, ask, text) in enumerate(rows)
        ]
        rejects = duplicates if self._config.near_duplicates == REJECT else {}
        refused = {index: rejected_record(texts[index], rejects[index], self._buffer) for index in rejects}
        note = self.journal.answers(step, questions, origins)
        if self._screen and picks:
            note = self._screen.with_forecasts(note, step, picks)
        _, tasks = self._buffer.propose(texts, step, refused, note, contexts)
        # From here on the ideas are on disk: count them, and follow those that run.
        self.ideas += len(picks.rows) if picks else len(rows)
        self._texts += texts
        self._kinds.update(ask.kind for _, ask, _ in rows)
        self._settled += len(rows)
        for index, record in refused.items():
            self._patience.outcome(origins[index][0], record, is_new=False)
        for index, task in tasks.items():
            number, origin = origins[index]
            is_duplicate = origin.like is not None
            self._track(task, PendingIdea(step, first + index, number, origin.parents, is_duplicate))
        # A question whose answers all have an outcome already (none, or all rejected) ends here, not in `_collect`.
        screen, sampled = self._screen, len(picks.rows) if picks else 0
        for number in screen.judged(questions, rows, sampled, self._patience) if screen and picks else questions:
            if not self._open_answers[number]:
                self._patience.question_ended(number)

    # Wait and collect

    async def _wait(self) -> None:
        """Until an idea has an outcome, at most `POLL_SECONDS`; writes a heartbeat to the journal."""
        if self._running:
            await asyncio.wait(self._running, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if time.monotonic() - self._last_heartbeat >= POLL_SECONDS:
            self._last_heartbeat = time.monotonic()
            self.journal.heartbeat()

    def _collect(self) -> None:
        """Count the outcomes that have come in since the last call."""
        # Descents are written in one transaction at the end.
        descents: list[Descent] = []
        for task in [task for task in self._running if task.done()]:
            idea = self._running.pop(task)
            _, record = task.result()
            # An idea of an earlier epoch may end now: it is no result of this one.
            if idea.step == self.epoch:
                self._settled += 1
            # A lost idea costs no budget, has no descendants, and is run again by the next session.  A codebase that
            # this search has asked for before costs nothing either, and is nothing new.
            is_new = record.status != LOST and bool(record.tree) and record.id not in self._charges.ids
            self._patience.outcome(idea.question, record, is_new)
            if record.status != LOST:
                if is_new:
                    self._charges.ids.add(record.id)
                    if idea.is_near_duplicate and self._config.near_duplicates == PENALISE:
                        self._penalised.add(record.tree)
                if idea.parents:
                    descents.append((record.id, idea.parents, idea.step))
            self._open_answers[idea.question] -= 1
            if not self._open_answers[idea.question]:
                self._patience.question_ended(idea.question)
        if descents:
            self._buffer.descend_all(descents)

    def _report_epoch(self) -> None:
        if not self._texts:  # the budget ended the search as the epoch began
            return
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items()))
        epoch = f"epoch {self.epoch + 1}: {len(self._texts)} ideas ({kinds})"
        best = best_result(self._buffer)
        self._log_line(f"{epoch} · {len(self._charges.ids)} experiments of {self.ideas} ideas so far · {best}")
        for alarm in self._screen.new_alarms() if self._screen else ():
            self._log_line(f"epoch {self.epoch + 1}, {alarm.level}: {alarm.text}")
        self._on_epoch(self.epoch)
