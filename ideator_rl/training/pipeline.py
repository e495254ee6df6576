"""Which batch is sampled, which is trained, and on what: the same at every rank, and in a run that was killed.

At the t-th call of `next_batch`:

1. Batches up to t + `max_staleness` are sampled, or read from `rollouts/`.  Each is stored at every rank, and only
   then submitted to the reward functions.
2. Rank 0 waits until batch t may close; `batch_closing` decides when that is, and which groups are trained.  The
   decision is on disk before any rank trains on it, so that a resumed run repeats it instead of deciding again.
3. Every rank is sent the decision.

Ranks wait for each other on a store, never inside a collective, before they sample and before they train.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ideator_rl.errors import IdeatorError
from ideator_rl.training.batch_closing import ClosingRule, GroupId, Layout, TrainBatch
from ideator_rl.training.imitation import Draw
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.ranks import Ranks
from ideator_rl.training.reward_runner import PendingRewards, RewardRunner
from ideator_rl.training.rollouts import Batch, RolloutStore, restore_random_state

log = logging.getLogger(__name__)
WAIT_SECONDS = 0.5
"""The longest wait between two looks at the rewards that have come."""


class Host(Protocol):
    """What the pipeline needs of the trainer; called by the thread that trains."""

    state: Any
    """The Trainer's."""
    args: Any
    """TRL's GRPOConfig."""

    @property
    def device(self) -> torch.device: ...

    def sample(self, index: int) -> Batch:
        """A new batch, with this rank's tensors."""
        ...

    def give_up(self) -> bool:
        """Whether a batch that was lost as a whole may be closed empty: the budget is spent, or the recipe allows it.

        Raises:
            RunStopped: too many ideas were lost in a row.
        """
        ...

    def reattach(self, submitted: set[int]) -> None:
        """Wait for the experiments of earlier sessions, but for those of batches that are submitted again anyway.

        Called once, at rank 0, before the first batch is sampled.
        """
        ...


