"""The floor of a simulated fleet: its slots, the fate of each experiment, and a ledger of what experiments took.

No experiment runs here.  An attempt claims its experiment as a worker does, takes a slot for the seconds that `Nature`
draws, and then publishes a record or is abandoned; all of it when `sweep` compares clocks.  Records have the isolation
`simulated`, and a bucket with any other record is refused, so that invented metrics never mix with measured ones.  The
process that claims must live: claims die with it, as those of a machine do.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.retry import OUTAGE_ERRORS
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket

SIMULATED = "simulated"
MARK = "simulated.json"
RETRY_SECONDS = 0.5
"""Between two tries at publishing during an outage."""
KILLED = "killed"


@dataclass(frozen=True)
class Nature:
    """The fate of an experiment: drawn once for each id, so that it is the same after any restart."""

    median: float = 1.0
    """Seconds, of a lognormal distribution."""
    sigma: float = 0.8
    """Standard deviation of the logarithm."""
    stragglers: float = 0.05
    """Share of experiments that take `factor` times as long."""
    factor: float = 10.0
    lost: float = 0.05
    """Share of experiments of which every attempt is abandoned, somewhere on the way."""
    seed: int = 0

    def fate(self, id: str, attempt: int) -> tuple[float, bool]:
        """Seconds that an attempt takes, and whether it gives a result."""
        draw = random.Random(f"{self.seed} {id}")
        kind, seconds = draw.random(), self.median * math.exp(self.sigma * draw.gauss(0.0, 1.0))
        if kind < self.lost:
            return seconds * random.Random(f"{self.seed} {id} {attempt}").random(), False
        return seconds * (self.factor if kind < self.lost + self.stragglers else 1.0), True

    def metric(self, tree: str) -> float:
        """The invented metric of a codebase: log-normal around 3, whatever its code."""
        draw = random.Random(hashlib.sha256(f"{self.seed} {tree}".encode()).hexdigest())
        return 3.0 * math.exp(0.5 * draw.gauss(0.0, 1.0))


@dataclass
class Attempt:
    id: str
    number: int
    claim: record_store.Claim
    spec: record_store.Spec
    started: float
    """Unix seconds."""
    seconds: float
    succeeds: bool

    @property
    def over(self) -> bool:
        return time.time() >= self.started + self.seconds


@dataclass
class Cost:
    """What one experiment took."""

    starts: int = 0
    seconds: float = 0.0
    """Of slots.  Of an attempt whose fleet was killed: until it was last seen alive."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """`succeeded`, `gave up`, `killed`; open attempts have none."""


class LedgerFile:
    """A file of JSON lines: one when an attempt was claimed, one when it ended.  It survives a kill of the process."""

    def __init__(self, path: Path):
        """Open, and close the attempts that a killed process left open."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        left, last_alive = list(_open_attempts(path)), path.stat().st_mtime if path.exists() else 0.0
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for id, attempt, started in left:
            self.end(id, attempt, max(0.0, last_alive - started), KILLED)

    def start(self, id: str, attempt: int) -> None:
        self._write({"start": id, "attempt": attempt, "time": time.time()})

    def end(self, id: str, attempt: int, seconds: float, outcome: str) -> None:
        self._write({"end": id, "attempt": attempt, "seconds": seconds, "outcome": outcome})

    def mark_alive(self) -> None:
        os.utime(self._path)

    def _write(self, line: dict[str, object]) -> None:
        os.write(self._handle, (json.dumps(line) + "\n").encode())


def read_ledger(path: Path) -> dict[str, Cost]:
    """What experiments took, by id."""
    paid: defaultdict[str, Cost] = defaultdict(Cost)
    for line in _lines(path):
        if "start" in line:
            paid[line["start"]].starts += 1
        else:
            paid[line["end"]].seconds += line["seconds"]
            paid[line["end"]].outcomes[line["outcome"]] += 1
    return dict(paid)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with open(path, encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))


def _open_attempts(path: Path) -> Iterator[tuple[str, int, float]]:
    started = {}
    for line in _lines(path):
        if "start" in line:
            started[line["start"], line["attempt"]] = line["time"]
        else:
            started.pop((line["end"], line["attempt"]), None)
    for (id, attempt), start_time in started.items():
        yield id, attempt, start_time


