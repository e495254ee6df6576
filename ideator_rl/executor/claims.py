"""The attempts at an experiment in the bucket: claim, heartbeat, end.  Callers use it as `record_store`.

    experiments/<id>/attempts/<n>/claim.json  which process runs attempt n; created once, before anything is spent
    experiments/<id>/attempts/<n>/end.json    why attempt n has no record, and of which kind its end is
    beats/<id>                                heartbeat of the attempt that runs; the only object that changes

An attempt can be claimed only after the one before has ended.  Its own process writes the end, or an observer that
takes the process for dead: on the same machine by its pid, elsewhere when its heartbeat has not changed for a lease
(`bucket_watch`).  No time of another machine is compared with a clock of this one.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ideator_rl.config.reader import parse_json_object
from ideator_rl.experiment import require_finite, typed_fields
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, BucketError, DamagedObject, parse_object

BEATS = "beats"

FAILED = "failed"
"""Ended by a fault of ours.  Counts against `MAX_ATTEMPTS`."""
PREEMPTED = "preempted"
"""Ended by the machine's owner: a preemption, a time limit, a drained node.  At most `MAX_PREEMPTIONS` are free."""
DEAD = "dead"
"""Its process died without a word.  Counts as `FAILED` does."""
CANCELLED = "cancelled"
"""Ended on request, and not tried again unless the experiment is requested anew."""
KINDS = (FAILED, PREEMPTED, DEAD, CANCELLED)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """The process that runs an attempt."""

    id: str
    """Of the experiment."""
    number: int
    """Of the attempt, from 0."""
    nonce: str
    """Random: no other claim equals it, so that a reply that was lost can be made up for by reading the claim."""
    host: str
    place: str
    """Boot and PID namespace in which `pid` is a process."""
    pid: int
    start: str | None
    """Start time of the process, which tells it from a later one with its pid."""
    time: float
    """Unix seconds by the clock of its machine: for people."""
    node: str = ""
    """The engine's name of the machine."""

    @property
    def is_here(self) -> bool:
        """Whether its process is or was one of this machine, where `process_alive` is an answer."""
        return self.place == process_tree.host_identity()

    @property
    def process_alive(self) -> bool:
        # A pid with another start time is another process.  A claim without one was made for a process already gone.
        return self.start is not None and process_tree.start_time(self.pid) == self.start


@dataclass(frozen=True)
class End:
    """How an attempt without a record ended."""

    kind: str
    """One of `KINDS`."""
    reason: str
    time: float = 0.0
    """Unix seconds by the clock of the machine that wrote it."""
    host: str = ""


@dataclass(frozen=True)
class Attempt:
    """A claimed attempt.  `end` is None while it runs, and after it has led to a record."""

    number: int
    claim: Claim
    end: End | None = None


def attempts(bucket: Bucket, id: str) -> list[Attempt]:
    """The claimed attempts, oldest first.  One read when there is none, else a listing and two reads an attempt.

    Raises:
        DamagedObject: a claim.
    """
    # Claims are counted, not folders: a folder may appear before its claim does.
    first = bucket.get(_key(id, 0, "claim"))
    if first is None:
        return []
    numbers = sorted({0} | {int(name) for name in bucket.list(f"experiments/{id}/attempts") if name.isdecimal()})
    keys = [_key(id, number, name) for number in numbers for name in ("claim", "end")]
    objects = bucket.get_many(keys[1:]) | {keys[0]: first}
    claims = [number for number in numbers if _key(id, number, "claim") in objects]
    return [
        Attempt(number, _claim_of(bucket, id, number, objects), _end_of(bucket, id, number, objects))
        for number in claims
    ]


def read_claims(bucket: Bucket, numbers: dict[str, int]) -> dict[str, Claim]:
    """The claims of some attempts, one of each experiment, read together.

    Args:
        numbers: the attempt's number by the experiment's id.

    Raises:
        DamagedObject: a claim.
    """
    objects = bucket.get_many([_key(id, number, "claim") for id, number in numbers.items()])
    stored = {id: number for id, number in numbers.items() if _key(id, number, "claim") in objects}
    return {id: _claim_of(bucket, id, number, objects) for id, number in stored.items()}


def attempts_of(bucket: Bucket, ids: Sequence[str]) -> dict[str, list[Attempt]]:
    """The same for many experiments: one request for all that have no attempt."""
    first = bucket.get_many([_key(id, 0, "claim") for id in ids])
    return {id: attempts(bucket, id) if _key(id, 0, "claim") in first else [] for id in ids}


