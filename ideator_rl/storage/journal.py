"""The journal of a run: which idea was proposed when, and its outcome, in one SQLite file.

Guarantees: a proposal is on disk before anything is submitted for it; an outcome as soon as it is known; a step that
is proposed again replaces its rows; records keep the order in which they first became known, and a batch the number of
records that were known when it was first proposed.  The journal is an index: the truth is the bucket.  Any number of
threads and event loops may use one open journal.  Not for network file systems.

All SQL on its tables is in this package: here, in `journal_reader` and in `search_journal`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ideator_rl.experiment import LOST, RUNNING, Experiment, total_cost
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.storage.idea_context import SCHEMA as CONTEXT_SCHEMA
from ideator_rl.storage.idea_context import Base, IdeaContext, base_of_row, write_contexts
from ideator_rl.storage.journal_reader import Descent, JournalError, JournalQueries

SCHEMA = """
create table if not exists rollouts (
  step integer, rank integer, position integer, completion text, thought text, idea text, experiment_id text,
  status text, reward real, metric real, created real, finished real, replicate integer,
  primary key (step, rank, position));
create index if not exists rollouts_by_experiment on rollouts (experiment_id);
create table if not exists experiments (id text primary key, record_json text);
create table if not exists lineage (
  child text, parents_json text, step integer, primary key (child, parents_json, step));
