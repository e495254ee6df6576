"""The journal of a run: which idea was proposed when, and what came of it, in one SQLite file.

Guarantees: a proposal is on disk before anything is submitted for it; an outcome as soon as it is known; a step that
is proposed again replaces its rows; records keep the order in which they first became known, and a step what was known
when it was first proposed.  It is an index: the truth is the bucket.  Not for network file systems.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, RUNNING, Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea

SCHEMA = """
create table if not exists rollouts (
  step integer, rank integer, position integer, completion text, thought text, idea text, experiment_id text,
  status text, reward real, metric real, created real, finished real, replicate integer,
  primary key (step, rank, position));
create index if not exists rollouts_by_experiment on rollouts (experiment_id);
create table if not exists experiments (id text primary key, record_json text);
create table if not exists lineage (
  child text, parents_json text, step integer, primary key (child, parents_json, step));
create table if not exists marks (step integer primary key, known integer);
"""


Descent = tuple[str, tuple[str, ...], int]
"""Experiment, its parents (experiments whose ideas its prompt showed), and the step it was proposed in."""

Note = Callable[[sqlite3.Connection, int], object]
"""Writes something beside the proposals of a step, of which the first has this position."""


@dataclass(frozen=True)
class Proposal:
    """A completion in its place, and the replicate that it asks for."""

    step: int
    position: int
    completion: str
    replicate: int


class JournalError(IdeatorError):
    """The journal cannot be opened or written."""


class Journal:
    """The open journal of a run."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            self._db.executescript(SCHEMA)
            with suppress(sqlite3.OperationalError):  # a journal that was begun before there was such a column
                self._db.execute("alter table rollouts add column replicate integer")
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        self._rank = int(os.environ.get("RANK", "0"))
        self._proposed: Counter[int] = Counter()

    def next_step(self) -> int:
        with self._lock:
            return int(self._db.execute("select coalesce(max(step), -1) + 1 from rollouts").fetchone()[0])

    def propose(
        self,
        step: int,
        completions: list[str],
        replicates: list[int] | None = None,
        refused: Mapping[int, Experiment] | None = None,
        note: Note | None = None,
    ) -> int:
        """Write the proposals of a step, each with its replicate; returns the position of the first.

        A second call for a step goes on after the first: several generation batches may feed one optimizer step.

        Args:
            refused: outcomes of those that are not to be run, by index.
            note: what else is to be written with them, all or nothing.
        """
        with self._transaction():
            first = self._proposed[step]
            self._proposed[step] += len(completions)
            now = time.time()
            rows = [
                (step, self._rank, first + i, text, *sections(text), now, replicate)
                for i, (text, replicate) in enumerate(
                    zip(completions, replicates or [0] * len(completions), strict=True)
                )
            ]
            self._db.executemany(
                "insert or replace into rollouts (step, rank, position, completion, thought, idea, status, created, "
                f"replicate) values (?,?,?,?,?,?,'{RUNNING}',?,?)",
                rows,
            )
            for index, record in (refused or {}).items():
                self._settle(step, first + index, record)
            if note is not None:
                note(self._db, first)
        return first

    def go_on(self, step: int) -> int:
        """The next proposals of a step come after those that an earlier process made; returns how many these were."""
        with self._lock:
            query = "select coalesce(max(position), -1) + 1 from rollouts where step=? and rank=?"
            self._proposed[step] = int(self._db.execute(query, (step, self._rank)).fetchone()[0])
        return self._proposed[step]

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Rows of the journal."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def write(self, note: Callable[[sqlite3.Connection], object]) -> None:
        """Tables beside the journal's own, for who keeps books of what it proposed: all of `note`, or nothing."""
        with self._transaction():
            note(self._db)

    def unsettled(self, exclude_steps: Collection[int]) -> list[Proposal]:
        """This rank's proposals without an outcome, but those of the steps to be left out."""
        with self._lock:
            rows = self._db.execute(
                "select step, position, completion, coalesce(replicate, 0) from rollouts "
                f"where rank=? and status='{RUNNING}' order by step, position",
                (self._rank,),
            ).fetchall()
        return [Proposal(*row) for row in rows if row[0] not in exclude_steps]

    def settle(self, step: int, position: int, record: Experiment) -> None:
        self.settle_all([(step, position, record)])

    def settle_all(self, outcomes: list[tuple[int, int, Experiment]]) -> None:
        """Write outcomes, each with its step and position, in one transaction."""
        with self._transaction():
            for step, position, record in outcomes:
                self._settle(step, position, record)

    def record(self, record: Experiment) -> None:
        with self._transaction():
            self._enter(record)

    def experiments(self) -> list[Experiment]:
        """Every record, in the order it first became known; one that was `lost` before, when it no longer was."""
        with self._lock:
            rows = self._db.execute("select record_json from experiments order by rowid").fetchall()
        return [Experiment.from_json(text) for (text,) in rows]

    def completion_of(self, experiment_id: str) -> str | None:
        """The completion, thought and all, that first led to an experiment; None if none of this run did."""
        with self._lock:
            row = self._db.execute(
                "select completion from rollouts where experiment_id=? order by step, rank, position limit 1",
                (experiment_id,),
            ).fetchone()
        return row[0] if row else None

    def ideas(self, before: int | None = None) -> list[tuple[int, str]]:
        """Step and text of every idea that was proposed, whatever came of it, in order; of the steps before one."""
        with self._lock:
            rows: list[tuple[int, str]] = self._db.execute(
                "select step, idea from rollouts where idea != '' and step < ? order by step, rank, position",
                (1 << 62 if before is None else before,),
            ).fetchall()
        return rows

    def descend(self, child: str, parents: tuple[str, ...], step: int) -> None:
        """Write that an experiment was proposed, in a step, in answer to these."""
        self.descend_all([(child, parents, step)])

    def descend_all(self, descents: Sequence[Descent]) -> None:
        """Write several of these in one transaction."""
        rows = [(child, json.dumps(parents), step) for child, parents, step in descents]
        with self._transaction():
            self._db.executemany("insert or ignore into lineage values (?,?,?)", rows)

    def lineage(self) -> list[Descent]:
        """Every descent, in the order it was written."""
        with self._lock:
            rows = self._db.execute("select child, parents_json, step from lineage order by rowid").fetchall()
        return [(child, tuple(json.loads(parents)), step) for child, parents, step in rows]

    def mark(self, step: int, known: int) -> int:
        """How many records were known when a step was first proposed: `known` if that is now."""
        with self._transaction():
            self._db.execute("insert or ignore into marks values (?,?)", (step, known))
            row = self._db.execute("select known from marks where step=?", (step,)).fetchone()
        return int(row[0])

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _settle(self, step: int, position: int, record: Experiment) -> None:
        value = record.metric["value"] if record.metric else None
        self._db.execute(
            "update rollouts set experiment_id=?, status=?, reward=?, metric=?, finished=? "
            "where step=? and rank=? and position=?",
            (record.id, record.status, record.reward, value, time.time(), step, self._rank, position),
        )
        self._enter(record)

    def _enter(self, record: Experiment) -> None:
        """Write a record over the one of its id, in its place; one that was lost before is known only now, and what is
        known is not lost again."""
        if record.status == LOST:
            self._db.execute("insert or ignore into experiments values (?,?)", (record.id, record.to_json()))
            return
        kept = self._db.execute(
            "update experiments set record_json=? where id=? and instr(record_json, ?)=0",  # NaN is no JSON to SQLite
            (record.to_json(), record.id, f'"status": "{LOST}"'),
        )
        if kept.rowcount == 0:
            self._db.execute("insert or replace into experiments values (?,?)", (record.id, record.to_json()))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, on disk when it returns.

        Raises:
            JournalError: the file cannot be written.
        """
        with self._lock:
            try:
                self._db.execute("begin immediate")
                yield
                self._db.execute("commit")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    self._db.execute("rollback")
                if isinstance(error, sqlite3.Error):
                    raise self._error(error) from error
                raise

    def _error(self, error: Exception) -> JournalError:
        return JournalError(
            f"Could not write the run's journal {self.path}: {error}. Free space on its disk, or check that this user "
            "may write there, and resume: what was run already is in the bucket."
        )


def sections(completion: str) -> tuple[str, str]:
    """Thought and idea of a completion; empty where it holds no idea."""
    try:
        idea = parse_idea(completion)
    except MalformedIdea:
        return "", ""
    return idea.thought, idea.text
