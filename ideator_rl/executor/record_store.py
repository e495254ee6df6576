"""What the bucket holds of one experiment: specification, attempts, record.  All of it is written here.

    trees/<sha256>.json                       a codebase; created once
    experiments/<id>/spec.json                what to run; created once
    experiments/<id>/attempts/<n>/claim.json  which process runs attempt n; created once, before anything is spent
    experiments/<id>/attempts/<n>/beat.json   heartbeat of that process; the only object that changes
    experiments/<id>/attempts/<n>/end.json    why attempt n has no record (our fault, not the idea's)
    experiments/<id>/wanted/<n>.json          run it again, although n attempts have led to no record
    experiments/<id>/result.json              the record; created once, last
    queue/<id>                                it has no record yet; made before the specification, removed after the
                                              record
    queue/<id>.<n>                            the same, for a request to run it again

`queue` makes a look for new experiments cheap, however many have ended.  It is only a hint: a process of 0.1.0 does not
write it, a power failure may take it away, and a killed process may leave a name too many.

Guaranteed: an experiment never runs twice at once.  Attempt n + 1 can be claimed only after attempt n has ended or its
process is dead.  In the same boot and PID namespace the process itself is looked up; elsewhere a heartbeat older than
the lease means dead.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ideator_rl.experiment import Experiment
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, BucketError

LEASE_SECONDS = 60.0
HEARTBEAT_SECONDS = 5.0
QUEUE = "queue"


@dataclass(frozen=True)
class Spec:
    """What a worker needs to run an experiment.  Content-addressed: the first one written is kept."""

    id: str
    environment: str
    """Name or path, as a worker on another machine would load it."""
    digest: str
    preset: str
    seed: int
    replicate: int
    tree: str
    """SHA-256 of the codebase, which is at `trees/<tree>.json`."""
    idea: str
    patch: str
    implementer: str
    trusted: bool
    """True when the library itself wrote the patch's text."""
    hardware: str
    implement_seconds: float
    created: float
    """Unix seconds."""

    def save(self, bucket: Bucket) -> bool:
        bucket.mark(f"{QUEUE}/{self.id}")
        return bucket.create(f"experiments/{self.id}/spec.json", json.dumps(vars(self)).encode())

    @classmethod
    def load(cls, bucket: Bucket, id: str) -> Spec | None:
        raw = bucket.get(f"experiments/{id}/spec.json")
        return cls(**json.loads(raw)) if raw is not None else None

    def new_record(self, status: str, environment_name: str, **results: Any) -> Experiment:
        """A record of this experiment.  `results` are the fields of `Experiment` that only a run can fill."""
        return Experiment(
            id=self.id,
            status=status,
            idea=self.idea,
            environment=environment_name,
            preset=self.preset,
            seed=self.seed,
            replicate=self.replicate,
            patch=self.patch,
            implementer=self.implementer,
            tree=self.tree,
            created=self.created,
            hashes={"environment": self.digest, "tree": self.tree},
            hardware=self.hardware,
            **results,
        )


def save_tree(bucket: Bucket, name: str, tree: dict[str, str]) -> None:
    bucket.create(f"trees/{name}.json", json.dumps(tree, sort_keys=True).encode())


def load_tree(bucket: Bucket, name: str) -> dict[str, str] | None:
    raw = bucket.get(f"trees/{name}.json")
    return json.loads(raw) if raw is not None else None


def load_record(bucket: Bucket, id: str) -> Experiment | None:
    raw = bucket.get(f"experiments/{id}/result.json")
    return Experiment.from_json(raw) if raw is not None else None


def save_record(bucket: Bucket, record: Experiment) -> bool:
    """Write the record, unless the experiment has one already; returns whether it was written."""
    written = bucket.create(f"experiments/{record.id}/result.json", record.to_json().encode())
    # The record is stored: an outage from here on only leaves a name in the queue.
    with suppress(BucketError):
        remove_from_queue(bucket, record.id, record.attempt)
    return written


def has_record(bucket: Bucket, id: str) -> bool:
    """Whether there is a record, which is not parsed."""
    return bucket.get(f"experiments/{id}/result.json") is not None


