"""A search in figures, read from its folder alone: while it goes on, after it was killed, and at its end.

charged     distinct codebases that it asked for: what it would have had to run alone
elsewhere   of these, paid for by another run (a shared bucket, or `archive_from`)
repeated    ideas that led to a codebase of this search that was known: free
near        ideas that said what another said, in other words; of these `rejected` were not run
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
class Figures:
    ideas: int
    epochs: int
    asks: int
    """Questions to the ideator."""
    kinds: dict[str, int]
    """Ideas by the kind of question that they answer."""
    charged: int
    elsewhere: int
    elsewhere_succeeded: int
    repeated: int
    near: int
    rejected: int
    seconds: float
    """Wall seconds, over all sittings."""
    ended_by: str | None
    """The budget that ended the last sitting; None while one goes on, or after a kill."""

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    def words(self) -> list[str]:
        """Lines for a person."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items()) or "none"
        near = f"{self.near} near-duplicates by meaning, {self.rejected} of them not run"
        return [
            f"Search: {self.ideas} ideas of {self.asks} questions in {self.epochs} epochs ({kinds})",
            f"Experiments: {self.charged} charged, {self.elsewhere} of them paid for by other runs "
            f"({self.elsewhere_succeeded} successes)",
            f"Repeats: {self.repeated} ideas led to a codebase that was known, free; {near}",
        ]


def figures(folder: Path) -> Figures | None:
    """The figures of a search; None for a run that is none."""
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
        return Figures(
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


def notes(folder: Path) -> list[str]:
    """What a report says of a search besides; nothing for a run that is none."""
    found = figures(folder)
    return found.words() if found else []


def _codebases(db: sqlite3.Connection) -> tuple[int, int, int, int]:
    """Distinct codebases, those of others, successes among these, and ideas that led to one that was known."""
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
