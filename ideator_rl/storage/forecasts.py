"""The journal's table `forecasts`: every idea that a screen sampled, with its forecast as made before the outcome.

Guarantees: rows are written in the transaction that proposes the executed ideas, so that none has an outcome yet.  A
sampled idea that was not run is here alone; it has no row among the rollouts.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ideator_rl.experiment import LOST, NEAR_DUPLICATE, REJECTED, RUNNING
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.journal_reader import JournalQueries

TABLE = "forecasts"
SCHEMA = (
    "create table if not exists forecasts (step integer, number integer, position integer, completion text, "
    "success real, mean real, sd real, acquisition real, rank integer, executed integer, audited integer, "
    "preferred integer, version text, best real, is_open integer, created real, primary key (step, number))"
)
COLUMNS = (
    "step", "number", "position", "completion", "success", "mean", "sd", "acquisition", "rank", "executed", "audited",
    "preferred", "version", "best", "is_open", "created",
)  # fmt: skip


@dataclass(frozen=True)
class ForecastRow:
    """A sampled idea.  It has no forecast where it is known already or is not to be run."""

    number: int
    """Of the sample in its step, from 0."""
    position: int | None
    """Of its row among the step's rollouts; None where it was not run."""
    completion: str
    success: float | None
    mean: float | None
    sd: float | None
    acquisition: float | None
    rank: int | None
    """In its pool by acquisition, from 0."""
    executed: bool
    audited: bool
    """Drawn at random, whatever its forecast."""
    preferred: bool
    """Its rank is below the number of ideas that its round runs: forecasts alone would run it."""
    version: str
    """Predictor, and the number of outcomes that it was fitted on."""
    best: float | None
    """Best reward when the forecast was made; if that is an outlier, the fence that it was pulled in to."""
    is_open: bool
    """Whether the gate was open: whether the forecasts chose."""


@dataclass(frozen=True)
class ForecastOutcome:
    """A forecast, and what came of it."""

    step: int
    forecast: ForecastRow
    status: str
    """Empty where it was not run."""
    reward: float | None
    created: float
    """Unix seconds, when the forecast was made."""
    experiment_id: str = ""
    """Of its outcome; empty where there is none."""


def create_table(journal: Journal) -> None:
    """Raises: JournalError."""
    journal.write(lambda db: db.execute(SCHEMA))


def next_number(journal: JournalQueries, step: int) -> int:
    """The number of a step's next sample."""
    rows = journal.read("select coalesce(max(number), -1) + 1 from forecasts where step=?", (step,))
    return int(rows[0][0])


def write_forecasts(db: sqlite3.Connection, step: int, rows: Sequence[ForecastRow]) -> None:
    """Insert the rows of one round, inside a transaction of the journal."""
    now = time.time()
    values = [
        (step, row.number, row.position, row.completion, row.success, row.mean, row.sd, row.acquisition, row.rank,
         int(row.executed), int(row.audited), int(row.preferred), row.version, row.best, int(row.is_open), now)
        for row in rows
    ]  # fmt: skip
    db.executemany(f"insert into forecasts values ({','.join('?' * len(COLUMNS))})", values)


def replace_forecasts(journal: Journal, step: int, rows: Sequence[ForecastRow]) -> None:
    """Write the rows of a step that has one round, in the place of those that it had; on disk when this returns."""

    def write(db: sqlite3.Connection) -> None:
        db.execute("delete from forecasts where step=?", (step,))
        write_forecasts(db, step, rows)

    journal.write(write)


def picks_of_step(journal: JournalQueries, step: int, completions: Sequence[str]) -> tuple[bool, list[int] | None]:
    """What a step that samples these completions, in one round, has decided to run.

    Returns:
        whether it has decided, and the indices of what is run; None for all, since no forecasts chose.
    """
    # A step that samples other texts than before has decided nothing: its old rows are replaced.
    rows = journal.read("select completion, executed from forecasts where step=? order by number", (step,))
    if [text for text, _ in rows] == list(completions):
        return True, [index for index, (_, executed) in enumerate(rows) if executed]
    # Before the screen ranked, a step has no forecasts, and all of it was proposed.
    rows = journal.read("select completion from rollouts where step=? and rank=0 order by position", (step,))
    return [text for (text,) in rows] == list(completions), None


def forecasts_of_step(journal: JournalQueries, step: int) -> list[ForecastRow]:
    """The samples of a step, in the order sampled; none where no forecasts chose."""
    columns = ", ".join(f"f.{name}" for name in COLUMNS)
    rows = journal.read(f"select {columns}, '', null, '' from forecasts f where step=? order by number", (step,))
    return [_outcome(row).forecast for row in rows]


def screened_out(journal: JournalQueries) -> int:
    """Sampled ideas that were not run."""
    if not journal.has_table(TABLE):
        return 0
    return int(journal.read("select count(*) from forecasts where executed = 0")[0][0])


def read_forecasts(
    journal: JournalQueries,
    before: int | None = None,
    only_executed: bool = False,
    with_texts: bool = True,
    last_steps: int | None = None,
) -> list[ForecastOutcome]:
    """Every sampled idea with its outcome, in the order sampled; none where no screen was on.

    Args:
        before: only of the steps before this one.
        last_steps: of these, only of so many last ones that have forecasts; None for all.
        only_executed: leave out ideas that were not run, which are most.
        with_texts: with the completions, which are most of the bytes; else these are empty.
    """
    if not journal.has_table(TABLE):
        return []
    columns = ", ".join(f"f.{name}" if with_texts or name != "completion" else "''" for name in COLUMNS)
    # By completion too: steps that were taken again without the screen have other ideas at the same positions.
    # A lost outcome is no evidence about the idea, and a near-duplicate that was not run has none.
    rows = journal.read(
        f"select {columns}, coalesce(r.status, ''), r.reward, coalesce(r.experiment_id, '') from forecasts f "
        "left join rollouts r on r.step = f.step and r.position = f.position and r.rank = 0 "
        "and r.completion = f.completion "
        f"and r.status not in ('{LOST}', '{RUNNING}') and not (r.status = '{REJECTED}' and exists (select 1 from "
        "experiments e where e.id = r.experiment_id and json_extract(e.record_json, '$.error.kind') = "
        f"'{NEAR_DUPLICATE}')) "
        "where (? is null or f.step < ?) and (f.executed or not ?) and f.step >= ? order by f.step, f.number",
        (before, before, only_executed, _first_of_last(journal, before, last_steps)),
    )
    return [_outcome(row) for row in rows]


def _first_of_last(journal: JournalQueries, before: int | None, count: int | None) -> int:
    """The first of the last `count` steps that have forecasts; 0 for all steps, and where there are fewer."""
    if count is None:
        return 0
    query = "select distinct step from forecasts where ? is null or step < ? order by step desc limit 1 offset ?"
    rows = journal.read(query, (before, before, count - 1))
    return int(rows[0][0]) if rows else 0


def _outcome(row: Sequence[object]) -> ForecastOutcome:
    values = dict(zip(COLUMNS, row, strict=False))
    step, created = values.pop("step"), values.pop("created")
    flags = {name: bool(values.pop(name)) for name in ("executed", "audited", "preferred", "is_open")}
    forecast = ForecastRow(**values, **flags)  # type: ignore[arg-type]
    status, reward, experiment_id = row[len(COLUMNS) :]
    return ForecastOutcome(step, forecast, status, reward, created, experiment_id)  # type: ignore[arg-type]
