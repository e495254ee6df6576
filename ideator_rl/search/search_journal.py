"""What a search asked, in the run's journal: the questions, which idea answers which, and from what it was made.

Guarantees: an answer's rows and the proposals it led to are on disk together or not at all, so that a killed search
knows what it has paid for; figures are read from these rows alone, by whoever opens the journal.
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
    """Where an idea came from."""

    parents: tuple[str, ...]
    """Experiment ids of the ideas that it was made from."""
    like: tuple[int, int] | None = None
    """Step and position of the idea that said the same before."""
    similarity: float | None = None


@dataclass(frozen=True)
class Place:
    """An idea under way: where it stands, the question it answers, and the experiments it was made from."""

    step: int
    position: int
    ask: int
    parents: tuple[str, ...]
    near: bool = False
    """It says what another said."""


def charged(buffer: RewardBuffer) -> set[str]:
    """Distinct codebases that a search asked for, whoever ran them; not those that were only run again."""
    query = f"select distinct experiment_id from rollouts where experiment_id is not null and status != '{LOST}'"
    proposed = {id for (id,) in buffer.journal.read(query)}
    return {record.id for record in buffer.history if record.tree and record.id in proposed}


class Asked:
    def __init__(self, journal: Journal):
        self._journal = journal
        journal.write(lambda db: [db.execute(line) for line in SCHEMA])
        self._sitting = int(journal.read("select coalesce(max(number), -1) + 1 from sittings")[0][0])
        now = time.time()
        journal.write(lambda db: db.execute("insert into sittings values (?,?,?,null)", (self._sitting, now, now)))

    @property
    def next_number(self) -> int:
        return int(self._journal.read("select coalesce(max(number), -1) + 1 from asks")[0][0])

    def note(
        self,
        db: sqlite3.Connection,
        step: int,
        asked: Mapping[int, Ask],
        first: int,
        origins: Sequence[tuple[int, Origin]],
    ) -> None:
        """Write questions by their number and, for the ideas of a step from position `first` on, the number of the
        question that each answers, and its origin."""
        now = time.time()
        for number, ask in asked.items():
            shown = json.dumps([record.id for record in ask.shown])
            db.execute("insert into asks values (?,?,?,?,?,?)", (number, step, ask.kind, ask.count, shown, now))
        for index, (number, origin) in enumerate(origins):
            like = origin.like or (None, None)
            row = (step, first + index, number, json.dumps(origin.parents), *like, origin.similarity)
            db.execute("insert or replace into origins values (?,?,?,?,?,?,?)", row)

    def texts(self) -> list[tuple[int, str]]:
        """Step and completion of every idea, in order."""
        return self._journal.read("select step, completion from rollouts order by step, position")

    def of_step(self, step: int) -> tuple[list[str], Counter[str]]:
        """The completions of a step in their order, and how many answer questions of each kind."""
        rows = self._journal.read(
            "select completion, coalesce(kind, '') from rollouts r left join origins o "
            "using (step, position) left join asks a on a.number = o.ask where r.step=? order by position",
            (step,),
        )
        return [text for text, _ in rows], Counter(kind for _, kind in rows)

    def place(self, step: int, position: int) -> Place:
        query = "select ask, parents_json, similarity from origins where step=? and position=?"
        for ask, parents, similarity in self._journal.read(query, (step, position)):
            return Place(step, position, ask, tuple(json.loads(parents)), similarity is not None)
        return Place(step, position, -1, ())

    def retry_lost(self, room: int | None = None) -> None:
        """What was lost for reasons of ours, such as a cap that has been raised since, is to be run after all.

        Args:
            room: for so many ideas under way in all, the first ones; None for any number.
        """
        under_way = self._journal.read(f"select count(*) from rollouts where status='{RUNNING}'")[0][0]
        most = -1 if room is None else max(0, room - under_way)
        query = (
            f"update rollouts set status='{RUNNING}', experiment_id=null where rowid in (select rowid from rollouts "
            f"where status='{LOST}' order by step, position limit ?)"
        )
        self._journal.write(lambda db: db.execute(query, (most,)))

    def penalised(self, history: Iterable[Experiment]) -> set[str]:
        """Trees that were first reached by an idea which said what another said."""
        query = "select experiment_id, similarity from rollouts left join origins using (step, position) "
        first: dict[str, float | None] = {}
        for id, similarity in self._journal.read(query + "order by step, position"):
            first.setdefault(id, similarity)
        return {record.tree for record in history if record.tree and first.get(record.id) is not None}

    def descents(self) -> list[Descent]:
        """Who descends from whom, by origin and outcome."""
        rows = self._journal.read(
            "select experiment_id, parents_json, step from rollouts join origins using (step, position) "
            f"where experiment_id is not null and status != '{LOST}' and parents_json != '[]' order by step, position"
        )
        return [(child, tuple(json.loads(parents)), step) for child, parents, step in rows]

    def seconds(self) -> float:
        """Wall seconds of all sittings but this one."""
        query = "select coalesce(sum(seen - started), 0) from sittings where number < ?"
        rows = self._journal.read(query, (self._sitting,))
        return float(rows[0][0])

    def seen(self, ended: str | None = None) -> None:
        """This sitting lives; or has ended, and why."""
        row = (time.time(), ended, self._sitting)
        self._journal.write(lambda db: db.execute("update sittings set seen=?, ended=? where number=?", row))
