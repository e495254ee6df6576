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
from ideator_rl.executor import store
from ideator_rl.experiment import LOST, SUCCEEDED, Experiment
from ideator_rl.storage.bucket import Bucket, open_bucket
from ideator_rl.training.batch_assembly import TrainBatch

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
    known: set[str]
    """Archive: experiments whose record the run has."""
    steps: int
    groups: int
    group_size: int


def audit(run: Path, url: str, ledger: Path, steps: int, groups: int, group_size: int) -> tuple[Counts, list[str]]:
    """What came of everything, and every disagreement."""
    bucket = open_bucket(url)
    with sqlite3.connect(run / "buffer.sqlite") as db:
        rows = db.execute("select step, position, status, experiment_id, reward from rollouts").fetchall()
        known = {id for (id,) in db.execute("select id from experiments")}
    lines = (run / "rollouts" / "closings.jsonl").read_text().splitlines()
    made = _made(bucket)
    found = Books(
        rows,
        [TrainBatch.from_json(json.loads(line)) for line in lines],
        {id: store.load_record(bucket, id) for id in made},
        {id: store.count_attempts(bucket, id) for id in made},
        read_ledger(ledger),
        known,
        steps,
        groups,
        group_size,
    )
    wrong = [*_proposals(found), *_experiments(found), *_payments(found), *_updates(found), *_ended(run)]
    return _counts(found), wrong


def _made(bucket: Bucket) -> list[str]:
    return [id for id in bucket.names("experiments") if bucket.get(f"experiments/{id}/spec.json")]


def _proposals(found: Books) -> Iterator[str]:
    places = Counter((step, position) for step, position, *_ in found.rows)
    wanted = {(step, position) for step in range(found.steps) for position in range(found.groups * found.group_size)}
    if set(places) != wanted or max(places.values()) > 1:
        yield f"{len(wanted - set(places))} proposals are missing, {len(set(places) - wanted)} are too many"
    if open_rows := [row for row in found.rows if row[2] in ("", "running", None)]:
        yield f"{len(open_rows)} proposals have no outcome, such as {open_rows[0]}"


def _experiments(found: Books) -> Iterator[str]:
    asked = {id for *_, id, _ in found.rows if id}
    baselines = {id for id, record in found.records.items() if record and record.implementer == "baseline"}
    if orphans := set(found.records) - asked - baselines:
        yield f"{len(orphans)} experiments were made and no proposal asks for them, such as {min(orphans)}"
    for id, record in found.records.items():
        if record is None and found.claims[id] < 3:
            yield f"experiment {id} has neither a result nor been given up: {found.claims[id]} claims"
    if forgotten := {id for id, record in found.records.items() if record} - found.known - baselines:
        yield f"{len(forgotten)} experiments have a result that the run does not know, such as {min(forgotten)}"
    for _, _, status, id, _ in found.rows:
        record = found.records.get(id or "")
        if record is not None and status != record.status:
            yield f"a proposal of {id} is {status} in the journal and {record.status} in the bucket"


def _payments(found: Books) -> Iterator[str]:
    if strange := set(found.paid) - set(found.records):
        yield f"{len(strange)} experiments were paid for and do not exist, such as {min(strange)}"
    for id, paid in found.paid.items():
        if paid.starts != sum(paid.outcomes.values()):
            yield f"experiment {id} was started {paid.starts} times and ended {sum(paid.outcomes.values())} times"
        if paid.outcomes[SUCCEEDED] > 1:
            yield f"experiment {id} was paid for {paid.outcomes[SUCCEEDED]} times"
        if paid.outcomes[SUCCEEDED] and paid.outcomes["gave up"]:
            yield f"experiment {id} was started again after it had been given up"
    unpaid = {id for id, record in found.records.items() if record and record.isolation == SIMULATED} - set(found.paid)
    if unpaid:
        yield f"{len(unpaid)} experiments have a result that nobody paid for, such as {min(unpaid)}"


def _updates(found: Books) -> Iterator[str]:
    if [train_batch.index for train_batch in found.closings] != list(range(found.steps)):
        yield f"{len(found.closings)} batches were closed instead of {found.steps}, or in another order"
        return
    fates = [(slot.batch, slot.group) for train_batch in found.closings for slot in train_batch.slots]
    fates += [place for train_batch in found.closings for place in train_batch.dropped] + found.closings[-1].deferred
    if sorted(fates) != [(step, group) for step in range(found.steps) for group in range(found.groups)]:
        yield f"groups have {len(fates)} fates; expected one each of {found.steps * found.groups}"
    journal = {(step, position): (status, reward) for step, position, status, _, reward in found.rows}
    for (batch, row), (status, reward) in _trained(found).items():
        # The reward of a proposal that was lost is a number nobody has: it is masked.
        if journal[batch, row] != (status, reward):
            yield f"row {row} of batch {batch} was trained as {status} {reward}, and is {journal[batch, row]}"


def _trained(found: Books) -> dict[tuple[int, int], tuple[str, float | None]]:
    """(batch, row) of everything that stood in an update with a reward, and what it was taken for."""
    size = found.group_size
    return {
        (slot.batch, slot.group * size + number): (outcome.status, outcome.rewards[0])
        for train_batch in found.closings
        for slot in train_batch.slots
        for number, outcome in enumerate(slot.outcomes)
        if outcome is not None and outcome.scored
    }


def _ended(run: Path) -> Iterator[str]:
    for name in ("report.html", "model/model.safetensors", "timings.json"):
        if not (run / name).is_file():
            yield f"the run left no {name}"


def _counts(found: Books) -> Counts:
    trained = len(_trained(found))
    lost = sum(status == LOST for _, _, status, _, _ in found.rows)
    outcomes: Counter[str] = sum((paid.outcomes for paid in found.paid.values()), Counter())
    statuses = Counter(status for _, _, status, _, _ in found.rows)
    shared = Counter(id for *_, id, _ in found.rows if id)
    return {
        "proposals": len(found.rows),
        "… by status": ", ".join(f"{n} {status}" for status, n in statuses.most_common()),
        "… trained": trained,
        "… archived only": len(found.rows) - lost - trained,
        "… lost": lost,
        "experiments made": len(found.records),
        "… proposals that share them": sum(shared[id] for id in found.records),
        "attempts paid for": sum(outcomes.values()),
        "… by ending": ", ".join(f"{n} {ending}" for ending, n in outcomes.most_common()),
        "slot-seconds": f"{sum(paid.seconds for paid in found.paid.values()):.0f}",
        "paid for, and neither trained on nor archived": len(
            {id for id, paid in found.paid.items() if paid.outcomes[SUCCEEDED]} - found.known
        ),
    }