def queued(bucket: Bucket) -> dict[str, bool]:
    """Ids in the queue, each with whether a retry of it was requested."""
    ids: dict[str, bool] = {}
    for name in bucket.names(QUEUE):
        id, dot, _ = name.partition(".")
        ids[id] = ids.get(id, False) or bool(dot)
    return ids


def remove_from_queue(bucket: Bucket, id: str, attempt: int) -> None:
    """Remove an experiment whose record is that of an attempt, and the requests to run it again before that one."""
    for name in (id, *(f"{id}.{number}" for number in range(1, attempt + 1))):
        bucket.unmark(f"{QUEUE}/{name}")


def count_attempts(bucket: Bucket, id: str) -> int:
    """How many attempts were claimed."""
    # Claims are counted, not folders: a folder may appear before its claim does.
    number = 0
    while bucket.get(f"{_attempt(id, number)}/claim.json") is not None:
        number += 1
    return number


def claim_attempt(bucket: Bucket, id: str) -> int | None:
    """Claim the next attempt for this process; None when a live process holds it or there is a result."""
    number = count_attempts(bucket, id)
    if load_record(bucket, id) is not None or (number and live_claim(bucket, id, number - 1) is not None):
        return None
    claim = {
        "host": socket.gethostname(),
        "place": process_tree.host_identity(),
        "pid": os.getpid(),
        "start": process_tree.start_time(os.getpid()),
        "time": time.time(),
    }
    if not bucket.create(f"{_attempt(id, number)}/claim.json", json.dumps(claim).encode()):
        return None
    # The last process may have published and ended between the two looks above.
    if load_record(bucket, id) is not None:
        abandon_attempt(bucket, id, number, "it already had a result")
        return None
    return number


def write_heartbeat(bucket: Bucket, id: str, number: int) -> None:
    bucket.put(f"{_attempt(id, number)}/beat.json", json.dumps({"time": time.time()}).encode())


def abandon_attempt(bucket: Bucket, id: str, number: int, reason: str) -> None:
    """Record that an attempt ended for a reason that is not the idea's."""
    bucket.create(f"{_attempt(id, number)}/end.json", json.dumps({"reason": reason, "time": time.time()}).encode())


def last_failure_reason(bucket: Bucket, id: str) -> str:
    """Why the last attempt ended without a record."""
    number = count_attempts(bucket, id)
    raw = bucket.get(f"{_attempt(id, number - 1)}/end.json") if number else None
    return json.loads(raw)["reason"] if raw is not None else "its worker died"


def request_retry(bucket: Bucket, id: str) -> None:
    """Ask for one more round of attempts at an experiment that was given up."""
    if number := count_attempts(bucket, id):
        bucket.create(f"experiments/{id}/wanted/{number}.json", b"{}")
        bucket.mark(f"{QUEUE}/{id}.{number}")


def retry_requested(bucket: Bucket, id: str) -> bool:
    """Whether an experiment is to be run again although no attempt so far has led to a record."""
    return bucket.get(f"experiments/{id}/wanted/{count_attempts(bucket, id)}.json") is not None


def live_claim(bucket: Bucket, id: str, number: int) -> dict[str, Any] | None:
    """The claim of an attempt whose process is alive, or None."""
    raw = bucket.get(f"{_attempt(id, number)}/claim.json")
    if raw is None or bucket.get(f"{_attempt(id, number)}/end.json") is not None:
        return None
    claim = json.loads(raw)
    # On the same machine the process answers for itself: a pid with another start time is another process.
    if claim["place"] == process_tree.host_identity():
        return claim if process_tree.start_time(claim["pid"]) == claim["start"] else None
    heartbeat = bucket.get(f"{_attempt(id, number)}/beat.json")
    last_sign = max(claim["time"], json.loads(heartbeat)["time"] if heartbeat else 0.0)
    return claim if time.time() - last_sign < LEASE_SECONDS else None


def running_claim(bucket: Bucket, id: str) -> dict[str, Any] | None:
    """The claim under which an experiment is being run now, or None."""
    number = count_attempts(bucket, id)
    return live_claim(bucket, id, number - 1) if number else None


def _attempt(id: str, number: int) -> str:
    return f"experiments/{id}/attempts/{number}"
