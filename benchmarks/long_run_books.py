"""The audit of a run on a simulated fleet: journal, bucket, ledger and closings, counted apart and compared."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fleet_floor import SIMULATED, Cost, read_ledger
from ideator_rl.executor import record_store
from ideator_rl.experiment import LOST, SUCCEEDED, Experiment
from ideator_rl.storage.bucket import Bucket, open_bucket
from ideator_rl.training.batch_closing import TrainBatch

Counts = dict[str, Any]


@dataclass
class Books:
    """All that is known of a run that has ended."""

    rows: list[tuple[int, int, str, str | None, float | None]]
    """Journal: step, position, status, experiment, reward."""
    closings: list[TrainBatch]
    records: dict[str, Experiment | None]
    """Bucket: what came of every experiment that was made."""
    claims: dict[str, int]
    paid: dict[str, Cost]
    """Ledger."""
    archived: set[str]
    """Archive: experiments whose record the run has."""
    steps: int
    groups: int
    group_size: int


def audit(run: Path, url: str, ledger: Path, steps: int, groups: int, group_size: int) -> tuple[Counts, list[str]]:
    """What came of everything, and every disagreement."""
    bucket = open_bucket(url)
    with sqlite3.connect(run / "buffer.sqlite") as db:
        rows = db.execute("select step, position, status, experiment_id, reward from rollouts").fetchall()
        archived = {id for (id,) in db.execute("select id from experiments")}
    lines = (run / "rollouts" / "closings.jsonl").read_text().splitlines()
    experiment_ids = _made(bucket)
    audited = Books(
        rows,
        [TrainBatch.from_json(json.loads(line)) for line in lines],
        {id: record_store.load_record(bucket, id) for id in experiment_ids},
        {id: len(record_store.attempts(bucket, id)) for id in experiment_ids},
        read_ledger(ledger),
        archived,
        steps,
        groups,
        group_size,
    )
    wrong = [*_proposals(audited), *_experiments(audited), *_payments(audited), *_updates(audited), *_ended(run)]
    return _counts(audited), wrong


def _made(bucket: Bucket) -> list[str]:
    return [id for id in bucket.names("experiments") if bucket.get(f"experiments/{id}/spec.json")]


def _proposals(audited: Books) -> Iterator[str]:
    places = Counter((step, position) for step, position, *_ in audited.rows)
    positions = range(audited.groups * audited.group_size)
    wanted = {(step, position) for step in range(audited.steps) for position in positions}
    if set(places) != wanted or max(places.values()) > 1:
        yield f"{len(wanted - set(places))} proposals are missing, {len(set(places) - wanted)} are too many"
    if open_rows := [row for row in audited.rows if row[2] in ("", "running", None)]:
        yield f"{len(open_rows)} proposals have no outcome, such as {open_rows[0]}"


def _experiments(audited: Books) -> Iterator[str]:
    proposed = {id for *_, id, _ in audited.rows if id}
    baselines = {id for id, record in audited.records.items() if record and record.implementer == "baseline"}
    if orphans := set(audited.records) - proposed - baselines:
        yield f"{len(orphans)} experiments were made and no proposal asks for them, such as {min(orphans)}"
    for id, record in audited.records.items():
        if record is None and audited.claims[id] < 3:
            yield f"experiment {id} has neither a result nor been given up: {audited.claims[id]} claims"
    if forgotten := {id for id, record in audited.records.items() if record} - audited.archived - baselines:
        yield f"{len(forgotten)} experiments have a result that is missing in the archive, such as {min(forgotten)}"
    for _, _, status, id, _ in audited.rows:
        record = audited.records.get(id or "")
        if record is not None and status != record.status:
            yield f"a proposal of {id} is {status} in the journal and {record.status} in the bucket"


def _payments(audited: Books) -> Iterator[str]:
    if strange := set(audited.paid) - set(audited.records):
        yield f"{len(strange)} experiments were paid for and do not exist, such as {min(strange)}"
    for id, paid in audited.paid.items():
        if paid.starts != sum(paid.outcomes.values()):
            yield f"experiment {id} was started {paid.starts} times and ended {sum(paid.outcomes.values())} times"
        if paid.outcomes[SUCCEEDED] > 1:
            yield f"experiment {id} was paid for {paid.outcomes[SUCCEEDED]} times"
        if paid.outcomes[SUCCEEDED] and paid.outcomes["gave up"]:
            yield f"experiment {id} was started again after it had been given up"
    simulated = {id for id, record in audited.records.items() if record and record.isolation == SIMULATED}
    unpaid = simulated - set(audited.paid)
    if unpaid:
        yield f"{len(unpaid)} experiments have a result and were not paid for, such as {min(unpaid)}"


def _updates(audited: Books) -> Iterator[str]:
    if [train_batch.index for train_batch in audited.closings] != list(range(audited.steps)):
        yield f"{len(audited.closings)} batches were closed instead of {audited.steps}, or in another order"
        return
    fates = [(slot.batch, slot.group) for train_batch in audited.closings for slot in train_batch.slots]
    fates += [group for train_batch in audited.closings for group in train_batch.dropped]
    fates += audited.closings[-1].deferred
    if sorted(fates) != [(step, group) for step in range(audited.steps) for group in range(audited.groups)]:
        yield f"groups have {len(fates)} fates; expected one each of {audited.steps * audited.groups}"
    journal = {(step, position): (status, reward) for step, position, status, _, reward in audited.rows}
    for (batch, row), (status, reward) in _trained(audited).items():
        # A lost proposal has no reward: it is masked.
        if journal[batch, row] != (status, reward):
            yield f"row {row} of batch {batch} was trained as {status} {reward}, and is {journal[batch, row]}"


def _trained(audited: Books) -> dict[tuple[int, int], tuple[str, float | None]]:
    """(batch, row) of everything that stood in an update with a reward, and what it was taken for."""
    size = audited.group_size
    return {
        (slot.batch, slot.group * size + number): (outcome.status, outcome.rewards[0])
        for train_batch in audited.closings
        for slot in train_batch.slots
        for number, outcome in enumerate(slot.outcomes)
        if outcome is not None and outcome.has_reward
    }


def _ended(run: Path) -> Iterator[str]:
    for name in ("report.html", "model/model.safetensors", "timings.json"):
        if not (run / name).is_file():
            yield f"the run left no {name}"


def _counts(audited: Books) -> Counts:
    trained = len(_trained(audited))
    lost = sum(status == LOST for _, _, status, _, _ in audited.rows)
    outcomes: Counter[str] = sum((paid.outcomes for paid in audited.paid.values()), Counter())
    statuses = Counter(status for _, _, status, _, _ in audited.rows)
    shared = Counter(id for *_, id, _ in audited.rows if id)
    return {
        "proposals": len(audited.rows),
        "… by status": ", ".join(f"{n} {status}" for status, n in statuses.most_common()),
        "… trained": trained,
        "… archived only": len(audited.rows) - lost - trained,
        "… lost": lost,
        "experiments made": len(audited.records),
        "… proposals that share them": sum(shared[id] for id in audited.records),
        "attempts paid for": sum(outcomes.values()),
        "… by ending": ", ".join(f"{n} {ending}" for ending, n in outcomes.most_common()),
        "slot-seconds": f"{sum(paid.seconds for paid in audited.paid.values()):.0f}",
        "paid for, and neither trained on nor archived": len(
            {id for id, paid in audited.paid.items() if paid.outcomes[SUCCEEDED]} - audited.archived
        ),
    }
