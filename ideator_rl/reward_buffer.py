"""The reward buffer: completions in, experiments with rewards out; shared by RL and search.

Guarantees:
- one record for each completion, in order; what is known already is replayed, not run again
- every proposal is in the journal (SQLite, `buffer.sqlite`) before anything is submitted for it, and its outcome as
  soon as it is known
- a step that is proposed again replaces its rows, so that a resumed run leaves no double rows
- an experiment belongs to the buffer, not to its caller: when a caller stops waiting (a quorum, a deadline), the
  experiment runs on, and its outcome is entered as long as the event loop lives
- proposals that a dead process left without an outcome are run by `reattach` or `resume`

The journal is an index: the truth is the bucket.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as config_dataclass

from ideator_rl.config.base import Count, read_config
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.experiment import OWN_FAILURES, SUCCEEDED, Experiment
from ideator_rl.files import cache_root
from ideator_rl.reward import BatchOutcomes
from ideator_rl.storage.idea_context import Base, IdeaContext
from ideator_rl.storage.journal import Journal, Note, Proposal, sections
from ideator_rl.storage.journal_reader import JOURNAL, Descent
from ideator_rl.text.display import encodable

log = logging.getLogger(__name__)

REQUIRED_COLUMNS = ("environment", "preset", "bucket")
"""Columns that a dataset must have, so that stock TRL can run experiments on its rows."""

OLD_ATTRIBUTES = {
    "again": "rerun",
    "completion_of": "journal.completion_of",
    "elsewhere": "imported",
    "ideas": "journal.ideas",
    "journal_path": "journal.path",
    "mark": "journal.mark",
    "take_up": "resume",
}
"""Attributes of a buffer in 0.1.0, and those of today."""

Running = asyncio.Task[tuple[int, Experiment]]
"""A proposal that runs; its result is the proposal's position and its record."""