class Floor:
    def __init__(self, bucket: Bucket, slots: int, nature: Nature, ledger: Path | None = None):
        """
        Raises:
            IdeatorError: the bucket holds measured records.
        """
        refuse_if_real(bucket)
        self.bucket, self.slots, self.nature = bucket, slots, nature
        self.ledger = LedgerFile(ledger) if ledger else None
        self.running: dict[str, Attempt] = {}
        self.slot_seconds = 0.0
        """Of the attempts that have ended."""
        self._unsure: set[str] = set()
        self._ends: list[tuple[float, str]] = []
        self._environments: dict[str, Environment] = {}

    def start(self, id: str) -> bool:
        """Claim an experiment and take a slot; False when none is free (see `sweep`), or there is nothing to claim."""
        if id in self.running or len(self.running) >= self.slots:
            return False
        spec = record_store.Spec.load(self.bucket, id)
        claim = self._claim(id) if spec is not None else None
        if spec is None or claim is None:
            return False
        number = claim.number
        seconds, succeeds = self.nature.fate(id, number)
        self.running[id] = attempt = Attempt(id, number, claim, spec, time.time(), seconds, succeeds)
        heapq.heappush(self._ends, (attempt.started + seconds, id))
        if self.ledger:
            self.ledger.start(id, number)
        return True

    def _claim(self, id: str) -> record_store.Claim | None:
        """As a worker does; but this process outlives an outage that hid from it whether its claim was written."""
        try:
            claim = record_store.claim_attempt(self.bucket, id)
        except OUTAGE_ERRORS:
            self._unsure.add(id)
            raise
        if claim is None and id in self._unsure and record_store.load_record(self.bucket, id) is None:
            running = record_store.running_attempt(self.bucket, id)
            own = (process_tree.host_identity(), os.getpid())
            if running is not None and (running.claim.place, running.claim.pid) == own:
                claim = running.claim
        self._unsure.discard(id)
        return claim

    def sweep(self) -> list[Attempt]:
        """Publish the attempts that have ended and free their slots; returns them.  An outage only delays that."""
        ended = []
        while self._ends and self._ends[0][0] <= time.time():
            _, id = heapq.heappop(self._ends)
            try:
                self._publish(self.running[id])
            except OUTAGE_ERRORS:
                heapq.heappush(self._ends, (time.time() + RETRY_SECONDS, id))
                continue
            ended.append(self.running.pop(id))
        return ended

    def write_beats(self) -> None:
        """For all attempts."""
        for attempt in self.running.values():
            record_store.write_beat(self.bucket, attempt.claim)

    def _publish(self, attempt: Attempt) -> None:
        if attempt.succeeds:
            record_store.save_record(self.bucket, self._record(attempt))
        else:
            reason = "simulated: it is one of those that are lost"
            record_store.end_attempt(self.bucket, attempt.id, attempt.number, record_store.FAILED, reason)
        self.slot_seconds += attempt.seconds
        if self.ledger:
            outcome = SUCCEEDED if attempt.succeeds else "gave up"
            self.ledger.end(attempt.id, attempt.number, attempt.seconds, outcome)

    def _record(self, attempt: Attempt) -> Experiment:
        spec = attempt.spec
        if spec.environment not in self._environments:
            self._environments[spec.environment] = load_environment(spec.environment)
        environment = self._environments[spec.environment]
        value = self.nature.metric(spec.tree)
        queue = max(0.0, attempt.started - spec.created - spec.implement_seconds)
        return spec.new_record(
            SUCCEEDED,
            environment.name,
            metric={"name": environment.metric.name, "value": value, "direction": environment.metric.direction},
            seconds={"implement": spec.implement_seconds, "queue": queue, "run": attempt.seconds, "score": 0.0},
            log="simulated: no experiment was run",
            isolation=SIMULATED,
            attempt=attempt.number,
            finished=attempt.started + attempt.seconds,
        )


def refuse_if_real(bucket: Bucket) -> None:
    """Mark a bucket as one of a simulated fleet.

    Raises:
        IdeatorError: it holds a result that was measured.
    """
    if bucket.get(MARK) is not None:
        return
    for id in bucket.names("experiments"):
        record = record_store.load_record(bucket, id)
        if record is not None and record.tree and record.isolation != SIMULATED:
            raise IdeatorError(
                f"The bucket {bucket.url} holds results that were measured, such as {id}; a simulated fleet invents "
                "its own. Give it a new bucket."
            )
    bucket.create(MARK, b"{}")
