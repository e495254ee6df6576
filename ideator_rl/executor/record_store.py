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
process is dead.  In the same boot and PID namespace the process itself is looked up; elsewhere a process is dead when
its heartbeat did not change for the lease, by the clock of the one who looks: no two clocks are compared.

A damaged object raises `DamagedObject`, which names it.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from ideator_rl.config.reader import parse_json
from ideator_rl.experiment import FINAL, Experiment, require_finite, typed_fields
from ideator_rl.patch import tree_hash
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, BucketError, read_object

LEASE_SECONDS = 60.0
HEARTBEAT_SECONDS = 5.0
QUEUE = "queue"
MAX_LOOK_GAP_SECONDS = 30.0
"""After a longer gap between two looks at a heartbeat, its age starts anew: whoever looks was stopped, or the bucket
away, and the worker may have been as well."""
OLD_SECONDS = 86_400.0
"""A claim or heartbeat that is older than this at the first look, by whatever clock, is of a dead process."""


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
        """Store it unless the experiment has one; returns whether it was stored.

        Raises:
            DamagedObject: the one that it has cannot be read, by this process or by a worker.
        """
        bucket.put(f"{QUEUE}/{self.id}", b"")
        created = bucket.create(f"experiments/{self.id}/spec.json", json.dumps(vars(self)).encode())
        if not created:
            Spec.load(bucket, self.id)
        return created

    @classmethod
    def load(cls, bucket: Bucket, id: str) -> Spec | None:
        """Raises: DamagedObject."""
        parse = partial(_parse_spec, id)
        return read_object(bucket, f"experiments/{id}/spec.json", parse, f"experiments/{id}")

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
    """Raises: DamagedObject when another one is stored under its name."""
    if not bucket.create(f"trees/{name}.json", json.dumps(tree, sort_keys=True).encode()):
        load_tree(bucket, name)


def load_tree(bucket: Bucket, name: str) -> dict[str, str] | None:
    """Raises: DamagedObject."""
    return read_object(bucket, f"trees/{name}.json", partial(_parse_tree, name))


def load_record(bucket: Bucket, id: str) -> Experiment | None:
    """Raises: DamagedObject."""
    return read_object(bucket, f"experiments/{id}/result.json", partial(_parse_record, id))


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
        bucket.delete(f"{QUEUE}/{name}")


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
    # A clock that stands still must not make two heartbeats equal.
    beat = {"time": time.time(), "monotonic": time.monotonic()}
    bucket.put(f"{_attempt(id, number)}/beat.json", json.dumps(beat).encode())


def abandon_attempt(bucket: Bucket, id: str, number: int, reason: str) -> None:
    """Record that an attempt ended for a reason that is not the idea's."""
    bucket.create(f"{_attempt(id, number)}/end.json", json.dumps({"reason": reason, "time": time.time()}).encode())


def has_ended(bucket: Bucket, id: str, number: int) -> bool:
    """Whether an attempt was abandoned, by its own process or by one that took it for dead."""
    return bucket.get(f"{_attempt(id, number)}/end.json") is not None


def last_failure_reason(bucket: Bucket, id: str) -> str:
    """Why the last attempt ended without a record."""
    number = count_attempts(bucket, id)
    key = f"{_attempt(id, number - 1)}/end.json"
    end = read_object(bucket, key, _parse_end, f"experiments/{id}") if number else None
    return str(end["reason"]) if end is not None else "its worker died"


def request_retry(bucket: Bucket, id: str) -> None:
    """Ask for one more round of attempts at an experiment that was given up."""
    if number := count_attempts(bucket, id):
        bucket.create(f"experiments/{id}/wanted/{number}.json", b"{}")
        bucket.put(f"{QUEUE}/{id}.{number}", b"")


def retry_requested(bucket: Bucket, id: str) -> bool:
    """Whether an experiment is to be run again although no attempt so far has led to a record."""
    return bucket.get(f"experiments/{id}/wanted/{count_attempts(bucket, id)}.json") is not None


