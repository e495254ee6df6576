"""The ideas of a run as its figures see them: one row a proposal, with what came of it and whom it was shown.

`rows_of` reads a whole run from its records; `LiveRows` reads, of a buffer that is being written, only the steps that
are asked for, so that a step costs the same in a run's first hour and in its last.  Proposals without an outcome and
what was `lost` have no row: they say nothing of the ideator.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from ideator_rl.experiment import LOST, RUNNING, SUCCEEDED, Experiment
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.journal import Descent
from ideator_rl.storage.records import Run

Place = tuple[int, int, int]
"""Step, rank and position of a proposal."""


class Said(NamedTuple):
    """A proposal as the journal has it."""

    step: int
    thought: str
    idea: str
    experiment_id: str
    status: str
    reward: float | None
    metric: float | None


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

    def row(self, said: Said) -> Row:
        tree, patch = self._found.get(said.experiment_id, ("", ""))
        shown = self._parents.get((said.experiment_id, said.step), ())
        parents = frozenset(self._found[each][0] for each in shown if each in self._found) - {""}
        return Row(said.step, said.thought, said.idea, said.status, said.reward, said.metric, tree, patch, parents)


def rows_of(run: Run) -> list[Row]:
    """Every row of a run, in the order of proposal."""
    library = Library()
    library.enter(run.experiments.values(), run.lineage)
    told = (
        Said(each.step, each.thought, each.idea, each.experiment_id, each.status, each.reward, each.metric)
        for each in run.rollouts
    )
    return [library.row(said) for said in told if said.status not in (RUNNING, LOST)]


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
            sqlite3.Error: the journal cannot be read.
        """
        history, lineage = self._buffer.history, self._buffer.lineage
        descents, experiments = len(lineage), len(history)  # in this order: a descent is noted after its child
        self._library.enter(history[self._experiments : experiments], lineage[self._descents : descents])
        self._experiments, self._descents = experiments, descents
        found = self._said(step)
        running = {said.step for place, said in found.items() if said.status == RUNNING}
        new = {place: said for place, said in found.items() if said.status != RUNNING and place not in self._given}
        self._open = min(running, default=step + 1)
        self._given = {place for place in self._given | set(new) if place[0] >= self._open}
        return [self._library.row(said) for said in new.values() if said.status != LOST]

    def running(self, step: int) -> int:
        """How many proposals up to a step have no outcome yet; reads none of them."""
        query = "select count(*) from rollouts where step between ? and ? and created >= ? and status = ?"
        with self._journal() as db:
            return int(db.execute(query, (self._open, step, self._since, RUNNING)).fetchone()[0])

    def last_step(self) -> int:
        """The last step that was proposed; −1 for none."""
        with self._journal() as db:
            return int(db.execute("select coalesce(max(step), -1) from rollouts").fetchone()[0])

    def _journal(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(f"{self._buffer.journal_path.absolute().as_uri()}?mode=ro", uri=True))

    def _said(self, step: int) -> dict[Place, Said]:
        with self._journal() as db:
            found = db.execute(
                "select step, rank, position, thought, idea, coalesce(experiment_id, ''), status, reward, metric "
                "from rollouts where step between ? and ? and created >= ? order by step, rank, position",
                (self._open, step, self._since),
            ).fetchall()
        return {(row[0], row[1], row[2]): Said(row[0], *row[3:]) for row in found}
