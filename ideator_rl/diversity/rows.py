"""The ideas of a run as its figures see them: one row a proposal, with what came of it and whom it was shown.

`rows_of` reads a whole run from its records; `LiveRows` reads, of a buffer that is being written, only the steps that
are asked for, so that a step costs the same in a run's first hour and in its last.  Proposals without an outcome and
what was `lost` have no row: they say nothing of the ideator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ideator_rl.experiment import LOST, RUNNING, SUCCEEDED, Experiment
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.journal import Descent
from ideator_rl.storage.journal_reader import JournalReader, Rollout
from ideator_rl.storage.records import Run

Place = tuple[int, int, int]
"""Step, rank and position of a proposal."""


@dataclass(frozen=True)
class Row:
    """One proposal whose outcome is known."""

    step: int
    thought: str
    """Empty for a completion without an idea, whatever it said."""
    idea: str
    """In the form that `parse_idea` reads; empty for a completion without an idea."""
    status: str
    reward: float | None
    """Of its experiment, on the execution reward's scale."""
    metric: float | None
    tree: str = ""
    """SHA-256 of the resulting codebase; empty where there is none."""
    patch: str = ""
    parents: frozenset[str] = frozenset()
    """Trees of the ideas that its prompt showed; its own may be among them, if it copied one."""

    @property
    def succeeded(self) -> bool:
        return self.status == SUCCEEDED


class Library:
    """Experiments by id, and who was shown whom; filled from lists that are only ever appended to."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, str]] = {}
        self._parents: dict[tuple[str, int], set[str]] = {}

    def enter(self, experiments: Iterable[Experiment], lineage: Iterable[Descent]) -> None:
        for record in experiments:
            self._found[record.id] = record.tree, record.patch
        for child, parents, step in lineage:
            self._parents.setdefault((child, step), set()).update(parents)

    def row(self, rollout: Rollout) -> Row:
        tree, patch = self._found.get(rollout.experiment_id, ("", ""))
        shown = self._parents.get((rollout.experiment_id, rollout.step), ())
        return Row(
            step=rollout.step,
            thought=rollout.thought,
            idea=rollout.idea,
            status=rollout.status,
            reward=rollout.reward,
            metric=rollout.metric,
            tree=tree,
            patch=patch,
            parents=frozenset(self._found[each][0] for each in shown if each in self._found) - {""},
        )


def rows_of(run: Run) -> list[Row]:
    """Every row of a run, in the order of proposal."""
    library = Library()
    library.enter(run.experiments.values(), run.lineage)
    return [library.row(rollout) for rollout in run.rollouts if rollout.status not in (RUNNING, LOST)]


class LiveRows:
    """Rows of an open buffer, each given once.

    Args:
        since: Unix seconds; what was proposed before is another run's, whose journal this one goes on with.
    """

    def __init__(self, buffer: RewardBuffer, since: float = 0.0):
        self._buffer, self._library, self._since = buffer, Library(), since
        self._experiments = self._descents = 0
        self._open, self._given = 0, set[Place]()
        """Steps before the first are closed; of the others, which rows were given."""

    def upto(self, step: int) -> list[Row]:
        """Rows of the steps up to this one whose outcome is known by now, and which were not given before.

        Late ones come with the rows of the step that is asked for when they are known, under their own step.

        Raises:
            JournalError: the journal cannot be read.
        """
        history, lineage = self._buffer.history, self._buffer.lineage
        descents, experiments = len(lineage), len(history)  # in this order: a descent is noted after its child
        self._library.enter(history[self._experiments : experiments], lineage[self._descents : descents])
        self._experiments, self._descents = experiments, descents
        with self._journal() as journal:
            rollouts = journal.rollouts(self._open, step, self._since)
        running = {rollout.step for rollout in rollouts if rollout.status == RUNNING}
        known = {(each.step, each.rank, each.position): each for each in rollouts if each.status != RUNNING}
        new = {place: rollout for place, rollout in known.items() if place not in self._given}
        self._open = min(running, default=step + 1)
        self._given = {place for place in self._given | set(new) if place[0] >= self._open}
        return [self._library.row(rollout) for rollout in new.values() if rollout.status != LOST]

    def running(self, step: int) -> int:
        """How many proposals up to a step have no outcome yet; reads none of them."""
        with self._journal() as journal:
            return journal.running(self._open, step, self._since)

    def last_step(self) -> int:
        """The last step that was proposed; −1 for none."""
        with self._journal() as journal:
            return journal.last_step()

    def _journal(self) -> JournalReader:
        """A reader for one call: calls come from several threads."""
        return JournalReader(self._buffer.journal.path)