def live_claim(bucket: Bucket, id: str, number: int) -> dict[str, Any] | None:
    """The claim of an attempt whose process is alive, or None.

    Raises:
        DamagedObject: claim or heartbeat.
    """
    attempt, remove = _attempt(id, number), f"experiments/{id}"
    ended = has_ended(bucket, id, number)
    claim = None if ended else read_object(bucket, f"{attempt}/claim.json", _parse_claim, remove)
    if claim is None:
        _signs.pop((bucket.url, attempt), None)
        return None
    # On the same machine the process answers for itself: a pid with another start time is another process.
    if claim["place"] == process_tree.host_identity():
        return claim if process_tree.start_time(claim["pid"]) == claim["start"] else None
    beat = read_object(bucket, f"{attempt}/beat.json", _parse_beat, remove) or {"time": claim["time"]}
    return claim if _seconds_unchanged(bucket, attempt, beat) < LEASE_SECONDS else None


@dataclass
class _Sign:
    """A heartbeat as this process saw it.  Times are monotonic seconds."""

    beat: dict[str, float]
    since: float
    """When it was first seen."""
    looked: float
    """When it was last looked at."""


# The heartbeats of other machines that this process has looked at, by bucket and attempt.  `_seconds_unchanged` writes,
# from any thread; `live_claim` removes those that have ended.
_signs: dict[tuple[str, str], _Sign] = {}


def _seconds_unchanged(bucket: Bucket, attempt: str, beat: dict[str, float]) -> float:
    """For how long this process has seen this heartbeat."""
    now, key = time.monotonic(), (bucket.url, attempt)
    sign = _signs.get(key)
    if sign is None and time.time() - beat["time"] > OLD_SECONDS:
        return math.inf
    if sign is None or sign.beat != beat or now - sign.looked > MAX_LOOK_GAP_SECONDS:
        sign = _signs[key] = _Sign(beat, now, now)
    sign.looked = now
    return now - sign.since


def end_dead_attempt(bucket: Bucket, id: str) -> None:
    """Record the end of the last attempt if its process is dead.

    A new worker has seen no heartbeat for long enough to judge; by this it learns what its scheduler has seen.
    """
    number = count_attempts(bucket, id)
    if number and live_claim(bucket, id, number - 1) is None:
        abandon_attempt(bucket, id, number - 1, "its worker died")


def running_claim(bucket: Bucket, id: str) -> dict[str, Any] | None:
    """The claim under which an experiment is being run now, or None."""
    number = count_attempts(bucket, id)
    return live_claim(bucket, id, number - 1) if number else None


def _attempt(id: str, number: int) -> str:
    return f"experiments/{id}/attempts/{number}"


def _parse_object(raw: bytes) -> dict[str, Any]:
    value = parse_json(raw, "it", finite=False)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _parse_spec(id: str, raw: bytes) -> Spec:
    body = _parse_object(raw)
    # What a later version asks for beyond this must not be left out in silence.
    if surplus := sorted(body.keys() - {item.name for item in fields(Spec)}):
        raise ValueError(f"{surplus[0]!r} is not known to this version")
    spec = Spec(**typed_fields(Spec, body))
    require_finite((spec.implement_seconds, spec.created))
    if spec.id != id:
        raise ValueError(f"it is of the experiment {spec.id[:64]!r}")
    return spec


def _parse_tree(name: str, raw: bytes) -> dict[str, str]:
    tree = _parse_object(raw)
    if tree_hash(tree) != name:
        raise ValueError("its content has another hash")
    return tree


def _parse_record(id: str, raw: bytes) -> Experiment:
    record = Experiment.from_json(raw)
    if record.id != id:
        raise ValueError(f"it is of the experiment {record.id[:64]!r}")
    if record.status not in FINAL:
        raise ValueError(f"a record has no status {record.status[:64]!r}")
    record.check()
    return record


def _parse_claim(raw: bytes) -> dict[str, Any]:
    claim = _parse_object(raw)
    require_finite((claim["time"], claim["pid"]))
    if not all(isinstance(claim[name], str) for name in ("host", "place")) or not isinstance(claim["pid"], int):
        raise ValueError("it names no process")
    if not isinstance(claim["start"], str | None):
        raise ValueError(f"its process has the start {str(claim['start'])[:60]!r}")
    return claim | {"start": claim["start"]}


def _parse_beat(raw: bytes) -> dict[str, float]:
    beat = _parse_object(raw)
    require_finite((beat["time"],))
    return beat


def _parse_end(raw: bytes) -> dict[str, Any]:
    end = _parse_object(raw)
    return end | {"reason": str(end["reason"])}