create table if not exists batch_marks (step integer, texts text, known integer, primary key (step, texts));
"""


Note = Callable[[sqlite3.Connection, int], object]
"""Writes rows of other tables in the transaction that writes proposals; gets the position of the first proposal."""


@dataclass(frozen=True)
class Proposal:
    """A completion that is to be run, and the replicate that it asks for."""

    step: int
    position: int
    completion: str
    replicate: int
    base: Base | None = None
    """The codebase that its patch is for; None for the baseline."""


@dataclass(eq=False)
class _Entry:
    """An outcome that waits to be written, and the future that its event loop awaits."""

    step: int
    position: int
    record: Experiment
    written: asyncio.Future[None]
    patch: str = ""


class Journal(JournalQueries):
    """The open journal of a run."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            # All tables at once: a reader that comes meanwhile finds no journal yet, and not half of one.
            self._db.executescript(f"begin immediate; {SCHEMA} {CONTEXT_SCHEMA} commit;")
            with suppress(sqlite3.OperationalError):  # a journal that was begun before there was such a column
                self._db.execute("alter table rollouts add column replicate integer")
            with suppress(sqlite3.OperationalError):  # only older journals have this table, one row a step
                self._db.execute("insert or ignore into batch_marks select step, '', known from marks")
                self._db.execute("drop table marks")
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        self._rank = int(os.environ.get("RANK", "0"))
        self._proposed: Counter[int] = Counter()
        """By step: proposals of this process.  Read and written under the lock."""
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._entries: deque[_Entry] = deque()
        """Outcomes for the writer's next transaction: event loops append, the writer's thread takes."""
        self._flush_requested: set[asyncio.AbstractEventLoop] = set()
        """Loops that will ask the writer for a transaction at the end of their turn; each adds and removes itself."""

    def next_step(self) -> int:
        """The step after the last one that was proposed."""
        with self._lock:
            return int(self._db.execute("select coalesce(max(step), -1) + 1 from rollouts").fetchone()[0])

    def propose(
        self,
        step: int,
        completions: list[str],
        replicates: list[int] | None = None,
        refused: Mapping[int, Experiment] | None = None,
        note: Note | None = None,
        contexts: Mapping[int, IdeaContext] | None = None,
    ) -> int:
        """Write the proposals of a step, each with its replicate; returns the position of the first.

        A second call for a step goes on after the first: several generation batches may feed one optimizer step.

        Args:
            refused: outcomes of those that are not to be run, by index.
            note: what else is to be written with them, all or nothing.
            contexts: what they were written from, by index.
        """
        with self._transaction():
            # Counted in memory, not read from the file: a resumed process replaces the rows of a step from 0 on.
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
            write_contexts(self._db, step, self._rank, first, len(rows), contexts or {})
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
        """Rows for the other modules of this package."""
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._error(error) from error

    def write(self, note: Callable[[sqlite3.Connection], object]) -> None:
        """Run the statements of `note` in one transaction, for the other modules of this package."""
        with self._transaction():
            note(self._db)

    def unsettled(self, exclude_steps: Collection[int]) -> list[Proposal]:
        """This rank's proposals without an outcome, except those of some steps."""
        with self._lock:
            rows = self._db.execute(
                "select step, position, completion, coalesce(replicate, 0), tree, to_baseline, parents_json, problem "
                "from rollouts left join bases using (step, rank, position) "
                f"where rank=? and status='{RUNNING}' order by step, position",
                (self._rank,),
            ).fetchall()
        return [
            Proposal(step, position, text, replicate, base_of_row(*base))
            for step, position, text, replicate, *base in rows
            if step not in exclude_steps
        ]

    async def enter(self, step: int, position: int, record: Experiment, patch: str = "") -> None:
        """Write the outcome of a proposal off the event loop; it is on disk when this returns.

        Args:
            patch: from the proposal's base to its codebase; empty where it changes the baseline.

        One transaction takes all outcomes that came while the last one was written, so that hundreds of results at
        once cost a few writes of some 3 ms.

        Raises:
            JournalError: the journal cannot be written, or is closed.
        """
        loop = asyncio.get_running_loop()
        entry = _Entry(step, position, record, loop.create_future(), patch)
        self._entries.append(entry)
        if loop not in self._flush_requested:
            self._flush_requested.add(loop)
            # After the other coroutines of this turn of the loop: their outcomes go into the same transaction.
            loop.call_soon(self._request_flush, loop)
        await entry.written

    def _request_flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush_requested.discard(loop)
        try:
            self._writer.submit(self._flush)
        except RuntimeError:  # after `close`, or while the interpreter shuts down
            error = JournalError("The journal was closed before this outcome was entered; a resumed run takes it up.")
            self._wake(self._take_entries(), error)

    def _flush(self) -> None:
        """Write all entries in one transaction, and wake the event loops that await them; in the writer's thread."""
        entries = self._take_entries()
        if not entries:
            return
        error: BaseException | None = None
        try:
            patches = [(entry.patch, entry.step, self._rank, entry.position) for entry in entries if entry.patch]
            self.settle_all([(entry.step, entry.position, entry.record) for entry in entries], patches)
        except BaseException as raised:
            error = raised
        self._wake(entries, error)

    def _take_entries(self) -> list[_Entry]:
        entries = []
        with suppress(IndexError):  # popleft is atomic; another thread may take the last one
            while True:
                entries.append(self._entries.popleft())
        return entries

    def _wake(self, entries: list[_Entry], error: BaseException | None) -> None:
        # One wake-up for each loop: a call for each future would cost more than the write.
        futures_by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for entry in entries:
            futures_by_loop.setdefault(entry.written.get_loop(), []).append(entry.written)
        for loop, futures in futures_by_loop.items():
            with suppress(RuntimeError):  # the loop was closed: no coroutine waits any more
                loop.call_soon_threadsafe(_resolve, futures, error)

    def settle(self, step: int, position: int, record: Experiment) -> None:
        """Write one outcome."""
        self.settle_all([(step, position, record)])

    def settle_all(
        self, outcomes: list[tuple[int, int, Experiment]], patches: Sequence[tuple[str, int, int, int]] = ()
    ) -> None:
        """Write outcomes, each with its step and position, in one transaction.

        Args:
            patches: to the bases of some of them, each with step, rank and position.
        """
        with self._transaction():
            self._db.executemany("update bases set patch=? where step=? and rank=? and position=?", patches)
            for step, position, record in outcomes:
                self._settle(step, position, record)

    def record(self, record: Experiment) -> None:
        """Write a record that no completion asked for."""
        with self._transaction():
            self._enter(record)

    def descend(self, child: str, parents: tuple[str, ...], step: int) -> None:
        """Write that a step's prompt showed `parents`, and led to the experiment `child`."""
        self.descend_all([(child, parents, step)])

    def descend_all(self, descents: Sequence[Descent]) -> None:
        """Write several descents in one transaction; those that are there already are skipped."""
        rows = [(child, json.dumps(parents), step) for child, parents, step in descents]
        with self._transaction():
            self._db.executemany("insert or ignore into lineage values (?,?,?)", rows)

    def mark(self, step: int, texts: Sequence[str], count: int) -> int:
        """How many records were known when a batch was first proposed, by this process or one before a crash.

        Args:
            texts: the completions of the batch.  A step that is sampled anew has others, and so a mark of its own.
                None of an epoch of a search, which is never sampled anew.
            count: how many are known now; stored if the batch is new.
        """
        key = step, hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
        with self._transaction():
            # A mark of an older journal names no texts: it goes to the first batch, which a resumed run submits again.
            self._db.execute("update or ignore batch_marks set texts=? where step=? and texts=''", key[::-1])
            self._db.execute("insert or ignore into batch_marks values (?,?,?)", (*key, count))
            row = self._db.execute("select known from batch_marks where step=? and texts=?", key).fetchone()
        return int(row[0])

    def close(self) -> None:
        """Write the outcomes that were entered, and close the file; a later `enter` raises JournalError."""
        self._writer.shutdown()
        self._flush()
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
        """Write a record over the one of its id, in its place, with what the coder was paid for both.

        A lost record gives way to any other, and the other becomes known only now: its row is appended.  No record is
        replaced by a lost one.
        """
        row = self._db.execute("select record_json from experiments where id=?", (record.id,)).fetchone()
        # Parsed here: a record may hold NaN, which is no JSON to SQLite.
        old = Experiment.from_json(row[0]) if row is not None else None
        if old is not None:
            # Each copy names only what was paid for its own proposal: an answer from the bucket costs nothing.
            cost, replayed = total_cost(old.cost, record.cost), old.replayed and record.replayed
            record = replace(old if record.status == LOST else record, cost=cost, replayed=replayed)
        in_place = old is not None and (old.status != LOST or record.status == LOST)
        change = "update experiments set record_json=? where id=?"
        if not in_place:
            change = "insert or replace into experiments (record_json, id) values (?,?)"
        self._db.execute(change, (record.to_json(), record.id))

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
        # SQLite reports what is no database, or one with a damaged page, by this class and none below it.
        if type(error) is sqlite3.DatabaseError:
            return JournalError(
                f"The run's journal {self.path} is damaged: {error}. Restore it from a copy. Without one, move it away "
                "and resume: a new one begins, and what was run already is in the bucket."
            )
        return JournalError(
            f"Could not write the run's journal {self.path}: {error}. Free space on its disk, or check that this user "
            "may write there, and resume: what was run already is in the bucket."
        )


def _resolve(futures: list[asyncio.Future[None]], error: BaseException | None) -> None:
    """Wake the coroutines that await these outcomes; on their event loop."""
    for future in futures:
        if future.done():  # its task was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def sections(completion: str) -> tuple[str, str]:
    """Thought and idea of a completion; empty where it holds no idea."""
    try:
        idea = parse_idea(completion)
    except MalformedIdea:
        return "", ""
    return idea.thought, idea.text
