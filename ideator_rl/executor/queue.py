"""The experiments that runs wait for, as objects `queue/<id>` of the bucket.  Callers use it as `record_store`.

An entry is put by whoever waits, after the specification, and holds all that a scheduler has to know: a scheduler needs
no environment.  It is deleted after the record, or when the experiment is cancelled.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial

from ideator_rl.config.reader import parse_json_object
from ideator_rl.environments.environment import Preset, Resources
from ideator_rl.experiment import require_finite, typed_fields
from ideator_rl.sandbox.checkpoints import MAX_CHECKPOINTS
from ideator_rl.storage.bucket import Bucket, DamagedObject, parse_object

QUEUE = "queue"
TOGETHER = 512
"""Objects read at once where there may be any number."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueueEntry:
    """An experiment that a run waits for, and all that a scheduler has to know of it."""

    id: str
    resources: Resources
    minutes: int
    """Time limit of a job that runs it."""
    environment: str = ""
    preset: str = ""
    hardware: str = ""
    """Model of machines that the run declares; empty for any."""
    priority: int = 0
    run: str = ""
    """Folder of the run that waits for it (`run_name`); `ideator-rl cancel` selects by it."""
    created: float = field(default_factory=time.time)
    """Unix seconds by the clock of that run: for people, and for the order of starts."""
    from_attempt: int = 0
    """Attempts before this number do not count: a new round puts the entry again with a higher one."""
    least_isolation: str = ""
    """The weakest level that the experiment may run at, which is part of its id; empty for any."""


def run_name(run_dir: str | None) -> str:
    """How a queue entry names a run: its folder's full path; empty for a caller without a folder."""
    return os.path.abspath(run_dir) if run_dir else ""


def job_minutes(preset: Preset) -> int:
    """Time limit of a job: each run may be repeated once, a suspicious result is confirmed, and each run is scored.

    Near a target, the end of a run and each of its checkpoints are scored on the final split too.  On the CPU clock,
    the last run may be idle until the sandbox ends it: an engine that ended the job earlier would make the idea `lost`.
    """
    budget, scoring = preset.budget, preset.scoring.seconds
    seconds = sum(2 * (budget.startup_allowance + share * budget.seconds) + scoring for share in preset.run_shares)
    final = 0.0 if preset.target is None else (1 + MAX_CHECKPOINTS) * scoring
    idle = budget.max_wall_seconds - budget.seconds
    return math.ceil((60 + seconds + final + idle) / 60)


def enqueue(bucket: Bucket, entry: QueueEntry) -> None:
    """Ask for an experiment to be run, after its specification was stored.  An earlier entry is replaced."""
    bucket.put(f"{QUEUE}/{entry.id}", json.dumps(asdict(entry)).encode())


def read_queue(bucket: Bucket, ids: Iterable[str]) -> dict[str, QueueEntry]:
    """The entries of these experiments; one that left the queue or is damaged is left out, the latter with a line."""
    entries = {}
    for batch in batches(ids):
        for key, raw in bucket.get_many([f"{QUEUE}/{id}" for id in batch]).items():
            id = key.removeprefix(f"{QUEUE}/")
            try:
                entries[id] = parse_object(bucket.url, key, raw, partial(_parse_entry, id))
            except DamagedObject as error:
                log.warning("An experiment is skipped: %s", error)
    return entries


def leave_queue(bucket: Bucket, id: str) -> None:
    bucket.delete(f"{QUEUE}/{id}")


def request_cancel(bucket: Bucket, ids: Iterable[str]) -> None:
    """Ask for the end of experiments.  Their workers see it after a heartbeat; those that wait are not started."""
    body = json.dumps({"time": time.time(), "host": socket.gethostname()}).encode()
    for id in ids:
        bucket.put(_cancel_key(id), body)
        bucket.delete(f"{QUEUE}/{id}")


def cancel_requested(bucket: Bucket, id: str) -> bool:
    return bucket.get(_cancel_key(id)) is not None


def withdraw_cancel(bucket: Bucket, id: str) -> None:
    """The experiment is requested again after it was cancelled."""
    bucket.delete(_cancel_key(id))


def batches(ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids, `TOGETHER` at a time."""
    every = list(ids)
    return (every[start : start + TOGETHER] for start in range(0, len(every), TOGETHER))


def _parse_entry(id: str, raw: bytes) -> QueueEntry:
    body = parse_json_object(raw)
    resources = Resources(**typed_fields(Resources, body.pop("resources")))
    entry = QueueEntry(**typed_fields(QueueEntry, body | {"resources": {}}) | {"resources": resources})
    require_finite((entry.created, resources.memory_gb, resources.disk_gb))
    if entry.id != id:
        raise ValueError(f"it is of the experiment {entry.id[:64]!r}")
    return entry


def _cancel_key(id: str) -> str:
    return f"experiments/{id}/cancel.json"
