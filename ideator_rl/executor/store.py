"""The books of an experiment in the bucket: who is running it, who was, and what came out.

    experiments/<id>/spec.json                what to run; created once
    experiments/<id>/attempts/<n>/claim.json  who runs attempt n; created once, before anything is spent
    experiments/<id>/attempts/<n>/beat.json   the claimer's heartbeat; the only object that changes
    experiments/<id>/attempts/<n>/end.json    why attempt n gave no result (ours, not the idea's)
    experiments/<id>/result.json              the record; created once, last

Attempt n + 1 may be claimed only when attempt n has ended or its claimer is dead, so that no experiment runs twice at
once: in the same boot and PID namespace by the process itself, elsewhere by a heartbeat older than the
lease.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from ideator_rl.experiment import Experiment
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket

LEASE_SECONDS = 60.0
BEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Spec:
    """What the worker needs to run an experiment; content-addressed, so the first to write it wins."""

    id: str
    environment: str
    """Name or path, as a worker on another machine would load it."""
    digest: str
    preset: str
    seed: int
    replicate: int
    tree: str
    """SHA-256 of the codebase; its files stand at `trees/<tree>.json`."""
    idea: str
    patch: str
    implementer: str
    trusted: bool
    """True when the library itself wrote the patch's text."""
    hardware: str
    implement_seconds: float
    created: float

    def store(self, bucket: Bucket) -> bool:
        return bucket.create(f"experiments/{self.id}/spec.json", json.dumps(vars(self)).encode())

    @classmethod
    def load(cls, bucket: Bucket, id: str) -> Spec | None:
        raw = bucket.get(f"experiments/{id}/spec.json")
        return cls(**json.loads(raw)) if raw is not None else None


def store_tree(bucket: Bucket, name: str, tree: dict[str, str]) -> None:
    bucket.create(f"trees/{name}.json", json.dumps(tree, sort_keys=True).encode())


def load_tree(bucket: Bucket, name: str) -> dict[str, str] | None:
    raw = bucket.get(f"trees/{name}.json")
    return json.loads(raw) if raw is not None else None


def load_result(bucket: Bucket, id: str) -> Experiment | None:
    raw = bucket.get(f"experiments/{id}/result.json")
    return Experiment.from_json(raw) if raw is not None else None


def store_result(bucket: Bucket, record: Experiment) -> bool:
    return bucket.create(f"experiments/{record.id}/result.json", record.to_json().encode())


def attempts(bucket: Bucket, id: str) -> int:
    """How many attempts were claimed.  Asked of the claims themselves: a folder may appear before its claim does."""
    number = 0
    while bucket.get(f"{_attempt(id, number)}/claim.json") is not None:
        number += 1
    return number


def claim(bucket: Bucket, id: str) -> int | None:
    """Claim the next attempt for this process; None when somebody alive holds it or it has a result."""
    number = attempts(bucket, id)
    if load_result(bucket, id) is not None or (number and holder(bucket, id, number - 1) is not None):
        return None
    body = {
        "host": socket.gethostname(),
        "place": process_tree.place(),
        "pid": os.getpid(),
        "start": process_tree.start_time(os.getpid()),
        "time": time.time(),
    }
    if not bucket.create(f"{_attempt(id, number)}/claim.json", json.dumps(body).encode()):
        return None
    if load_result(bucket, id) is not None:  # the last holder published and ended between the two looks above
        give_up(bucket, id, number, "it already had a result")
        return None
    return number


def beat(bucket: Bucket, id: str, number: int) -> None:
    bucket.put(f"{_attempt(id, number)}/beat.json", json.dumps({"time": time.time()}).encode())


def give_up(bucket: Bucket, id: str, number: int, reason: str) -> None:
    """Record that an attempt ended for a reason that is not the idea's."""
    bucket.create(f"{_attempt(id, number)}/end.json", json.dumps({"reason": reason, "time": time.time()}).encode())


def last_reason(bucket: Bucket, id: str) -> str:
    """Why the last attempt gave no result."""
    number = attempts(bucket, id)
    raw = bucket.get(f"{_attempt(id, number - 1)}/end.json") if number else None
    return json.loads(raw)["reason"] if raw is not None else "its worker died"


def holder(bucket: Bucket, id: str, number: int) -> dict[str, Any] | None:
    """The claim of an attempt that is still being worked on, or None."""
    raw = bucket.get(f"{_attempt(id, number)}/claim.json")
    if raw is None or bucket.get(f"{_attempt(id, number)}/end.json") is not None:
        return None
    claimed = json.loads(raw)
    if claimed["place"] == process_tree.place():
        return claimed if process_tree.start_time(claimed["pid"]) == claimed["start"] else None
    beaten = bucket.get(f"{_attempt(id, number)}/beat.json")
    last = max(claimed["time"], json.loads(beaten)["time"] if beaten else 0.0)
    return claimed if time.time() - last < LEASE_SECONDS else None


def running(bucket: Bucket, id: str) -> dict[str, Any] | None:
    """The claim under which an experiment is being run now, or None."""
    number = attempts(bucket, id)
    return holder(bucket, id, number - 1) if number else None


def _attempt(id: str, number: int) -> str:
    return f"experiments/{id}/attempts/{number}"
