"""The pipeline: which batch is sampled, which is trained, and on what; decided alike at every rank and after a kill.

At the t-th call batches up to t + lag are sampled (or taken from the journal), journaled at every rank, and only then
submitted; batch t is closed by the first process (`closing`), and every rank is told how.  A closing is on disk before
anybody trains on it, so that a resumed run repeats it instead of deciding again.  Ranks meet on a store, never inside a
collective, before they sample and before they train.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from ideator_rl.errors import IdeatorError
from ideator_rl.training.batch_assembly import Closing, Known, Layout, Rule
from ideator_rl.training.imitation import Draw
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.ranks import Ranks
from ideator_rl.training.reward_runner import Pending, Rewarding
from ideator_rl.training.rollouts import Batch, RolloutJournal, restore_random_state

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
"""The longest wait between two looks at what has arrived."""


class Host(Protocol):
    """What the pipeline asks of the trainer."""

    state: Any
    """The Trainer's."""

    @property
    def device(self) -> torch.device: ...

    def sample(self, index: int) -> Batch:
        """A new batch, this rank's tensors included."""
        ...

    def give_up(self) -> bool:
        """Whether a batch of which nothing can be trained may be closed empty (the budget is spent)."""
        ...


class Pipeline:
    """Args:
    run: the run's folder, shared by all processes.
    rewarding: in the first process only.
    draw: examples to imitate beside a batch.
    """

    def __init__(
        self,
        config: PipelineConfig,
        layout: Layout,
        run: Path,
        host: Host,
        ranks: Ranks,
        rewarding: Rewarding | None,
        draw: Draw | None = None,
    ):
        self.config, self.layout, self.ranks = config, layout, ranks
        self._host, self._rewarding, self._draw = host, rewarding, draw
        self._rule = Rule(config.quorum, config.max_age)
        self._run, self._journal = run, RolloutJournal(run, ranks.rank, ranks.world)
        self._batches: dict[int, Batch] = {}
        self.pending: dict[int, Pending] = {}
        self._closings: dict[int, Closing] = {}
        self._sampled = -1
        self._sampled_before = 0
        """Batches below this were sampled before the checkpoint: its random state is younger than theirs."""
        self.reattach: Callable[[set[int]], None] | None = None
        """Called once in the first process of a resumed run, with the batches that are submitted again anyway."""

    def next(self, index: int, total: int) -> tuple[Closing, dict[int, Batch]]:
        """What to train as batch `index` of `total`: the closing, and the batches that its seats come from."""
        self.ranks.meet(f"begin/{index}")
        if self._sampled < 0:
            self._take_up(index)
        while self._sampled < min(index + self.config.max_staleness, total - 1):
            self._sampled += 1
            self._batches[self._sampled] = self._take(self._sampled)
        closing = Closing.of(self.ranks.share(f"close/{index}", lambda: self._close(index).to_json()))
        self._closings[index] = closing
        batches = {seat.batch: self._batch(seat.batch) for seat in closing.seats} | {index: self._batch(index)}
        self._release(closing)
        return closing, batches

    def _take_up(self, index: int) -> None:
        """Find what an earlier life of this run has left."""
        self._sampled = index - 1
        self._sampled_before = 0 if index == 0 else index + self.config.max_staleness
        if self.ranks.first:
            self._closings = _usable(self._journal, index)
            for batch in {batch for batch, _ in self._parked(index)}:
                self._submit(self._batch(batch))
        if self.reattach is not None and self.ranks.first:
            ahead = range(index, index + self.config.max_staleness + 1)
            self.reattach({*ahead, *(batch for batch, _ in self._parked(index)), *self._journaled_from(index)})

    def _journaled_from(self, index: int) -> set[int]:
        """Batches that will be taken from the journal one after the other."""
        found = set()
        while self._journal.holds(index):
            found.add(index)
            index += 1
        return found

    def _take(self, index: int) -> Batch:
        """A batch from the journal, or a new one; submitted once it is on disk at every rank."""
        if self.ranks.all(f"journaled/{index}", self._journal.holds(index)):
            batch = self._read(index)
            if index >= self._sampled_before and batch.random_state is not None:
                restore_random_state(batch.random_state)
        else:
            if self.ranks.first:
                self._strike(index)
            batch = self._host.sample(index)
            self._journal.write(batch)
            self.ranks.meet(f"written/{index}")
        self._submit(batch)
        return batch

    def _submit(self, batch: Batch) -> None:
        if self._rewarding is not None and batch.index not in self.pending:
            self.pending[batch.index] = self._rewarding.submit(batch, self._host.state)

    def _batch(self, index: int) -> Batch:
        if index not in self._batches:
            self._batches[index] = self._read(index)
        return self._batches[index]

    def _read(self, index: int) -> Batch:
        """
        Raises:
            IdeatorError: it was sampled under settings that this run cannot go on with.
        """
        batch = self._journal.read(index, self._host.device)
        if batch.group_size != self.layout.group_size:
            raise IdeatorError(
                f"Batch {index} of this run was sampled in groups of {batch.group_size}, and num_generations is "
                f"{self.layout.group_size} now. Resume with the group size that it was started with."
            )
        ids, wanted = batch.tensors.get("completion_ids"), self.layout.rows_per_rank
        if ids is not None and len(ids) != wanted:
            raise IdeatorError(
                f"Batch {index} of this run was sampled with {len(ids)} completions a process, and {wanted} are asked "
                "for now. Resume with the batch size that it was started with."
            )
        if ids is not None and self.config.off_policy and "old_per_token_logps" not in batch.tensors:
            raise IdeatorError(
                f"Batch {index} of this run was sampled with max_staleness 0, quorum 1 and no deadline, so without the "
                "log-probs that others need. Resume with these until it is trained."
            )
        return batch

    def _strike(self, index: int) -> None:
        """A batch is sampled anew: what was closed of it, or after it, was about other texts."""
        found = [Closing.of(raw) for raw in self._journal.closings()]
        if any(closing.index >= index for closing in found):
            self._journal.keep_closings([closing.to_json() for closing in found if closing.index < index])
        self._closings = {at: closing for at, closing in self._closings.items() if at < index}

    def _parked(self, index: int) -> list[tuple[int, int]]:
        """Groups that waited when the batch before `index` had been closed."""
        before = self._closings.get(index - 1)
        return before.parked if before is not None else []

    def _close(self, index: int) -> Closing:
        """First process: wait for the quorum, decide, and put it on disk."""
        if index in self._closings:
            return self._closings[index]
        since = time.monotonic()
        while True:
            known = self._known(index)
            final = all(each is not None for each in known[index])
            if self._rule.enough(known[index]) or self._late(index):
                closing = self._rule.close(index, self.layout, known, self._parked(index), time.monotonic() - since)
                if closing.seats or (final and self._nothing_left(known)):
                    break
            self.pending[index].wait(LOOK_SECONDS)
        told = dict(self.pending[index].metrics)  # a copy: its function may still be logging
        closing.metrics = {name: list(values) for name, values in told.items() if values}
        closing.examples = self._draw(index) if self._draw else []
        self._journal.close(closing.to_json())
        return closing

    def _known(self, index: int) -> dict[int, Known]:
        return {batch: self.pending[batch].known() for batch in {index, *(b for b, _ in self._parked(index))}}

    def _late(self, index: int) -> bool:
        deadline = self.config.deadline
        return deadline is not None and time.monotonic() - self.pending[index].submitted >= deadline

    def _nothing_left(self, known: dict[int, Known]) -> bool:
        """Whether a batch without anything to train may be closed.

        Raises:
            IdeatorError: everything was lost, and training on would be blind.
        """
        if any(each is None for rows in known.values() for each in rows):
            return False
        if self._host.give_up() or any(each.scored for rows in known.values() for each in rows if each):
            return True
        raise IdeatorError(
            "Every experiment of this batch was lost: nothing was learned from them and nothing is lost with them. "
            "See why with `ideator-rl status`, mend it and resume."
        )

    def _release(self, closing: Closing) -> None:
        """Forget what no later batch can need: in memory, and on disk what no checkpoint goes back to."""
        keep = {batch for batch, _ in closing.parked}
        for index in [index for index in self._batches if index <= closing.index and index not in keep]:
            del self._batches[index]
        for index in [index for index in self.pending if index <= closing.index and index not in keep]:
            self.pending.pop(index).unwatch()
        self._closings.pop(closing.index - 1, None)

    def forget(self, before: int) -> None:
        """No checkpoint goes back beyond the batch `before`."""
        self._journal.forget(before - self.config.max_age)


def _usable(journal: RolloutJournal, index: int) -> dict[int, Closing]:
    """The closings on disk whose batches are there too; from the first that is not, they are struck out."""
    usable: list[Closing] = []
    found = [Closing.of(raw) for raw in journal.closings()]
    for closing in found:
        needed = {batch for batch, _ in closing.parked}
        if closing.index >= index:
            needed |= {closing.index, *(seat.batch for seat in closing.seats)}
        if closing.index >= index - 1 and not all(journal.holds(batch) for batch in needed):
            break
        usable.append(closing)
    if len(usable) < len(found):
        log.warning("closings from batch %d on are decided again: their batches are gone", found[len(usable)].index)
        journal.keep_closings([closing.to_json() for closing in usable])
    for closing in usable:
        if closing.index >= index:
            closing.examples = journal.examples(closing.index)
    return {closing.index: closing for closing in usable if closing.index >= index - 1}