@config_dataclass(frozen=True)
class BufferConfig(ExecutorConfig):
    """An executor's configuration, and the run it works for."""

    replicates: Count = 1
    """Runs, with different seeds, that equal ideas of one call are spread over."""

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> BufferConfig:
        """The configuration in the columns of a dataset's row; other columns and None are left out.

        Raises:
            ConfigError: a value of a wrong type or out of its range.
        """
        names = [field.name for field in fields(cls)]
        values = {name: row[name] for name in names if row.get(name) is not None}
        return read_config(cls, values, "A row of the dataset has")

    def columns(self) -> dict[str, Any]:
        """The columns that `of_row` reads; what is empty is left out."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class RewardContext:
    """What this library's trainer hands to reward functions with a batch, beyond TRL's arguments."""

    buffer: RewardBuffer
    outcomes: BatchOutcomes | None
    """Of the batch; None where no reward function of the run enters them."""


class RewardBuffer:
    """An open buffer; coroutines of any number of event loops may use it.

    Raises:
        IdeatorError: the environment, the bucket, the sandbox or the journal is not usable.
    """

    def __init__(self, config: BufferConfig):
        self.config = config
        self.executor = Executor(config)
        self.journal = Journal(_journal_path(config))
        # Event loops write what follows, and progress lines read it from their thread: both under the lock.
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._best: Experiment | None = None
        self._seen_ids: set[str] = set()
        self._owners: dict[tuple[int, int], Proposal] = {}
        """The proposal that may settle a row of the journal, by step and position: the last one started for it."""
        self._outstanding: set[Running] = set()
        records = [replace(record, log="") for record in self.journal.experiments()]
        self.history: list[Experiment] = [record for record in records if not record.is_baseline]
        """Every record of this run but baselines, in the order it became known; only ever appended to.  Without logs,
        which would fill the memory of a run of weeks."""
        self.baselines: list[Experiment] = [record for record in records if record.is_baseline]
        """Records of the unchanged baseline, possibly repeated.  Only ever appended to."""
        self.lineage: list[Descent] = self.journal.lineage()
        """Which experiments were proposed in answer to which; only ever appended to."""
        self.debugged_ids: set[str] = {record.id for record in self.history if record.debugged}
        """Experiments that crashed and were mended by the implementer; their ideas have the records of later ones."""
        self.executor.on_debugged = self._enter_debugged
        self.imported: list[Experiment] = []
        """Records of other runs that count as known from the start; to be set before the archive is read."""

    async def score(self, completions: list[str], *, step: int | None = None) -> list[Experiment]:
        """Run the ideas in these completions; one record each, in order.

        Args:
            step: names the batch in the journal; the next one if None.

        Raises:
            JournalError: the journal cannot be written.
        """
        records: list[Experiment | None] = [None] * len(completions)
        async for index, record in self.as_completed(completions, step=step):
            records[index] = record
        return [record for record in records if record is not None]

    async def as_completed(
        self, completions: list[str], *, step: int | None = None, contexts: Mapping[int, IdeaContext] | None = None
    ) -> AsyncIterator[tuple[int, Experiment]]:
        """As `score`, but yields each record with its index as soon as it is known; `contexts` as for `propose`."""
        step = self.journal.next_step() if step is None else step
        first, tasks_by_index = self.propose(completions, step, contexts=contexts)
        tasks = list(tasks_by_index.values())
        waiting = set(range(len(tasks)))
        try:
            for completed in asyncio.as_completed(tasks):
                position, record = await completed
                waiting.discard(position - first)
                yield position - first, record
        finally:
            # The caller has stopped waiting: nothing else would report that an outcome could not be entered.
            for index in waiting:
                tasks[index].add_done_callback(_log_failure)

    def propose(
        self,
        completions: list[str],
        step: int,
        refused: Mapping[int, Experiment] | None = None,
        note: Note | None = None,
        contexts: Mapping[int, IdeaContext] | None = None,
    ) -> tuple[int, dict[int, Running]]:
        """Write proposals into the journal, and start to run them in the background.

        Args:
            refused: records of completions that are not to be run, by index.
            note: see `Journal.propose`.
            contexts: the prompts of completions and the codebases that they change, by index.

        Returns:
            the position of the first, and the tasks of those that run, by index.
        """
        # SQLite takes no half surrogate pairs.
        completions = [encodable(text) for text in completions]
        refused, contexts = refused or {}, contexts or {}
        bases = {index: context.base for index, context in contexts.items()}
        replicates = _replicates(completions, self.config.replicates, bases)
        first = self.journal.propose(step, completions, replicates, refused, note, contexts)
        for record in refused.values():
            self._remember(record)
        return first, {
            index: self._start(Proposal(step, first + index, text, replicate, bases.get(index)))
            for index, (text, replicate) in enumerate(zip(completions, replicates, strict=True))
            if index not in refused
        }

    def reattach(self, exclude_steps: Collection[int] = frozenset()) -> int:
        """Run, in the background, the proposals that an earlier process left without an outcome.

        A result in the bucket is replayed, a running experiment is waited for, and only the rest is run.  Must be
        called on the event loop that is to run them.

        Args:
            exclude_steps: steps that the caller proposes again itself.

        Returns:
            how many were started.
        """
        tasks = self.resume(exclude_steps)
        for task in tasks.values():
            task.add_done_callback(_log_failure)
        return len(tasks)

    def resume(self, exclude_steps: Collection[int] = frozenset()) -> dict[tuple[int, int], Running]:
        """As `reattach`, for callers that await the outcomes: the tasks by step and position."""
        return {
            (proposal.step, proposal.position): self._start(proposal)
            for proposal in self.journal.unsettled(exclude_steps)
            if (proposal.step, proposal.position) not in self._owners
        }

    async def drain(self, timeout: float | None = None) -> int:
        """Wait until every proposal has its outcome, or `timeout` seconds.

        Returns:
            how many have none yet.
        """
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while (count := self.outstanding) and time.monotonic() < deadline:
            await asyncio.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
        return count

    @property
    def outstanding(self) -> int:
        """Proposals without an outcome, on the event loops of this process that run."""
        return sum(task.get_loop().is_running() for task in list(self._outstanding))

    async def baseline(self, replicate: int = 0) -> Experiment:
        """Run the unchanged baseline."""
        record = await self.executor.baseline(replicate)
        self.record(record)
        return record

    async def score_patch(self, patch: str, replicate: int = 0) -> Experiment:
        """Run a patch that was written by hand."""
        record = await self.executor.execute_patch(patch, replicate)
        self.journal.record(record)
        return record

    async def rerun(self, id: str, replicate: int) -> Experiment:
        """Run an experiment's codebase under another replicate's seed."""
        record = await self.executor.rerun(id, replicate)
        self.journal.record(record)
        return record

    def record(self, record: Experiment) -> None:
        """Enter a record that no completion asked for, such as a baseline's."""
        self.journal.record(record)
        if record.is_baseline:
            self.baselines.append(record)

    def descend_all(self, descents: Sequence[Descent]) -> None:
        """Enter which experiments were proposed in answer to the ideas of which others."""
        self.journal.descend_all(descents)
        self.lineage += descents

    def counts(self) -> dict[str, Any]:
        """Live figures, for progress: how many ideas or experiments are in each state, and the best metric."""
        with self._lock:
            figures: dict[str, Any] = {
                key: self._counts[key] for key in ("proposed", "done", "failed", "reused", "lost")
            }
            figures["distinct"] = len(self._seen_ids)
            figures["debugged"] = len(self.debugged_ids)
            figures["best"] = self._best.metric["value"] if self._best and self._best.metric else None
        waiting = len(self.executor.scheduler.without_record)
        figures["running"] = min(self.executor.scheduler.running_count, waiting)
        figures["waiting"] = waiting - figures["running"]
        return figures

    @property
    def best(self) -> Experiment | None:
        """The best record that became known in this process."""
        return self._best

    def close(self) -> None:
        """Write the outcomes that are known, and close the journal.  What runs on can no longer be entered."""
        self.journal.close()
        self.executor.close()
        _open.pop(self.config, None)

    def __getattr__(self, name: str) -> Any:
        if name not in OLD_ATTRIBUTES:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        warnings.warn(f"RewardBuffer.{name} is now {OLD_ATTRIBUTES[name]}.", DeprecationWarning, stacklevel=2)
        return attrgetter(OLD_ATTRIBUTES[name])(self)

    def _start(self, proposal: Proposal) -> Running:
        with self._lock:
            self._counts["proposed"] += 1
            self._owners[proposal.step, proposal.position] = proposal
        task = asyncio.create_task(self._run(proposal))
        self._outstanding.add(task)
        task.add_done_callback(partial(self._end, proposal))
        return task

    def _end(self, proposal: Proposal, task: Running) -> None:
        self._outstanding.discard(task)
        if self._owners.get((proposal.step, proposal.position)) is proposal:
            del self._owners[proposal.step, proposal.position]

    async def _run(self, proposal: Proposal) -> tuple[int, Experiment]:
        inherited = {"base": proposal.base} if proposal.base else {}
        record = await self.executor.execute(proposal.completion, proposal.replicate, **inherited)
        row = (proposal.step, proposal.position)
        if self._owners.get(row) is proposal:
            patch = self.executor.patch_from(proposal.base, record) if proposal.base else ""
            await self.journal.enter(*row, record, patch)
        else:
            # The step was proposed again meanwhile, and its row belongs to another completion.
            self.journal.record(record)
        self._remember(record)
        return proposal.position, record

    def _enter_debugged(self, record: Experiment) -> None:
        """Enter an experiment that crashed, before its idea runs once more."""
        self.journal.record(record)
        # A resumed proposal comes here again, and so does another idea that led to the same codebase.
        if record.id in self.debugged_ids:
            return
        with self._lock:
            self.debugged_ids.add(record.id)
            self._seen_ids.add(record.id)
            self.history.append(replace(record, log=""))

    def _remember(self, record: Experiment) -> None:
        metric = self.executor.environment.metric
        with self._lock:
            self.history.append(replace(record, log=""))
            self._counts["done"] += 1
            self._counts["failed"] += record.status in OWN_FAILURES
            self._counts["lost"] += record.status not in (*OWN_FAILURES, SUCCEEDED)
            self._counts["reused"] += record.replayed or record.id in self._seen_ids
            if record.tree:
                self._seen_ids.add(record.id)
            if record.status == SUCCEEDED and record.metric:
                best = self._best.metric["value"] if self._best and self._best.metric else None
                if best is None or metric.better(record.metric["value"], best):
                    self._best = record