def claim_attempt(bucket: Bucket, id: str, node: str = "", pid: int | None = None) -> Claim | None:
    """Claim the next attempt for a process, this one by default, and write its first heartbeat.

    Returns:
        None when another attempt runs, another process was quicker, or the experiment has a record.

    Raises:
        DamagedObject: a claim.
    """
    number = 0
    if earlier := attempts(bucket, id):
        last = earlier[-1]
        if has_record(bucket, id):
            return None
        # Of a process elsewhere an observer has to judge: this one may just have started, and saw no heartbeat yet.
        if last.end is None and not end_if_process_gone(bucket, last):
            return None
        number = last.number + 1
    pid = os.getpid() if pid is None else pid
    claim = Claim(
        id=id,
        number=number,
        nonce=uuid.uuid4().hex,
        host=socket.gethostname(),
        place=process_tree.host_identity(),
        pid=pid,
        start=process_tree.start_time(pid),
        time=time.time(),
        node=node,
    )
    if not bucket.create(_key(id, number, "claim"), json.dumps(asdict(claim)).encode()):
        return None
    try:
        # The last process may have published and ended since that look; and a record may have come without an attempt.
        if has_record(bucket, id):
            end_attempt(bucket, id, number, CANCELLED, "it already had a result")
            return None
        write_beat(bucket, claim)
    except DamagedObject:
        raise
    except (BucketError, OSError) as error:
        # The claim is stored: without its process the attempt would count as dead, for a short outage.
        log.warning("The experiment %s was claimed, and then the bucket was out of reach: %s", id, error)
    return claim


def has_record(bucket: Bucket, id: str) -> bool:
    """Whether there is a record, which is not parsed."""
    return bucket.get(f"experiments/{id}/result.json") is not None


def write_beat(bucket: Bucket, claim: Claim, step: float | None = None) -> None:
    """Replace the heartbeat of the attempt.  `step`: how far the experiment is, for people."""
    body = {"attempt": claim.number, "nonce": claim.nonce, "worker": f"{claim.host}:{claim.pid}", "step": step}
    # The version of an object is a hash of its bytes in some stores, and must change although a clock stands still.
    body |= {"time": time.time(), "beat": uuid.uuid4().hex}
    bucket.put(f"{BEATS}/{claim.id}", json.dumps(body).encode())


def end_attempt(bucket: Bucket, id: str, number: int, kind: str, reason: str) -> bool:
    """Record the end of an attempt without a record; returns whether this end is the one that counts."""
    if kind not in KINDS:
        raise ValueError(f"The kind of an attempt's end is {kind!r}; expected one of {', '.join(KINDS)}.")
    end = End(kind, reason, time.time(), socket.gethostname())
    ended = bucket.create(_key(id, number, "end"), json.dumps(asdict(end)).encode())
    # Only by the writer of the end: by now the heartbeat may be that of the next attempt, which then would seem to be
    # without one until its next beat.
    if ended:
        bucket.delete(f"{BEATS}/{id}")
    return ended


def end_if_process_gone(bucket: Bucket, attempt: Attempt) -> bool:
    """Record the end of a running attempt if its process was one of this machine and is gone; returns whether so."""
    if not attempt.claim.is_here or attempt.claim.process_alive:
        return False
    end_attempt(bucket, attempt.claim.id, attempt.number, DEAD, "its worker died")
    return True


def running_attempt(bucket: Bucket, id: str) -> Attempt | None:
    """The attempt that runs now, for people and one-time looks; None when there is none, or its process is known gone.

    One of another machine counts as running until an observer (`bucket_watch`) has ended it.
    """
    last = next(reversed(attempts(bucket, id)), None)
    if last is None or last.end is not None:
        return None
    if last.claim.is_here:
        return last if last.claim.process_alive else None
    return last


def _key(id: str, number: int, name: str) -> str:
    return f"experiments/{id}/attempts/{number}/{name}.json"


def _claim_of(bucket: Bucket, id: str, number: int, objects: dict[str, bytes]) -> Claim:
    key = _key(id, number, "claim")

    def parse(raw: bytes) -> Claim:
        # One of 0.1.0 has no id, number and nonce.
        body = typed_fields(Claim, {"id": id, "number": number, "nonce": ""} | parse_json_object(raw))
        require_finite((body["time"], body["pid"]))
        return Claim(**body)

    return parse_object(bucket.url, key, objects[key], parse, f"experiments/{id}")


def _end_of(bucket: Bucket, id: str, number: int, objects: dict[str, bytes]) -> End | None:
    key = _key(id, number, "end")
    if key not in objects:
        return None

    def parse(raw: bytes) -> End:
        # One of 0.1.0 has no kind.
        body = {"kind": FAILED} | parse_json_object(raw)
        return End(**typed_fields(End, body | {"reason": str(body["reason"])}))

    try:
        return parse_object(bucket.url, key, objects[key], parse, f"experiments/{id}")
    except DamagedObject as error:
        # It is an end all the same: only its reason is lost.
        return End(FAILED, str(error))
