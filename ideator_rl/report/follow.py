"""A run that goes on, followed cheaply: every look reads what the journal gained since the last, and nothing twice.

A look costs one pragma while nothing was written; else new proposals, the ones that had no outcome yet, and new
records.  The population is judged when a step has closed, by hashed n-grams: a terminal need not load a model.
Works on a run of any kind, under way or ended, and from another machine that sees the folder.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ideator_rl.experiment import LOST, OWN_FAILURES, RERUN_REPLICATE, RUNNING, SUCCEEDED
from ideator_rl.storage.records import JOURNAL, NoRun, mapping

if TYPE_CHECKING:  # scipy takes seconds on a busy machine, and the first picture need not wait for it
    from ideator_rl.diversity.alarms import Alarm
    from ideator_rl.diversity.watch import Watch

MANY = 500
"""Places of the journal that one statement may name."""


@dataclass(frozen=True)
class Proposal:
    """One idea, in what a terminal shows of it."""

    step: int
    status: str
    metric: float | None
    words: str
    """Its beginning."""
    experiment_id: str
    finished: float


class Living:
    """Follow a run's folder.

    Raises:
        NoRun: the journal cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.recipe: dict[str, Any] = mapping(folder / "recipe.yaml")
        self.metric, self.direction = "metric", "min"
        self.baseline: list[float] = []
        self.usd = 0.0
        self.alarms: list[Alarm] = []
        """What held when `judge` was called last."""
        self._proposals: dict[tuple[int, int, int], Proposal] = {}
        self._open: dict[int, tuple[int, int, int]] = {}
        """Rows without an outcome: place in the file, and step, rank and position."""
        self._last_row = self._last_record = self._version = -1
        self._trees: dict[str, tuple[str, str]] = {}
        self._judged = -1
        self._watch: Watch | None = None
        try:
            uri = f"{(folder / JOURNAL).absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, timeout=30)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        self._db.close()

    def look(self) -> bool:
        """Read what is new; whether there was anything.

        Raises:
            NoRun: the journal cannot be read.
        """
        try:
            version = int(self._db.execute("pragma data_version").fetchone()[0])
            if version == self._version:
                return False
            self._version = version
            self._read_records()
            self._read_proposals()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        return True

    @property
    def proposals(self) -> list[Proposal]:
        return list(self._proposals.values())

    @property
    def counts(self) -> Counter[str]:
        """Proposals by status."""
        return Counter(one.status for one in self._proposals.values())

    @property
    def experiments(self) -> int:
        """Distinct ones that ran; a re-run proves, it does not search."""
        return sum(1 for tree, _ in self._trees.values() if tree)

    @property
    def best(self) -> Proposal | None:
        """By the metric as measured once."""
        good = [one for one in self._proposals.values() if one.status == SUCCEEDED and one.metric is not None]
        return (min if self.direction == "min" else max)(good, key=lambda one: one.metric or 0.0, default=None)

    def latest(self, count: int) -> list[Proposal]:
        """Those whose outcome was known last, the newest first."""
        known = [one for one in self._proposals.values() if one.status != RUNNING]
        return sorted(known, key=lambda one: one.finished, reverse=True)[:count]

    def by_step(self) -> list[tuple[int, float | None, float | None]]:
        """Of every step: its number, the share of successes among known outcomes, and the best metric so far."""
        steps: dict[int, list[Proposal]] = {}
        for one in self._proposals.values():
            steps.setdefault(one.step, []).append(one)
        better, best = min if self.direction == "min" else max, None
        found = []
        for step, some in sorted(steps.items()):
            good = [one.metric for one in some if one.status == SUCCEEDED and one.metric is not None]
            known = len(good) + sum(one.status in OWN_FAILURES for one in some)
            best = better([*good, *([best] if best is not None else [])], default=None)
            found.append((step, len(good) / known if known else None, best))
        return found

    def spent(self) -> dict[str, float]:
        """USD, tokens and GPU-hours, as the ledger has them."""
        return {key: value for key, value in mapping(self.folder / "ledger.json").items() if isinstance(value, float)}

    def _read_records(self) -> None:
        query = "select rowid, record_json from experiments where rowid > ? order by rowid"
        for row, text in self._db.execute(query, (self._last_record,)):
            record = json.loads(text)
            self._last_record = row
            if record["status"] == LOST:
                continue
            metric = record.get("metric") or {}
            if metric:
                self.metric, self.direction = metric["name"], metric["direction"]
            if record.get("implementer") == "baseline":
                self.baseline += [metric["value"]] if record["status"] == SUCCEEDED and metric else []
            elif record.get("replicate", 0) < RERUN_REPLICATE:
                self._trees[record["id"]] = record.get("tree", ""), record.get("patch", "")

    def _read_proposals(self) -> None:
        columns = (
            "rowid, step, rank, position, status, metric, substr(case when idea = '' then completion else idea end, 1, "
            "400), coalesce(experiment_id, ''), coalesce(finished, 0)"
        )
        new = self._db.execute(f"select {columns} from rollouts where rowid > ? order by rowid", (self._last_row,))
        rows = new.fetchall()
        self._last_row = max([self._last_row, *(row[0] for row in rows)])
        waiting = list(self._open)
        for at in range(0, len(waiting), MANY):
            some = waiting[at : at + MANY]
            marks = ",".join("?" * len(some))
            query = f"select {columns} from rollouts where rowid in ({marks}) and status <> '{RUNNING}'"
            rows += self._db.execute(query, some).fetchall()
        for row, step, rank, position, *facts in rows:
            place = (step, rank, position)
            self._proposals[place] = Proposal(step, *facts)
            self._open.pop(row, None)
            if facts[0] == RUNNING:
                self._open[row] = place

    def judge(self, most: int | None = None, ended: bool = False) -> int:
        """Judge the population by the steps that closed since; sets `alarms`.

        Args:
            most: steps to judge in this call, where there are many: one takes a tenth of a second or so.
            ended: nobody is at work on the run, so that what has no outcome holds up no step.

        Returns:
            How many closed steps are left.

        Raises:
            NoRun: the journal cannot be read.
        """
        running = {place[0] for place in self._open.values() if self._proposals[place].status == RUNNING}
        closed = min(set() if ended else running, default=max((place[0] for place in self._proposals), default=-1) + 1)
        left = 0
        if most is not None and closed - self._judged - 1 > most:
            closed, left = self._judged + 1 + most, closed - self._judged - 1 - most
        if closed <= self._judged + 1:
            return 0
        from ideator_rl.diversity.embedding import get_embedder
        from ideator_rl.diversity.environment_context import Surroundings
        from ideator_rl.diversity.rows import Row
        from ideator_rl.diversity.watch import Watch

        if self._watch is None:
            self._watch = Watch(get_embedder("hashed"))
        self._watch.around = Surroundings(direction=self.direction)  # not known before the first metric
        query = (
            "select step, thought, idea, status, reward, metric, coalesce(experiment_id, '') from rollouts "
            "where step > ? and step < ? order by step, rank, position"
        )
        rows = []
        try:
            found = self._db.execute(query, (self._judged, closed)).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        for step, thought, idea, status, reward, metric, id in found:
            if status not in (RUNNING, LOST):
                tree, patch = self._trees.get(id, ("", ""))
                rows.append(Row(step, thought, idea, status, reward, metric, tree, patch))
        self._watch.take(rows)
        self._judged = closed - 1
        self.alarms = self._watch.active()
        return left

    def _unreadable(self, error: Exception) -> NoRun:
        return NoRun(f"The journal {self.folder / JOURNAL} cannot be read: {error}. Expected one that a run writes.")
