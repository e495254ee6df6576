"""The ideas of a run as its figures see them: one row a proposal, with what came of it and whom it was shown.

`rows_of` reads a whole run from its records; `LiveRows` reads, of a buffer that is being written, only the steps that
are asked for, so that a step costs the same in a run's first hour and in its last.  Proposals without an outcome and
what was `lost` have no row: they say nothing of the ideator.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ideator_rl.diagnostics.records import Run
from ideator_rl.experiment import LOST, RUNNING, SUCCEEDED, Experiment
from ideator_rl.journal import Descent
from ideator_rl.reward_buffer import RewardBuffer


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
    """Rows of an open buffer, read from its journal by step."""

    def __init__(self, buffer: RewardBuffer):
        self._buffer, self._library = buffer, Library()
        self._experiments = self._descents = 0

    def rows(self, first: int, last: int) -> list[Row]:
        """Rows of the steps `first` to `last`, both included, whose outcome is known by now.

        Raises:
            sqlite3.Error: the journal cannot be read.
        """
        history, lineage = self._buffer.history, self._buffer.lineage
        descents, experiments = len(lineage), len(history)  # in this order: a descent is noted after its child
        self._library.enter(history[self._experiments : experiments], lineage[self._descents : descents])
        self._experiments, self._descents = experiments, descents
        return [self._library.row(said) for said in _said(self._buffer.journal_path, first, last)]


def _said(journal: Path, first: int, last: int) -> Sequence[Said]:
    with closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
        found = db.execute(
            "select step, thought, idea, coalesce(experiment_id, ''), status, reward, metric from rollouts "
            "where step between ? and ? and status not in (?, ?) order by step, rank, position",
            (first, last, RUNNING, LOST),
        ).fetchall()
    return [Said(*row) for row in found]
