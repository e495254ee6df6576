"""The reward buffer: completions in, experiments with rewards out; shared by RL and search.

Guarantees: one record a completion, in order; what is already known is replayed, not run again; every proposal is in
the journal (SQLite, `buffer.sqlite`) before anything is submitted for it, and its outcome as soon as it is known.  The
journal is an index: the truth is the bucket.  Asking again for the same step and position replaces that row, so a
resumed run leaves no double rows.

An experiment belongs to the buffer, not to who waits for it: whoever stops waiting (a quorum, a deadline) leaves it
running, and its outcome is entered all the same, as long as the event loop lives.  What a dead process left without an
outcome is taken up by `reattach`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as config_dataclass

from ideator_rl.config.base import Count, read_config
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.experiment import OWN_FAILURES, SUCCEEDED, Experiment
from ideator_rl.files import cache_root
from ideator_rl.storage.journal import JOURNAL, Descent, Journal, Note, Proposal, sections

log = logging.getLogger(__name__)

REQUIRED_COLUMNS = ("environment", "preset", "bucket")
"""Columns that a dataset must have, so that stock TRL can run experiments on its rows."""
BASELINE = "baseline"
"""Implementer of the baseline's records: no idea led to them."""

Running = asyncio.Task[tuple[int, Experiment]]
"""Gives a proposal's position and its record."""


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


class BatchOutcomes:
    """The records of one batch, by row: entered by the reward function that runs the experiments, read by the others.

    Belongs to one event loop; only coroutines on that loop may use it.
    """

    def __init__(self, rows: int):
        loop = asyncio.get_running_loop()
        self._records: list[asyncio.Future[Experiment | None]] = [loop.create_future() for _ in range(rows)]

    def enter(self, row: int, record: Experiment) -> None:
        if not self._records[row].done():
            self._records[row].set_result(record)

    def end(self) -> None:
        """No further record will come: rows without one get None."""
        for future in self._records:
            if not future.done():
                future.set_result(None)

    async def as_completed(self) -> AsyncIterator[tuple[int, Experiment | None]]:
        """Every row with its record, as soon as it is known; None where the function that runs it has failed."""
        waiting = {asyncio.ensure_future(self._wait(row)) for row in range(len(self._records))}
        try:
            while waiting:
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    yield task.result()
        finally:
            for task in waiting:
                task.cancel()

    async def _wait(self, row: int) -> tuple[int, Experiment | None]:
        return row, await asyncio.shield(self._records[row])


@dataclass(frozen=True)
class RewardContext:
    """What this library's trainer hands to reward functions with a batch, beyond TRL's arguments."""

    buffer: RewardBuffer
    outcomes: BatchOutcomes | None
    """Of the batch; None where no reward function of the run enters them."""


