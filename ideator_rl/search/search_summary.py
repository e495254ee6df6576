"""The figures of a search, read from its folder alone: while it runs, after a kill, and at its end.

charged     distinct codebases that it asked for: what it would have run with an empty bucket
elsewhere   of these, executed by another run (a shared bucket, or `archive_from`)
repeated    ideas that led to a codebase which this search had proposed before; they cost no experiment
near        near-duplicates: ideas that mean the same as an earlier one; `rejected` of them were not run
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ideator_rl.experiment import LOST, NEAR_DUPLICATE, SUCCEEDED, Experiment
from ideator_rl.storage.records import JOURNAL


@dataclass(frozen=True)
class SearchSummary:
    ideas: int
    epochs: int
    asks: int
    """Questions to the ideator."""
    kinds: dict[str, int]
    """Ideas by the kind of question they answer."""
    charged: int
    elsewhere: int
    elsewhere_succeeded: int
    repeated: int
    near: int
    rejected: int
    seconds: float
    """Wall seconds, over all sessions."""
    ended_by: str | None
    """The budget that ended the last session; None while it runs, or after a kill."""

    def facts(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items()) or "none"
        near = f"{self.near} near-duplicates by meaning, {self.rejected} of them not run"
        return [
            f"Search: {self.ideas} ideas of {self.asks} questions in {self.epochs} epochs ({kinds})",
            f"Experiments: {self.charged} charged, {self.elsewhere} of them executed by other runs "
            f"({self.elsewhere_succeeded} successes)",
            f"Repeats: {self.repeated} ideas led to a known codebase and cost no experiment; {near}",
        ]


def read_search_summary(folder: Path) -> SearchSummary | None:
    """The figures of a search; None for a training run."""
    uri = f"{(folder / JOURNAL).absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as db:
        if not db.execute("select 1 from sqlite_master where name='sittings'").fetchone():
            return None
        ideas, epochs = db.execute("select count(*), coalesce(max(step), -1) + 1 from rollouts").fetchone()
        charged, elsewhere, succeeded, repeated = _codebases(db)
        near, rejected = db.execute(
            "select count(*), coalesce(sum(instr(record_json, ?) > 0), 0) from origins join rollouts using "
            "(step, position) left join experiments on id = experiment_id where similarity is not null",
            (f'"kind": "{NEAR_DUPLICATE}"',),
        ).fetchone()
        kinds = "select kind, count(*) from origins join asks on number = ask group by kind order by min(number)"
        return SearchSummary(
            ideas=ideas,
            epochs=epochs,
            asks=db.execute("select count(*) from asks").fetchone()[0],
            kinds=dict(db.execute(kinds).fetchall()),
            charged=charged,
            elsewhere=elsewhere,
            elsewhere_succeeded=succeeded,
            repeated=repeated,
            near=near,
            rejected=rejected,
            seconds=db.execute("select coalesce(sum(seen - started), 0) from sittings").fetchone()[0],
            ended_by=db.execute("select ended from sittings order by number desc limit 1").fetchone()[0],
        )


def report_notes(folder: Path) -> list[str]:
    """The lines about a search in a report; empty for a training run."""
    summary = read_search_summary(folder)
    return summary.lines() if summary else []


def _codebases(db: sqlite3.Connection) -> tuple[int, int, int, int]:
    """Distinct codebases, those executed by other runs, successes among these, and repeated ideas."""
    rows = db.execute(
        "select experiment_id, min(r.created), count(*), record_json from rollouts r join experiments e "
        f"on e.id = experiment_id where r.status != '{LOST}' group by experiment_id"
    ).fetchall()
    charged = elsewhere = succeeded = repeated = 0
    for _, proposed, ideas, text in rows:
        record = Experiment.from_json(text)
        if not record.tree:
            continue
        charged, repeated = charged + 1, repeated + ideas - 1
        if record.created < proposed:
            elsewhere += 1
            succeeded += record.status == SUCCEEDED
    return charged, elsewhere, succeeded, repeated
