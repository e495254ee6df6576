"""What the bucket holds of one experiment: specification, attempts, record.  All of it is written here.

    queue/<id>                                a run waits for it: what it needs, put by whoever waits
    beats/<id>                                heartbeat of the attempt that runs
    trees/<sha256>.json                       a codebase; created once
    experiments/<id>/spec.json                what to run; created once
    experiments/<id>/attempts/<n>/            `claim.json` and `end.json`: see `claims`
    experiments/<id>/cancel.json              a person asked for its end
    experiments/<id>/result.json              the record, with the end of the log; created once, last
    experiments/<id>/log.txt                  the log, where it is longer than what the record holds
    experiments/<id>/record-<sha256>.json     the whole record, where it is too large for `result.json`
    done/<yyyymmdd>/<id>                      it has a record since that day (UTC): for readers that follow along
    .ideator/layout.json                      the version of this layout

Order: specification, queue; claim, heartbeat, record, log, done; queue and heartbeat are deleted last.  A killed
process leaves any step out.  So an observer that sees `queue/<id>` looks for the record first, a waiter whose id has
left the queue reads the record, and a specification that is not queued is run by no scheduler.

Guaranteed: an attempt is claimed once, and a record is written once.  An experiment runs twice at once only where a
process that still runs was out of reach for longer than the lease.

A damaged object raises `DamagedObject`, which names it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from ideator_rl.config.reader import parse_json_object
from ideator_rl.environments.environment import Preset, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.claims import (
    BEATS,
    CANCELLED,
    DEAD,
    FAILED,
    PREEMPTED,
    Attempt,
    Claim,
    End,
    attempts,
    attempts_of,
    claim_attempt,
    end_attempt,
    end_if_process_gone,
    has_record,
    read_claims,
    running_attempt,
    write_beat,
)
from ideator_rl.executor.queue import (
    QUEUE,
    QueueEntry,
    batches,
    cancel_requested,
    enqueue,
    job_minutes,
    leave_queue,
    read_queue,
    request_cancel,
    run_name,
    withdraw_cancel,
)
from ideator_rl.experiment import FINAL, Experiment, require_finite, typed_fields
from ideator_rl.patch import tree_hash
from ideator_rl.storage.bucket import Bucket, DamagedObject, parse_object, read_object
from ideator_rl.text.redaction import beginning_of, end_of

__all__ = ["BEATS", "CANCELLED", "DEAD", "FAILED", "PREEMPTED", "QUEUE", "Attempt", "Claim", "End", "QueueEntry",
           "Spec", "attempts", "attempts_of", "cancel_requested", "claim_attempt", "end_attempt", "end_if_process_gone",
           "enqueue", "has_record", "job_minutes", "leave_queue", "load_log", "load_record", "load_records",
           "load_tree", "queue_entry", "read_claims", "read_queue", "request_cancel", "request_run", "require_spec",
           "requested_before_upgrade", "run_name", "running_attempt", "save_record", "save_tree", "upgrade",
           "withdraw_cancel", "write_beat"]  # fmt: skip

BEAT_SECONDS = float(os.environ.get("IDEATOR_BEAT_SECONDS") or 30.0)
"""Between two heartbeats of an attempt."""
LEASE_SECONDS = float(os.environ.get("IDEATOR_LEASE_SECONDS") or 5 * BEAT_SECONDS)
"""An attempt elsewhere is dead when its heartbeat has not changed for so long."""
MAX_ATTEMPTS = 3
"""Of one round, without those that were preempted or cancelled."""
MAX_PREEMPTIONS = 20
"""Of one round: then preempted attempts count as failed ones."""
LAYOUT_KEY, LAYOUT_VERSION = ".ideator/layout.json", 2
MAX_RECORD_BYTES, LOG_TAIL_BYTES, MAX_LOG_BYTES = 16_384, 4_096, 10_000_000
"""Of `result.json`, of the end of the log in it, and of `log.txt`."""

log = logging.getLogger(__name__)


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


def require_spec(bucket: Bucket, id: str) -> None:
    """Raises: DamagedObject when no worker could run an experiment: its specification is damaged or was removed."""
    if Spec.load(bucket, id) is None:
        raise DamagedObject(f"The experiment {id} has no specification in the bucket {bucket.url}: ask for it again.")


def save_tree(bucket: Bucket, name: str, tree: dict[str, str]) -> None:
    """Raises: DamagedObject when another one is stored under its name."""
    if not bucket.create(f"trees/{name}.json", json.dumps(tree, sort_keys=True).encode()):
        load_tree(bucket, name)


def load_tree(bucket: Bucket, name: str) -> dict[str, str] | None:
    """Raises: DamagedObject."""
    return read_object(bucket, f"trees/{name}.json", partial(_parse_tree, name))


def load_record(bucket: Bucket, id: str) -> Experiment | None:
    """Raises: DamagedObject."""
    record, whole = read_object(bucket, _record_key(id), partial(_parse_record, id)) or (None, "")
    return _whole_record(bucket, id, whole) if whole else record


def load_records(bucket: Bucket, ids: Iterable[str]) -> Iterator[tuple[str, Experiment | DamagedObject]]:
    """The records that there are of these experiments, read many at a time; a damaged one is its error."""
    for batch in batches(ids):
        objects = bucket.get_many([_record_key(id) for id in batch])
        for id in batch:
            if (raw := objects.get(_record_key(id))) is None:
                continue
            try:
                record, whole = parse_object(bucket.url, _record_key(id), raw, partial(_parse_record, id))
                yield id, _whole_record(bucket, id, whole) if whole else record
            except DamagedObject as error:
                yield id, error


def _whole_record(bucket: Bucket, id: str, name: str) -> Experiment:
    key = f"experiments/{id}/{name}"
    record, _ = read_object(bucket, key, partial(_parse_record, id)) or (None, "")
    if record is None:
        raise DamagedObject(f"The record of the experiment {id} in the bucket {bucket.url} lacks its object {key}.")
    return record


def save_record(bucket: Bucket, record: Experiment, queued: bool = True) -> bool:
    """Write the record, unless the experiment has one already; returns whether this one was written.

    It may be called again after an error: what was stored stays.

    Args:
        queued: False for one that no run put into the queue.
    """
    short = replace(record, log=_tail(record.log))
    body = short.to_json().encode()
    if len(body) > MAX_RECORD_BYTES:
        # Under the hash of its content: an attempt whose record does not count must not change that of the one which
        # counts.
        name = f"record-{hashlib.sha256(body).hexdigest()}.json"
        bucket.create(f"experiments/{record.id}/{name}", body)
        body = _cut(short, name)
    written = bucket.create(_record_key(record.id), body)
    if written and short.log != record.log:
        bucket.put(f"experiments/{record.id}/log.txt", _both_ends(record.log.encode("utf-8", "replace")))
    bucket.put(f"done/{time.strftime('%Y%m%d', time.gmtime())}/{record.id}", b"")
    if queued:
        leave_queue(bucket, record.id)
        bucket.delete(f"{BEATS}/{record.id}")
    return written


def load_log(bucket: Bucket, record: Experiment) -> str:
    """The whole log of an experiment, or both ends of a very long one."""
    raw = bucket.get(f"experiments/{record.id}/log.txt")
    return record.log if raw is None else raw.decode("utf-8", "replace")


def _cut(record: Experiment, name: str) -> bytes:
    """The record in short, for readers of many: its long texts are cut, and `whole` names the object with all."""
    for room in (2_000, 200):
        cut = replace(
            record,
            idea=record.idea[:room],
            patch=record.patch[:room],
            log=end_of(record.log, room),
            text=beginning_of(record.text, room),
            error={key: beginning_of(value, room) for key, value in record.error.items()} if record.error else None,
            scoring=record.scoring if room > 200 else {},
        )
        body = json.dumps(json.loads(cut.to_json()) | {"whole": name}).encode()
        if len(body) <= MAX_RECORD_BYTES:
            break
    return body


def _tail(text: str) -> str:
    """The end of a log that takes at most `LOG_TAIL_BYTES` in JSON."""
    if len(json.dumps(text)) <= LOG_TAIL_BYTES:
        return text
    text = end_of(text, LOG_TAIL_BYTES)
    # Control and other characters take up to twelve bytes each.
    while (excess := len(json.dumps(text)) - LOG_TAIL_BYTES) > 0:
        text = end_of(text, len(text) - max(1, excess // 12))
    return text


def _both_ends(data: bytes) -> bytes:
    if len(data) <= MAX_LOG_BYTES:
        return data
    note = f"\n… {len(data) - MAX_LOG_BYTES} bytes left out …\n".encode()
    half = (MAX_LOG_BYTES - len(note)) // 2
    # Without the words that the cuts go through: half of a secret would not be known as one.
    text = data.decode("latin-1")
    return beginning_of(text, half).encode("latin-1") + note + end_of(text, half).encode("latin-1")


def queue_entry(spec: Spec, preset: Preset, **more: Any) -> QueueEntry:
    """The entry of an experiment.  `more`: further fields."""
    return QueueEntry(spec.id, preset.resources, job_minutes(preset), spec.environment, spec.preset, **more)


def request_run(bucket: Bucket, spec: Spec, preset: Preset, **more: Any) -> QueueEntry:
    """Store a specification and put its experiment into the queue; returns the entry.  `more`: further fields of it."""
    from_attempt = 0
    if not spec.save(bucket):
        # It was requested before: a new round of attempts begins, and an earlier cancellation does not count any more.
        from_attempt = sum(attempt.end is not None for attempt in attempts(bucket, spec.id))
        withdraw_cancel(bucket, spec.id)
    entry = queue_entry(spec, preset, created=spec.created, from_attempt=from_attempt, **more)
    enqueue(bucket, entry)
    return entry


def requested_before_upgrade(bucket: Bucket) -> list[str]:
    """Ids of all experiments of a bucket that no process has upgraded, for readers; empty for any other bucket."""
    if bucket.get(LAYOUT_KEY) is not None:
        return []
    keys = [f"experiments/{id}/spec.json" for id in bucket.list("experiments")]
    return [key.split("/")[1] for batch in batches(keys) for key in bucket.get_many(batch)]


def upgrade(bucket: Bucket) -> None:
    """Bring a bucket of 0.1.0 to this layout, once; to be called when a bucket is opened for writing.

    Experiments without a record are put into the queue where their environment can be loaded here.  Workers of 0.1.0
    must have ended.

    Raises:
        IdeatorError: a later version wrote the bucket.
    """
    version = read_object(bucket, LAYOUT_KEY, lambda raw: int(parse_json_object(raw)["version"]))
    if version is not None and version > LAYOUT_VERSION:
        raise IdeatorError(
            f"The bucket {bucket.url} has the layout {version} of a later version; this one reads up to "
            f"{LAYOUT_VERSION}. Install that version, or use another bucket."
        )
    if version is not None:
        return
    # Marks of the layout before this one: they hold no entry, and requests to run again have a number in their name.
    for name in bucket.list(QUEUE):
        if "." in name or not bucket.get(f"{QUEUE}/{name}"):
            bucket.delete(f"{QUEUE}/{name}")
    for batch in batches(bucket.list("experiments")):
        records = bucket.get_many([_record_key(id) for id in batch])
        for id in batch:
            if _record_key(id) not in records:
                _enqueue_old(bucket, id)
    bucket.put(LAYOUT_KEY, json.dumps({"version": LAYOUT_VERSION}).encode())


def _enqueue_old(bucket: Bucket, id: str) -> None:
    """Put an experiment of 0.1.0 into the queue."""
    try:
        if (spec := Spec.load(bucket, id)) is not None:
            preset = load_environment(spec.environment).preset(spec.preset)
            # `wanted/<n>`: it was to be run again although n attempts had led to no record.
            rounds = [int(name.partition(".")[0]) for name in bucket.list(f"experiments/{id}/wanted")]
            enqueue(bucket, queue_entry(spec, preset, created=spec.created, from_attempt=max(rounds, default=0)))
    except IdeatorError as error:
        log.warning("The experiment %s of an earlier version is not put into the queue: %s", id, error)


def _record_key(id: str) -> str:
    return f"experiments/{id}/result.json"


def _parse_spec(id: str, raw: bytes) -> Spec:
    body = parse_json_object(raw)
    # What a later version asks for beyond this must not be left out in silence.
    if surplus := sorted(body.keys() - {item.name for item in fields(Spec)}):
        raise ValueError(f"{surplus[0]!r} is not known to this version")
    spec = Spec(**typed_fields(Spec, body))
    require_finite((spec.implement_seconds, spec.created))
    if spec.id != id:
        raise ValueError(f"it is of the experiment {spec.id[:64]!r}")
    return spec


def _parse_tree(name: str, raw: bytes) -> dict[str, str]:
    tree = parse_json_object(raw)
    if tree_hash(tree) != name:
        raise ValueError("its content has another hash")
    return tree


def _parse_record(id: str, raw: bytes) -> tuple[Experiment, str]:
    """A record, and the name of the object that holds the whole of it; empty where this one does."""
    record = Experiment.from_json(raw)
    if record.id != id:
        raise ValueError(f"it is of the experiment {record.id[:64]!r}")
    if record.status not in FINAL:
        raise ValueError(f"a record has no status {record.status[:64]!r}")
    record.check()
    # A key of the file alone: the record that is read in the end has none.
    whole = str(parse_json_object(raw).get("whole", "")) if b'"whole"' in raw else ""
    return record, whole