class RewardBuffer:
    def __init__(self, config: BufferConfig):
        self.config = config
        self.executor = Executor(config)
        self.journal = Journal(_journal_path(config))
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._best: Experiment | None = None
        self._seen: set[str] = set()
        self._owners: dict[tuple[int, int], Proposal] = {}
        """Who will settle a row of the journal: the last one that was begun for it."""
        self._outstanding: set[Running] = set()
        known = [replace(record, log="") for record in self.journal.experiments()]
        self.history: list[Experiment] = [record for record in known if record.implementer != BASELINE]
        """Every record of this run but baselines, in the order it became known; only ever appended to.  Without logs,
        which would fill the memory of a run of weeks."""
        self.baselines: list[Experiment] = [record for record in known if record.implementer == BASELINE]
        """Records of the unchanged baseline; one may be there twice.  Only ever appended to."""
        self.lineage: list[Descent] = self.journal.lineage()
        """Which experiments were proposed in answer to which; only ever appended to."""
        self.elsewhere: list[Experiment] = []
        """Records of other runs that this one knows from the start; to be set before its archive is asked for."""

    async def score(self, completions: list[str], *, step: int | None = None) -> list[Experiment]:
        """Run the ideas in these completions; one record each, in order."""
        records: list[Experiment | None] = [None] * len(completions)
        async for index, record in self.as_completed(completions, step=step):
            records[index] = record
        return [record for record in records if record is not None]

    async def as_completed(
        self, completions: list[str], *, step: int | None = None
    ) -> AsyncIterator[tuple[int, Experiment]]:
        """The same, each record with its index as soon as it is known."""
        step = self.journal.next_step() if step is None else step
        first, begun = self.propose(completions, step)
        tasks = list(begun.values())
        unsaid = set(range(len(tasks)))
        try:
            for finished in asyncio.as_completed(tasks):
                position, record = await finished
                unsaid.discard(position - first)
                yield position - first, record
        finally:
            for index in unsaid:
                tasks[index].add_done_callback(_say_failure)

    def propose(
        self,
        completions: list[str],
        step: int,
        refused: Mapping[int, Experiment] | None = None,
        note: Note | None = None,
    ) -> tuple[int, dict[int, Running]]:
        """Write proposals into the journal, and begin to run them in the background.

        Args:
            refused: records of completions that are not to be run, by index.
            note: see `Journal.propose`.

        Returns:
            the position of the first, and by index who will give position and record.
        """
        completions = [text.encode("utf-8", "replace").decode() for text in completions]  # half surrogate pairs
        replicates, refused = _replicates(completions, self.config.replicates), refused or {}
        first = self.journal.propose(step, completions, replicates, refused, note)
        for record in refused.values():
            self._note(record)
        proposals = enumerate(zip(completions, replicates, strict=True))
        return first, {
            index: self._begin(Proposal(step, first + index, text, replicate))
            for index, (text, replicate) in proposals
            if index not in refused
        }

    def reattach(self, exclude_steps: Collection[int] = frozenset()) -> int:
        """Score again, in the background, what an earlier process proposed and left without an outcome.

        Everything takes its old road: a result in the bucket is replayed, what somebody is running is waited for, and
        only what nobody has run is run.  To be called on the event loop that is to do it.

        Args:
            exclude_steps: steps that the caller proposes again itself.

        Returns:
            how many were taken up.
        """
        found = self.take_up(exclude_steps)
        for task in found.values():
            task.add_done_callback(_say_failure)
        return len(found)

    def take_up(self, exclude_steps: Collection[int] = frozenset()) -> dict[tuple[int, int], Running]:
        """The same for who wants the outcomes: by step and position, who will give them."""
        places = ((each.step, each.position, each) for each in self.journal.unsettled(exclude_steps))
        return {
            (step, position): self._begin(proposal)
            for step, position, proposal in places
            if (step, position) not in self._owners
        }

    async def drain(self, timeout: float | None = None) -> int:
        """Wait until everything that was proposed has its outcome, or `timeout` seconds.

        Returns:
            how many have none yet.
        """
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        while (left := self.outstanding) and time.monotonic() < until:
            await asyncio.sleep(min(0.05, max(0.0, until - time.monotonic())))
        return left

    @property
    def outstanding(self) -> int:
        """Proposals whose outcome is awaited by some event loop of this process."""
        return sum(task.get_loop().is_running() for task in list(self._outstanding))

    async def baseline(self, replicate: int = 0) -> Experiment:
        """The unchanged baseline's record."""
        record = await self.executor.baseline(replicate)
        self.record(record)
        return record

    async def score_patch(self, patch: str, replicate: int = 0) -> Experiment:
        """The record of a patch written by hand."""
        record = await self.executor.execute_patch(patch, replicate)
        self.journal.record(record)
        return record

    async def again(self, id: str, replicate: int) -> Experiment:
        """The record of an experiment's codebase under another replicate's seed."""
        record = await self.executor.rerun(id, replicate)
        self.journal.record(record)
        return record

    def record(self, record: Experiment) -> None:
        """Enter a record that no completion asked for, such as a baseline's."""
        self.journal.record(record)
        if record.implementer == BASELINE:
            self.baselines.append(record)

    def descend_all(self, descents: Sequence[Descent]) -> None:
        """Note that experiments were proposed in answer to the ideas of others, in one write."""
        self.journal.descend_all(descents)
        self.lineage += descents

    def counts(self) -> dict[str, Any]:
        """Live figures, for progress: proposed, running, waiting, done, failed, reused, lost, distinct, best."""
        with self._lock:
            figures: dict[str, Any] = {
                key: self._counts[key] for key in ("proposed", "done", "failed", "reused", "lost")
            }
            figures["distinct"] = len(self._seen)
            figures["best"] = self._best.metric["value"] if self._best and self._best.metric else None
        waiting = len(self.executor.scheduler.waiting)
        figures["running"] = min(self.executor.scheduler.started, waiting)
        figures["waiting"] = waiting - figures["running"]
        return figures

    @property
    def best(self) -> Experiment | None:
        """The best record that this process has seen."""
        return self._best

    def close(self) -> None:
        self.journal.close()
        _open.pop(self.config, None)

    def _begin(self, proposal: Proposal) -> Running:
        with self._lock:
            self._counts["proposed"] += 1
            self._owners[proposal.step, proposal.position] = proposal
        task = asyncio.create_task(self._one(proposal))
        self._outstanding.add(task)
        task.add_done_callback(partial(self._ended, proposal))
        return task

    def _ended(self, proposal: Proposal, task: Running) -> None:
        self._outstanding.discard(task)
        if self._owners.get((proposal.step, proposal.position)) is proposal:
            del self._owners[proposal.step, proposal.position]

    async def _one(self, proposal: Proposal) -> tuple[int, Experiment]:
        record = await self.executor.execute(proposal.completion, proposal.replicate)
        place = (proposal.step, proposal.position)
        if self._owners.get(place) is proposal:
            await self.journal.enter(*place, record)
        else:
            self.journal.record(record)  # its row was given to another completion meanwhile
        self._note(record)
        return proposal.position, record

    def _note(self, record: Experiment) -> None:
        metric = self.executor.environment.metric
        with self._lock:
            self.history.append(replace(record, log=""))
            self._counts["done"] += 1
            self._counts["failed"] += record.status in OWN_FAILURES
            self._counts["lost"] += record.status not in (*OWN_FAILURES, SUCCEEDED)
            self._counts["reused"] += record.replayed or record.id in self._seen
            if record.tree:
                self._seen.add(record.id)
            if record.status == SUCCEEDED and record.metric:
                known = self._best.metric["value"] if self._best and self._best.metric else None
                if known is None or metric.better(record.metric["value"], known):
                    self._best = record


def _say_failure(task: Running) -> None:
    """Of a proposal that nobody waits for any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("An outcome that nobody waits for was not entered: %s", error)


_open: dict[BufferConfig, RewardBuffer] = {}


def open_buffer(config: BufferConfig) -> RewardBuffer:
    """The buffer for a configuration; equal configurations share one in a process."""
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
    values = ", ".join(f"{name}={getattr(config, name)!r}" for name in JOURNAL_KEYS)
    name = hashlib.sha256(f"BufferConfig({values})".encode()).hexdigest()[:16]
    return cache_root() / "buffers" / f"{name}.sqlite"


def _replicates(completions: list[str], replicates: int) -> list[int]:
    """Which replicate each completion asks for: equal ideas of one call take turns."""
    if replicates == 1:
        return [0] * len(completions)
    seen: Counter[str] = Counter()
    out = []
    for text in completions:
        key = sections(text)[1] or text
        out.append(seen[key] % replicates)
        seen[key] += 1
    return out