def _log_failure(task: Running) -> None:
    """Report an outcome that could not be entered, of a proposal that no caller awaits any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("An outcome that no caller awaits was not entered: %s", error)


_open: dict[BufferConfig, RewardBuffer] = {}


def open_buffer(config: BufferConfig) -> RewardBuffer:
    """The buffer for a configuration; equal configurations share one in a process."""
    # One that had to stop asks nothing any more; the caller comes back because the cause was mended.
    if config in _open and _open[config].executor.losses.stop is not None:
        _open[config].close()
    if config not in _open:
        _open[config] = RewardBuffer(config)
    return _open[config]


JOURNAL_KEYS = (
    "environment", "preset", "bucket", "implementer", "slots", "isolation", "seed", "coder", "reward_transform",
    "max_usd", "max_coder_tokens", "max_gpu_hours", "run_dir", "backend", "outage_patience", "replicates",
)  # fmt: skip
"""In the order of 0.1.0: their values name the journal of a buffer without a run folder."""


def _journal_path(config: BufferConfig) -> Path:
    if config.run_dir is not None:
        return Path(config.run_dir) / JOURNAL
    # A key of a later release is part of the name only where it is set.
    keys = [*JOURNAL_KEYS, *(name for name in ("hardware", "cascade") if getattr(config, name))]
    values = ", ".join(f"{name}={getattr(config, name)!r}" for name in keys)
    name = hashlib.sha256(f"BufferConfig({values})".encode()).hexdigest()[:16]
    return cache_root() / "buffers" / f"{name}.sqlite"


def _replicates(completions: list[str], replicates: int, bases: Mapping[int, Base | None]) -> list[int]:
    """The replicate of each completion: equal ideas of one call about one codebase take turns."""
    if replicates == 1:
        return [0] * len(completions)
    counts: Counter[tuple[str, str]] = Counter()
    chosen = []
    for index, text in enumerate(completions):
        base = bases.get(index)
        idea = (sections(text)[1] or text, base.tree if base else "")
        chosen.append(counts[idea] % replicates)
        counts[idea] += 1
    return chosen