class Pipeline:
    """The pipeline of one session.  Only the thread that trains calls it.

    Args:
        run: the run's folder, shared by all ranks.
        reward_runner: at rank 0; None at the others.
        draw: returns examples to imitate with a batch; called at rank 0 only.
    """

    def __init__(
        self,
        config: PipelineConfig,
        layout: Layout,
        run: Path,
        host: Host,
        ranks: Ranks,
        reward_runner: RewardRunner | None,
        draw: Draw | None = None,
    ):
        self.config, self.layout, self.ranks = config, layout, ranks
        self._host, self._reward_runner, self._draw = host, reward_runner, draw
        self._rule = ClosingRule(config.quorum, config.max_age, config.deadline)
        self._store = RolloutStore(run, ranks.rank, ranks.world)
        # By batch.  Each is filled by `next_batch` and emptied by `_release` once no later batch can need it.
        self._batches: dict[int, Batch] = {}
        self.pending: dict[int, PendingRewards] = {}
        """At rank 0; the reward functions' event loop writes what is in it."""
        self._train_batches: dict[int, TrainBatch] = {}
        """The last one, and at rank 0 of a resumed run those that an earlier session decided."""
        self._sampled = -1
        """The last batch that was sampled or read; −1 until the first call, which resumes the run."""
        self._sampled_before_checkpoint = 0
        """Batches below this were sampled before the checkpoint: its random state is newer than theirs."""

    def next_batch(self, index: int, total: int) -> tuple[TrainBatch, dict[int, Batch]]:
        """What to train as batch `index` of `total`, and the sampled batches that its groups come from.

        Raises:
            IdeatorError: every experiment was lost, or the stored batches do not fit this run.
        """
        self.ranks.barrier(f"begin/{index}")
        if self._sampled < 0:
            self._resume(index)
        while self._sampled < min(index + self.config.max_staleness, total - 1):
            self._sampled += 1
            self._batches[self._sampled] = self._sample_or_read(self._sampled)
        # As JSON at rank 0 too, so that every rank trains on exactly what is on disk.
        body = self.ranks.broadcast(f"close/{index}", lambda: self._close(index).to_json())
        train_batch = TrainBatch.from_json(body)
        self._train_batches[index] = train_batch
        batches = {number: self._batch(number) for number in {index, *(slot.batch for slot in train_batch.slots)}}
        self._release(train_batch)
        return train_batch, batches

    def forget(self, before: int) -> None:
        """Remove stored batches: no checkpoint goes back beyond the batch `before`."""
        self._store.forget(before - self.config.max_age)

    def _resume(self, index: int) -> None:
        """Read what an earlier session left, if any, and submit again what it waited for."""
        self._sampled = index - 1
        self._sampled_before_checkpoint = 0 if index == 0 else index + self.config.max_staleness
        if self._reward_runner is None:
            return
        self._train_batches = _usable_train_batches(self._store, index, self._reward_runner.names)
        deferred = {batch for batch, _ in self._deferred(index)}
        for batch in deferred:
            self._submit(self._batch(batch))
        # These are submitted again here or by the next calls, so their experiments need no second waiter.
        ahead = set(range(index, index + self.config.max_staleness + 1))
        stored = index
        while self._store.has(stored):
            ahead.add(stored)
            stored += 1
        self._host.reattach(ahead | deferred)

    def _sample_or_read(self, index: int) -> Batch:
        """A stored batch, or a new one; it is submitted when it is on disk at every rank."""
        if self.ranks.all_true(f"stored/{index}", self._store.has(index)):
            batch = self._read(index)
            # It was sampled after the checkpoint was saved: later batches must not repeat its random numbers.
            if index >= self._sampled_before_checkpoint and batch.random_state is not None:
                restore_random_state(batch.random_state)
        else:
            if self.ranks.is_zero:
                self._discard_train_batches(index)
            # Later batches that are stored were sampled by a policy that this run does not come to: the run went back
            # to an earlier checkpoint.
            self._store.forget_after(index)
            batch = self._host.sample(index)
            self._store.write(batch)
            self.ranks.barrier(f"written/{index}")
        self._submit(batch)
        return batch

    def _submit(self, batch: Batch) -> None:
        if self._reward_runner is not None and batch.index not in self.pending:
            self.pending[batch.index] = self._reward_runner.submit(batch, self._host.state)

    def _batch(self, index: int) -> Batch:
        if index not in self._batches:
            self._batches[index] = self._read(index)
        return self._batches[index]

    def _read(self, index: int) -> Batch:
        """
        Raises:
            IdeatorError: the batch was sampled under settings with which this run cannot go on.
        """
        # A resumed run may have other settings than the one that sampled the batch.
        batch = self._store.read(index, self._host.device)
        if batch.group_size != self.layout.group_size:
            raise IdeatorError(
                f"Batch {index} of this run was sampled in groups of {batch.group_size}, and num_generations is "
                f"{self.layout.group_size} now. Resume with the group size that it was started with."
            )
        ids, rows = batch.tensors.get("completion_ids"), self.layout.rows_per_rank
        if ids is not None and len(ids) != rows:
            raise IdeatorError(
                f"Batch {index} of this run was sampled with {len(ids)} completions a process, and {rows} are asked "
                "for now. Resume with the batch size that it was started with."
            )
        args = self._host.args
        importance_sampling = args.use_vllm and args.vllm_importance_sampling_correction
        for tensor, is_needed, settings in (
            ("old_per_token_logps", self.config.off_policy, "max_staleness 0, quorum 1 and no deadline"),
            ("ref_per_token_logps", args.beta != 0, "beta 0"),
            (
                "importance_sampling_ratio",
                importance_sampling,
                "vLLM or its importance sampling correction off",
            ),
        ):
            if ids is not None and is_needed and tensor not in batch.tensors:
                raise IdeatorError(
                    f"Batch {index} of this run was sampled with {settings}, so without {tensor}, which other settings "
                    "need. Resume with these until it is trained, or start a new run."
                )
        return batch

    def _discard_train_batches(self, index: int) -> None:
        """A batch is sampled anew: decisions about it and about later batches are of other completions."""
        stored = self._store.train_batches()
        if any(train_batch.index >= index for train_batch in stored):
            self._store.replace_train_batches([train_batch for train_batch in stored if train_batch.index < index])
        self._train_batches = {number: batch for number, batch in self._train_batches.items() if number < index}

    def _deferred(self, index: int) -> list[GroupId]:
        """Groups that were deferred when the batch before `index` was closed."""
        previous = self._train_batches.get(index - 1)
        return previous.deferred if previous is not None else []

    # At rank 0.

    def _close(self, index: int) -> TrainBatch:
        """Wait until `ClosingRule` closes the batch, and store its decision."""
        if index in self._train_batches:  # an earlier session decided
            return self._train_batches[index]
        ready_at = time.monotonic()
        while True:
            outcomes = {batch: self.pending[batch].outcomes() for batch in self._batches_to_choose_from(index)}
            seconds = time.monotonic() - self.pending[index].submitted
            if self._rule.is_due(outcomes[index], seconds):
                waited = time.monotonic() - ready_at
                # Forecasts are there from the start: where a batch is trained on them, no row is missing.
                outcomes = {batch: self.pending[batch].with_forecasts(rows) for batch, rows in outcomes.items()}
                train_batch = self._rule.close(index, self.layout, outcomes, self._deferred(index), waited, seconds)
                # Without any group to train, go on waiting for as long as one may still become ready.
                if train_batch.slots or self._rule.may_close_empty(outcomes, self._host.give_up):
                    break
            self.pending[index].wait(WAIT_SECONDS)
        metrics = dict(self.pending[index].metrics)  # a copy: the functions may still be logging
        train_batch.metrics = {name: list(values) for name, values in metrics.items() if values}
        train_batch.is_dry = self.pending[index].is_dry
        train_batch.functions = self._reward_runner.names if self._reward_runner is not None else None
        train_batch.examples = self._draw(index) if self._draw and not train_batch.is_dry else []
        self._store.append(train_batch)
        return train_batch

    def _batches_to_choose_from(self, index: int) -> set[int]:
        return {index, *(batch for batch, _ in self._deferred(index))}

    # At every rank.

    def _release(self, train_batch: TrainBatch) -> None:
        """Drop from memory what no later batch can need."""
        needed = {batch for batch, _ in train_batch.deferred}
        for index in [index for index in self._batches if index <= train_batch.index and index not in needed]:
            del self._batches[index]
        for index in [index for index in self.pending if index <= train_batch.index and index not in needed]:
            self.pending.pop(index).unwatch()
        self._train_batches.pop(train_batch.index - 1, None)


