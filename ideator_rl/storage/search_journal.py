"""A search's own tables in the run's journal: its questions, which idea answers which, and its sessions.

Guarantees: the rows of an answer and of its ideas are written in one transaction, so that a killed search has a record
of everything it paid for.  `read_search` reads these tables from a folder, also while the search goes on.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ideator_rl.experiment import LOST, RUNNING, Experiment
from ideator_rl.storage.forecasts import TABLE
from ideator_rl.storage.idea_context import Base, base_of_row
from ideator_rl.storage.journal import Journal, Note
from ideator_rl.storage.journal_reader import Descent, JournalQueries, JournalReader, parse_parents

SCHEMA = (
    "create table if not exists asks (number integer primary key, step integer, kind text, wanted integer, "
    "shown_json text, created real)",
    "create table if not exists origins (step integer, position integer, ask integer, parents_json text, "
    "like_step integer, like_position integer, similarity real, primary key (step, position))",
    "create table if not exists sittings (number integer primary key, started real, seen real, ended text)",
)


@dataclass(frozen=True)
class Origin:
    """What an idea was made from, and what it repeats."""

    parents: tuple[str, ...]
    """Experiment ids of the shown ideas that it was made from."""
    like: tuple[int, int] | None = None
    """Step and position of the earlier idea that means the same; None if there is none."""
    similarity: float | None = None
    """Cosine similarity to that idea."""


@dataclass(frozen=True)
class PendingIdea:
    """An idea whose outcome is not known yet."""

    step: int
    position: int
    question: int
    """Number of the question it answers; -1 if the journal has none."""
    parents: tuple[str, ...]
    """Experiment ids."""
    is_near_duplicate: bool = False


class Question(Protocol):
    """What the journal stores of a question to an ideator."""

    @property
    def kind(self) -> str: ...

    @property
    def count(self) -> int:
        """Ideas wanted."""

    @property
    def shown(self) -> Sequence[Experiment]: ...


@dataclass(frozen=True)
class SearchRows:
    """The rows of a search that its summary is computed from."""

    ideas: int
    epochs: int
    questions: int
    ideas_by_kind: dict[str, int]
    """Ideas by the kind of question that they answer, in the order of the first question."""
    executed: list[tuple[Experiment, float, int]]
    """Records that are not lost; when each was first proposed, in Unix seconds, and how many ideas led to it."""
    debugged: list[Experiment]
    """Records that crashed and were mended, without those that are the last ones of an idea."""
    near_duplicates: list[Experiment | None]
    """The record of each near-duplicate idea, None where it has none yet."""
    seconds: float
    """Wall seconds of all sessions."""
    ended_by: str | None
    """The budget that ended the last session."""


def read_search(path: Path) -> SearchRows | None:
    """The rows of a search in a journal; None for the journal of a training run.

    Raises:
        JournalError: the journal cannot be read.
    """
    with JournalReader(path) as journal:
        if not journal.has_table("sittings"):
            return None
        ideas, epochs = journal.read("select count(*), coalesce(max(step), -1) + 1 from rollouts")[0]
        executed = journal.read(
            "select record_json, min(r.created), count(*) from rollouts r join experiments e "
            f"on e.id = experiment_id where r.status != '{LOST}' group by experiment_id"
        )
        # Few: baselines, re-runs, and what crashed and was mended.
        unproposed = journal.read(
            "select record_json from experiments where id not in "
            "(select experiment_id from rollouts where experiment_id is not null)"
        )
        near_duplicates = journal.read(
            "select record_json from origins join rollouts using (step, position) "
            "left join experiments on id = experiment_id where similarity is not null"
        )
        by_kind = "select kind, count(*) from origins join asks on number = ask group by kind order by min(number)"
        return SearchRows(
            ideas=ideas,
            epochs=epochs,
            questions=journal.read("select count(*) from asks")[0][0],
            ideas_by_kind=dict(journal.read(by_kind)),
            executed=[(Experiment.from_json(text), proposed, count) for text, proposed, count in executed],
            debugged=[record for (text,) in unproposed if (record := Experiment.from_json(text)).debugged],
            near_duplicates=[Experiment.from_json(text) if text else None for (text,) in near_duplicates],
            seconds=journal.read("select coalesce(sum(seen - started), 0) from sittings")[0][0],
            # Without a row where the first session was killed as it began.
            ended_by=next((ended for (ended,) in journal.read(_LAST_END)), None),
        )


def open_ideas(journal: JournalQueries, step: int, known_ids: Sequence[str]) -> list[tuple[str, Base | None]]:
    """The completions of earlier steps whose outcome is none of these, with their bases; lost ones are left out.

    Args:
        step: completions of the steps before this one.
        known_ids: experiment ids.
    """
    query = (
        f"{_WITH_BASE} where step < ? and rank = 0 and status != '{LOST}' and "
        "(experiment_id is null or experiment_id not in (select value from json_each(?))) order by step, position"
    )
    rows = journal.read(query, (step, json.dumps(known_ids)))
    return [(completion, base_of_row(*base)) for completion, *base in rows]


def ideas_of_step(journal: JournalQueries, step: int) -> list[tuple[str, Base | None]]:
    """The completions of a step with their bases."""
    rows = journal.read(f"{_WITH_BASE} where step = ? and rank = 0 order by position", (step,))
    return [(completion, base_of_row(*base)) for completion, *base in rows]


_LAST_END = "select ended from sittings order by number desc limit 1"
_WITH_BASE = (
    "select completion, tree, to_baseline, parents_json, problem from rollouts left join bases "
    "using (step, rank, position)"
)


class SearchJournal:
    """Opens a new session in the journal."""

    def __init__(self, journal: Journal):
        self._journal = journal
        journal.write(lambda db: [db.execute(line) for line in SCHEMA])
        self._session = int(journal.read("select coalesce(max(number), -1) + 1 from sittings")[0][0])
        now = time.time()
        journal.write(lambda db: db.execute("insert into sittings values (?,?,?,null)", (self._session, now, now)))

    @property
    def next_number(self) -> int:
        return int(self._journal.read("select coalesce(max(number), -1) + 1 from asks")[0][0])

    def answers(self, step: int, questions: Mapping[int, Question], origins: Sequence[tuple[int, Origin]]) -> Note:
        """Writes questions and the origins of their answers, in the transaction that writes the ideas.

        Args:
            questions: by number.
            origins: of the ideas in order, each with the number of its question.
        """

        def write(db: sqlite3.Connection, first: int) -> None:
            now = time.time()
            for number, question in questions.items():
                shown_ids = json.dumps([record.id for record in question.shown])
                row = (number, step, question.kind, question.count, shown_ids, now)
                db.execute("insert into asks values (?,?,?,?,?,?)", row)
            for index, (number, origin) in enumerate(origins):
                like = origin.like or (None, None)
                values = (step, first + index, number, json.dumps(origin.parents), *like, origin.similarity)
                db.execute("insert or replace into origins values (?,?,?,?,?,?,?)", values)

        return write

    def completions(self) -> list[tuple[int, str]]:
        """Step and completion of every idea, in order of step and position."""
        return self._journal.read("select step, completion from rollouts order by step, position")

    def sampled_completions(self) -> list[str]:
        """Every completion of the ideator, those included that a screen did not run, in the order of their rounds."""
        query = "select step, created, position, completion from rollouts"
        if self._journal.has_table(TABLE):
            query += f" union all select step, created, number, completion from {TABLE} where executed = 0"
        return [completion for *_, completion in self._journal.read(f"{query} order by 1, 2, 3")]

    def answers_of_step(self, step: int) -> tuple[list[str], Counter[str]]:
        """The completions of a step in order, and how many answer questions of each kind."""
        rows = self._journal.read(
            "select completion, coalesce(kind, '') from rollouts r left join origins o "
            "using (step, position) left join asks a on a.number = o.ask where r.step=? order by position",
            (step,),
        )
        return [text for text, _ in rows], Counter(kind for _, kind in rows)

    def pending_idea(self, step: int, position: int) -> PendingIdea:
        query = "select ask, parents_json, similarity from origins where step=? and position=?"
        for ask, parents, similarity in self._journal.read(query, (step, position)):
            return PendingIdea(step, position, ask, parse_parents(parents), similarity is not None)
        return PendingIdea(step, position, -1, ())

    def retry_lost(self, room: int | None = None) -> None:
        """Mark lost ideas as running again, the earliest first: a cap may have been raised since they were lost.

        Args:
            room: how many ideas may run in all; None for any number.
        """
        running = self._journal.read(f"select count(*) from rollouts where status='{RUNNING}'")[0][0]
        most = -1 if room is None else max(0, room - running)
        query = (
            f"update rollouts set status='{RUNNING}', experiment_id=null where rowid in (select rowid from rollouts "
            f"where status='{LOST}' order by step, position limit ?)"
        )
        self._journal.write(lambda db: db.execute(query, (most,)))

    def penalised_trees(self, history: Iterable[Experiment]) -> set[str]:
        """Trees whose first idea is a near-duplicate."""
        query = "select experiment_id, similarity from rollouts left join origins using (step, position) "
        first: dict[str, float | None] = {}
        for id, similarity in self._journal.read(query + "order by step, position"):
            first.setdefault(id, similarity)
        return {record.tree for record in history if record.tree and first.get(record.id) is not None}

    def descents(self) -> list[Descent]:
        """Every known child with its parents and step, from origins and outcomes."""
        rows = self._journal.read(
            "select experiment_id, parents_json, step from rollouts join origins using (step, position) "
            f"where experiment_id is not null and status != '{LOST}' and parents_json != '[]' order by step, position"
        )
        return [(child, parse_parents(parents), step) for child, parents, step in rows]

    def seconds(self) -> float:
        """Wall seconds of all earlier sessions."""
        query = "select coalesce(sum(seen - started), 0) from sittings where number < ?"
        rows = self._journal.read(query, (self._session,))
        return float(rows[0][0])

    def heartbeat(self, ended_by: str | None = None) -> None:
        """Store that this session is alive now, or which budget ended it."""
        row = (time.time(), ended_by, self._session)
        self._journal.write(lambda db: db.execute("update sittings set seen=?, ended=? where number=?", row))
