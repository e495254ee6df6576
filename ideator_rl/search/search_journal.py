"""A search's own tables in the run's journal: its questions, which idea answers which, and its sessions.

Guarantees: the rows of an answer and of its ideas are written in one transaction, so that a killed search has a record
of everything it paid for.  `search_summary` reads these tables alone.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ideator_rl.experiment import LOST, RUNNING, Experiment
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.ideator import Ask
from ideator_rl.storage.journal import Descent, Journal

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


def charged_codebases(buffer: RewardBuffer) -> set[str]:
    """Experiment ids of the distinct codebases that a search asked for, also of those that another run executed.

    Re-runs under other seeds are not counted.
    """
    query = f"select distinct experiment_id from rollouts where experiment_id is not null and status != '{LOST}'"
    proposed = {id for (id,) in buffer.journal.read(query)}
    return {record.id for record in buffer.history if record.tree and record.id in proposed}


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

    def write_answers(
        self,
        db: sqlite3.Connection,
        step: int,
        questions: Mapping[int, Ask],
        first: int,
        origins: Sequence[tuple[int, Origin]],
    ) -> None:
        """Write questions and the origins of their answers, inside the transaction that writes the ideas.

        Args:
            questions: by number.
            first: position of the first idea.
            origins: of the ideas in order, each with the number of its question.
        """
        now = time.time()
        for number, ask in questions.items():
            shown = json.dumps([record.id for record in ask.shown])
            db.execute("insert into asks values (?,?,?,?,?,?)", (number, step, ask.kind, ask.count, shown, now))
        for index, (number, origin) in enumerate(origins):
            like = origin.like or (None, None)
            row = (step, first + index, number, json.dumps(origin.parents), *like, origin.similarity)
            db.execute("insert or replace into origins values (?,?,?,?,?,?,?)", row)

    def completions(self) -> list[tuple[int, str]]:
        """Step and completion of every idea, in order of step and position."""
        return self._journal.read("select step, completion from rollouts order by step, position")

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
            return PendingIdea(step, position, ask, tuple(json.loads(parents)), similarity is not None)
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
        return [(child, tuple(json.loads(parents)), step) for child, parents, step in rows]

    def seconds(self) -> float:
        """Wall seconds of all earlier sessions."""
        query = "select coalesce(sum(seen - started), 0) from sittings where number < ?"
        rows = self._journal.read(query, (self._session,))
        return float(rows[0][0])

    def heartbeat(self, ended_by: str | None = None) -> None:
        """Store that this session is alive now, or which budget ended it."""
        row = (time.time(), ended_by, self._session)
        self._journal.write(lambda db: db.execute("update sittings set seen=?, ended=? where number=?", row))
