"""The ideas of a run as rows for its diversity figures: one row for each proposal whose outcome is known.

`rows_of_run` reads a whole run from its records.  `LiveRows` reads only the requested steps of a buffer that is being
written, so that a step costs the same in a run's first hour and in its last.  Proposals without an outcome and lost
ones have no row: they carry no information about the ideator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ideator_rl.experiment import LOST, RUNNING, SUCCEEDED, Experiment
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.journal_reader import Descent, JournalReader, Rollout
from ideator_rl.storage.run_reader import Run

RolloutKey = tuple[int, int, int]
"""Step, rank and position of a proposal."""


@dataclass(frozen=True)
class Row:
    """One proposal whose outcome is known."""

    step: int
    thought: str
    """Empty for a completion without an idea, whatever its text."""
    idea: str
    """In the form that `parse_idea` reads; empty for a completion without an idea."""
    status: str
    reward: float | None
    """Reward of its experiment, on the execution reward's scale."""
    metric: float | None
    tree: str = ""
    """SHA-256 of the resulting codebase; empty if there is none."""
    patch: str = ""
    parents: frozenset[str] = frozenset()
    """Trees of the ideas that its prompt showed; its own is among them if it copied one."""

    @property
    def succeeded(self) -> bool:
        return self.status == SUCCEEDED


class _ExperimentIndex:
    """Codebases and parents by experiment id, filled from append-only lists."""

    def __init__(self) -> None:
        self._codebases: dict[str, tuple[str, str]] = {}
        """Tree and patch."""
        self._parents: dict[tuple[str, int], set[str]] = {}
        """Experiment ids, by child and step."""

    def add(self, experiments: Iterable[Experiment], lineage: Iterable[Descent]) -> None:
        for record in experiments:
            self._codebases[record.id] = record.tree, record.patch
        for child, parents, step in lineage:
            self._parents.setdefault((child, step), set()).update(parents)

    def row(self, rollout: Rollout) -> Row:
        tree, patch = self._codebases.get(rollout.experiment_id, ("", ""))
        parents = self._parents.get((rollout.experiment_id, rollout.step), ())
        return Row(
            step=rollout.step,
            thought=rollout.thought,
            idea=rollout.idea,
            status=rollout.status,
            reward=rollout.reward,
            metric=rollout.metric,
            tree=tree,
            patch=patch,
            parents=frozenset(self._codebases[id][0] for id in parents if id in self._codebases) - {""},
        )


def rows_of_run(run: Run) -> list[Row]:
    """Every row of a run, in the order of proposal."""
    index = _ExperimentIndex()
    index.add(run.experiments.values(), run.lineage)
    return [index.row(rollout) for rollout in run.rollouts if rollout.status not in (RUNNING, LOST)]


class LiveRows:
    """The rows of an open buffer, each returned once.

    Args:
        since: Unix seconds; earlier proposals belong to another run, whose journal this one continues.
    """

    def __init__(self, buffer: RewardBuffer, since: float = 0.0):
        self._buffer, self._index, self._since = buffer, _ExperimentIndex(), since
        self._experiments = self._descents = 0
        """How many experiments and descents of the buffer are in the index."""
        self._open_step, self._returned = 0, set[RolloutKey]()
        """The first step with proposals to come, and the rows of it and later steps that were returned."""

    def new_rows(self, step: int) -> list[Row]:
        """The rows of the steps up to this one that have an outcome by now and were not returned before.

        A late row is returned by the first call after its outcome, under its own step.

        Raises:
            JournalError: the journal cannot be read.
        """
        history, lineage = self._buffer.history, self._buffer.lineage
        # Lineage first: a descent is appended after its child, which the history read next then holds.
        descents, experiments = len(lineage), len(history)
        self._index.add(history[self._experiments : experiments], lineage[self._descents : descents])
        self._experiments, self._descents = experiments, descents
        with self._journal() as journal:
            rollouts = journal.rollouts(self._open_step, step, self._since)
        running_steps = {rollout.step for rollout in rollouts if rollout.status == RUNNING}
        settled = {(r.step, r.rank, r.position): r for r in rollouts if r.status != RUNNING}
        new = {key: rollout for key, rollout in settled.items() if key not in self._returned}
        # Steps before the first one that still runs are complete: they are not read again.
        self._open_step = min(running_steps, default=step + 1)
        self._returned = {key for key in self._returned | set(new) if key[0] >= self._open_step}
        return [self._index.row(rollout) for rollout in new.values() if rollout.status != LOST]

    def count_running(self, step: int) -> int:
        """How many proposals up to this step have no outcome yet."""
        with self._journal() as journal:
            return journal.running(self._open_step, step, self._since)

    def last_step(self) -> int:
        """The last step with a proposal; −1 for none."""
        with self._journal() as journal:
            return journal.last_step()

    def _journal(self) -> JournalReader:
        """A reader for one call: calls come from several threads."""
        return JournalReader(self._buffer.journal.path)
