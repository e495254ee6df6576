"""The journal of a run: which idea was proposed when, and what came of it, in one SQLite file.

Guarantees: a proposal is on disk before anything is submitted for it; an outcome as soon as it is known; a step that
is proposed again replaces its rows.  It is an index: the truth is the bucket.  Not for network file systems.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import RUNNING, Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea

SCHEMA = """
create table if not exists rollouts (
  step integer, rank integer, position integer, completion text, thought text, idea text, experiment_id text,
  status text, reward real, metric real, created real, finished real, primary key (step, rank, position));
create table if not exists experiments (id text primary key, record_json text);
"""


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
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        self._rank = int(os.environ.get("RANK", "0"))
        self._proposed: Counter[int] = Counter()

    def next_step(self) -> int:
        with self._lock:
            return int(self._db.execute("select coalesce(max(step), -1) + 1 from rollouts").fetchone()[0])

    def propose(self, step: int, completions: list[str]) -> int:
        """Write the proposals of a step; returns the position of the first.

        A second call for a step goes on after the first: several generation batches may feed one optimizer step.
        """
        with self._transaction():
            first = self._proposed[step]
            self._proposed[step] += len(completions)
            now = time.time()
            rows = [(step, self._rank, first + i, text, *sections(text), now) for i, text in enumerate(completions)]
            self._db.executemany(
                "insert or replace into rollouts (step, rank, position, completion, thought, idea, status, created) "
                f"values (?,?,?,?,?,?,'{RUNNING}',?)",
                rows,
            )
        return first

    def settle(self, step: int, position: int, record: Experiment) -> None:
        value = record.metric["value"] if record.metric else None
        with self._transaction():
            self._db.execute(
                "update rollouts set experiment_id=?, status=?, reward=?, metric=?, finished=? "
                "where step=? and rank=? and position=?",
                (record.id, record.status, record.reward, value, time.time(), step, self._rank, position),
            )
            self._db.execute("insert or replace into experiments values (?,?)", (record.id, record.to_json()))

    def record(self, record: Experiment) -> None:
        with self._transaction():
            self._db.execute("insert or replace into experiments values (?,?)", (record.id, record.to_json()))

    def experiments(self) -> list[Experiment]:
        """Every record, in the order it was entered."""
        with self._lock:
            rows = self._db.execute("select record_json from experiments order by rowid").fetchall()
        return [Experiment.from_json(text) for (text,) in rows]

    def close(self) -> None:
        with self._lock:
            self._db.close()

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