def _usable_train_batches(store: RolloutStore, index: int, functions: Sequence[str]) -> dict[int, TrainBatch]:
    """The stored decisions that a run resumed at batch `index` can repeat.

    A decision whose sampled batches are gone, or whose rewards other functions gave, is discarded, with all that follow
    it: they are decided again.
    """
    usable: list[TrainBatch] = []
    stored, reason = store.train_batches(), ""
    for train_batch in stored:
        # Of a batch that is trained already, only the deferred groups are needed, and only of the last such batch.
        needed = {batch for batch, _ in train_batch.deferred}
        if train_batch.index >= index:
            needed |= {train_batch.index, *(slot.batch for slot in train_batch.slots)}
        if train_batch.index >= index - 1 and not all(store.has(batch) for batch in needed):
            reason = "their batches are gone"
            break
        # Rewards are stored in the order of their functions, and would be taken for those of others.
        if train_batch.index >= index and not train_batch.has_rewards_of(functions):
            reason = "the reward functions are others"
            break
        usable.append(train_batch)
    if len(usable) < len(stored):
        log.warning("closings from batch %d on are decided again: %s", stored[len(usable)].index, reason)
        store.replace_train_batches(usable)
    for train_batch in usable:
        if train_batch.index >= index:
            train_batch.examples = store.examples(train_batch.index)
    return {train_batch.index: train_batch for train_batch in usable if train_batch.index >= index - 1}
