"""Reads a run's journal: for a report, after a kill, or while another process writes it.

Guarantees: nothing is written; rows come in the order of step, rank and position, experiments and lineage in the order
they were first entered.  A journal of an earlier version is read as far as it has the tables.
"""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import parse_json
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import FINAL, LOST, RUNNING, Experiment, require_finite

JOURNAL = "buffer.sqlite"
"""Its file in a run's folder."""
TIMEOUT_SECONDS = 30
"""The longest wait for another process that has locked the file."""
LAST_STEP = 1 << 62


Descent = tuple[str, tuple[str, ...], int]
"""Experiment, its parents (experiments whose ideas its prompt showed), and the step it was proposed in."""


class JournalError(IdeatorError):
    """The journal cannot be opened, read or written."""


@dataclass(frozen=True)
class Rollout:
    """One completion of the ideator and its outcome, as a row of the journal."""

    step: int
    position: int
    completion: str
    thought: str
    """Empty for a completion without an idea."""
    idea: str
    """In the form that `parse_idea` reads; empty for a completion without an idea."""
    experiment_id: str
    """Empty while the outcome is not known."""
    status: str
    reward: float | None
    """Of its experiment, on the execution reward's scale."""
    metric: float | None
    created: float | None = None
    """Unix seconds, when it was proposed."""
    finished: float | None = None
    """Unix seconds, when its outcome was entered; None while it is not known."""
    rank: int = 0


class JournalQueries(ABC):
    """What can be asked of a journal, open to be written or not."""

    @abstractmethod
    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Rows, for the modules of this package."""

    def rollouts(self, first_step: int = 0, last_step: int = LAST_STEP, since: float | None = None) -> list[Rollout]:
        """The rows of the steps from `first_step` to `last_step`.

        Args:
            since: Unix seconds; rows that were proposed before are left out.
        """
        rows = self.read(
            "select step, position, completion, thought, idea, coalesce(experiment_id, ''), status, reward, "
            "metric, created, finished, rank from rollouts where step between ? and ? "
            "and (? is null or created >= ?) order by step, rank, position",
            (first_step, last_step, since, since),
        )
        return [_checked(Rollout(*row)) for row in rows]

    def running(self, first_step: int, last_step: int, since: float) -> int:
        """How many rows of these steps have no outcome yet."""
        query = "select count(*) from rollouts where step between ? and ? and created >= ? and status = ?"
        return int(self.read(query, (first_step, last_step, since, RUNNING))[0][0])

    def last_step(self) -> int:
        """The last step that was proposed; −1 for none."""
        return int(self.read("select coalesce(max(step), -1) from rollouts")[0][0])

    def rollout_count(self) -> int:
        return int(self.read("select count(*) from rollouts")[0][0])

    def proposed_experiments(self) -> set[str]:
        """Ids of the experiments that proposals led to, without lost ones."""
        query = f"select distinct experiment_id from rollouts where experiment_id is not null and status != '{LOST}'"
        return {id for (id,) in self.read(query)}

    def ideas(self, before: int | None = None) -> list[tuple[int, str]]:
        """Step and text of every proposed idea, in order, whatever its outcome.

        Args:
            before: only of the steps before this one.
        """
        query = "select step, idea from rollouts where idea != '' and step < ? order by step, rank, position"
        return self.read(query, (LAST_STEP if before is None else before,))

    def completion_of(self, experiment_id: str) -> str | None:
        """The whole completion, with its thought, that first led to an experiment; None if none of this run did."""
        query = "select completion from rollouts where experiment_id=? order by step, rank, position limit 1"
        return next((text for (text,) in self.read(query, (experiment_id,))), None)

    def experiments(self) -> list[Experiment]:
        """Every record, in the order it first became known; one that was lost at first, since it no longer is.

        Raises:
            JournalError: a record is damaged.
        """
        rows = self.read("select record_json from experiments order by rowid")
        with _refuse_damage("A record"):
            records = [Experiment.from_json(text) for (text,) in rows]
            for record in records:
                record.check()
        return records

    def lineage(self) -> list[Descent]:
        """Every descent, in the order written; none in a journal from before prompts showed past ideas."""
        if not self.has_table("lineage"):
            return []
        rows = self.read("select child, parents_json, step from lineage order by rowid")
        return [(child, parse_parents(parents), step) for child, parents, step in rows]

    def has_table(self, name: str) -> bool:
        return bool(self.read("select 1 from sqlite_master where name=?", (name,)))


def parse_parents(text: str) -> tuple[str, ...]:
    """Ids of experiments in a row of the journal.

    Raises:
        JournalError: the row is damaged.
    """
    with _refuse_damage("A list of parents"):
        parents = parse_json(text, "it")
        if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
            raise ValueError(f"{text[:60]!r} is no list of ids")
    return tuple(parents)


def _checked(rollout: Rollout) -> Rollout:
    """SQLite stores any type in any column: what the rest of the library relies on is looked at here."""
    texts = (rollout.completion, rollout.thought, rollout.idea, rollout.experiment_id, rollout.status)
    numbers = (rollout.reward, rollout.metric, rollout.created, rollout.finished)
    with _refuse_damage("A row"):
        if not all(isinstance(text, str) for text in texts) or rollout.status not in (*FINAL, LOST, RUNNING):
            raise ValueError(f"its status is {rollout.status!r}, or a text is none")
        if not all(isinstance(number, int) for number in (rollout.step, rollout.position, rollout.rank)):
            raise ValueError("its step, position or rank is no whole number")
        require_finite(number for number in numbers if number is not None)
    return rollout


@contextmanager
def _refuse_damage(part: str) -> Iterator[None]:
    """
    Raises:
        JournalError: a part of the journal is not as it was written.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise JournalError(
            f"{part} in the run's journal is damaged: {type(error).__name__}: {str(error)[:200]}. Restore the journal "
            "from a copy; the records are in the run's bucket too."
        ) from error


class JournalReader(JournalQueries):
    """A journal opened to be read only.

    Raises:
        JournalError: here and in `read`: the file is no journal, or cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        # A reader, too, writes the two files that SQLite keeps next to a journal.  Where it may not, and no writer has
        # left one, nothing changes the journal.
        is_closed = not os.path.exists(f"{path}-wal") and not os.access(path.parent, os.W_OK)
        uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if is_closed else ''}"
        with self._reading():
            self._db = sqlite3.connect(uri, uri=True, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._reading():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(
                f"The journal {self.path} cannot be read: {error}. Expected one that a run wrote; the records are in "
                "the run's bucket too."
            ) from error
