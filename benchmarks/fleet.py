"""A SIMULATED fleet: no experiment runs, and metrics are invented.  It tests trainers and schedulers, not ideas.

Three parts:

- `benchmarks.fleet.SimulatedFleet`, a backend (`backend: benchmarks.fleet.SimulatedFleet`) inside the trainer's
  process, for `memory://` and `file://` buckets.  No threads: it advances when the scheduler looks.  Its attempts die
  with the process.  Settings: the variable IDEATOR_FLEET, one JSON object of `Nature`'s fields, `slots` and `ledger`
  (a path).
- `python -m benchmarks.fleet --bucket file://…`, a process of its own that watches a file bucket as a cluster's
  scheduler does (`backend: bucket` for the trainer); may be killed and started again at any moment, and can
  simulate outages of the bucket.
- `benchmarks.fleet.HashedIdeas`, an implementer for `tests/toy_env`: every idea is a distinct change, so that
  thousands of distinct experiments cost next to nothing.

`read_ledger(path)` reads a ledger: for every experiment, how often it was started and the slot-seconds it took.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.fleet_floor import Attempt, Floor, Nature, read_ledger
from benchmarks.fleet_outage import Outage
from ideator_rl.environments.environment import Environment, Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import Backend
from ideator_rl.executor.retry import OUTAGE_ERRORS
from ideator_rl.ideas import Idea
from ideator_rl.implementers.implementer import Implementation
from ideator_rl.patch import PatchError, Tree
from ideator_rl.storage.bucket import Bucket, open_bucket

__all__ = ["HashedIdeas", "SimulatedFleet", "Watcher", "main", "read_ledger"]

VARIABLE = "IDEATOR_FLEET"
SLOTS = 64
LOOK_SECONDS, DISCOVER_SECONDS, RETRY_SECONDS = 0.02, 0.2, 1.0
"""Between two looks at the clock, at the bucket for new experiments, and for requested retries."""


class SimulatedFleet(Backend):
    """Slots inside this process; an experiment takes one, whatever its resources."""

    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        """
        Raises:
            IdeatorError: unknown settings, or a bucket with results that were measured.
        """
        del isolation
        settings = _settings(os.environ.get(VARIABLE, "{}"))
        slots, ledger = slots or settings.pop("slots", SLOTS), settings.pop("ledger", None)
        self.floor = Floor(open_bucket(bucket_url), slots, Nature(**settings), Path(ledger) if ledger else None)
        self.began, self._lock = time.time(), threading.Lock()

    def submit(self, id: str, resources: Resources) -> bool:
        with self._lock:
            self.floor.sweep()
            return self.floor.start(id)

    def active(self, id: str) -> bool:
        # Under a lock, since progress reports call this from another thread.
        with self._lock:
            self.floor.sweep()
            attempt = self.floor.running.get(id)
            # An attempt that an outage keeps from being published is over.
            return attempt is not None and not attempt.over

    def utilisation(self) -> float:
        """Share of the slots' time since the start that experiments took, running ones included."""
        now = time.time()
        busy = self.floor.slot_seconds + sum(now - attempt.started for attempt in list(self.floor.running.values()))
        return busy / (self.floor.slots * max(now - self.began, 1e-9))


def _settings(text: str) -> dict:
    settings, names = json.loads(text), {item.name for item in fields(Nature)} | {"slots", "ledger"}
    if unknown := set(settings) - names:
        raise IdeatorError(f"{VARIABLE} has {', '.join(sorted(unknown))}; expected {', '.join(sorted(names))}.")
    return settings


class HashedIdeas:
    """Scripted: the hash of an idea's text becomes the value of x in the toy's train.py.  Calls no model."""

    name = "hashed"
    trusted = True

    def version(self, environment: Environment) -> str:
        return self.name

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """
        Raises:
            PatchError: the codebase has no line that sets x in train.py.
        """
        line = next((line for line in base.get("train.py", "").splitlines() if line.startswith("x = ")), None)
        if line is None:
            raise PatchError("train.py has no line that sets x: HashedIdeas is for tests/toy_env.")
        value = int(idea.key[:12], 16) / 16**12 * 100 - 50
        edit = f"train.py\n<<<<<<< SEARCH\n{line}\n=======\nx = {value:.10f}\n>>>>>>> REPLACE\n"
        return Implementation(edit)


class Watcher:
    """Serves a bucket: new experiments in order of their appearance, each up to `max_attempts` times."""

    def __init__(self, bucket: Bucket, floor: Floor, max_attempts: int):
        self.bucket, self.floor, self.max_attempts = bucket, floor, max_attempts
        self._seen: set[str] = set()
        self._queue: deque[str] = deque()
        self._tries: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._next_discover = self._next_retry = self._next_heartbeat = 0.0

    def step(self) -> None:
        """Look once at everything; what an outage hides is looked at again in the next step."""
        for attempt in self.floor.sweep():
            self._ended(attempt)
        if self.floor.ledger:
            self.floor.ledger.mark_alive()
        with suppress(*OUTAGE_ERRORS):
            self._discover()
            self._start()
            if time.monotonic() >= self._next_heartbeat:
                self.floor.write_heartbeats()
                self._next_heartbeat = time.monotonic() + record_store.HEARTBEAT_SECONDS

    def _ended(self, attempt: Attempt) -> None:
        if attempt.succeeds:
            return
        self._tries[attempt.id] = self._tries.get(attempt.id, 0) + 1
        if self._tries[attempt.id] < self.max_attempts:
            self._queue.append(attempt.id)
        else:
            self._given_up.add(attempt.id)

    def _discover(self) -> None:
        now = time.monotonic()
        if now >= self._next_discover:
            self._next_discover = now + DISCOVER_SECONDS
            for id in self.bucket.names("experiments"):
                if id not in self._seen and self._take_on(id):
                    self._seen.add(id)
        if now >= self._next_retry:
            self._next_retry = now + RETRY_SECONDS
            for id in [id for id in self._given_up if record_store.retry_requested(self.bucket, id)]:
                self._given_up.discard(id)
                self._tries[id] = 0
                self._queue.append(id)

    def _take_on(self, id: str) -> bool:
        """Queue an experiment that is to be run; returns False when it has to be looked at again later."""
        if record_store.load_record(self.bucket, id) is not None:
            return True
        if record_store.Spec.load(self.bucket, id) is None:
            return False
        claimed = record_store.count_attempts(self.bucket, id)
        ends = (self.bucket.get(f"experiments/{id}/attempts/{number}/end.json") for number in range(claimed))
        self._tries[id] = sum(end is not None for end in ends)  # by an earlier process
        if self._tries[id] < self.max_attempts:
            self._queue.append(id)
        else:
            self._given_up.add(id)
        return True

    def _start(self) -> None:
        for _ in range(len(self._queue)):
            if len(self.floor.running) >= self.floor.slots:
                return
            id = self._queue[0]
            started = self.floor.start(id) or record_store.load_record(self.bucket, id) is not None
            self._queue.popleft()
            if not started:
                self._queue.append(id)  # another process runs it


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns 0."""
    args = _parser().parse_args(argv)
    nature = Nature(args.median, args.sigma, args.stragglers, args.factor, args.lost, args.seed)
    root = Path(unquote(urlsplit(args.bucket).path) if "://" in args.bucket else args.bucket).absolute()
    outage, stop = Outage(root), [False]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.__setitem__(0, True))
    bucket = open_bucket(args.bucket)
    ledger = args.ledger or root.with_name(root.name + ".ledger.jsonl")
    watcher = Watcher(bucket, Floor(bucket, args.slots, nature, ledger), args.max_attempts)
    print(f"a SIMULATED fleet of {args.slots} slots serves {bucket.url}: no experiment runs", flush=True)
    began = time.monotonic()
    try:
        while not stop[0]:
            if args.outage_every:
                into = (time.monotonic() - began) % (args.outage_every + args.outage_seconds)
                outage.begin() if into >= args.outage_every else outage.end()
            watcher.step()
            time.sleep(LOOK_SECONDS)
    finally:
        outage.end()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__.split("\n")[0])
    parser.add_argument("--bucket", required=True, help="file://… or a path")
    parser.add_argument("--slots", type=int, default=SLOTS)
    for item in fields(Nature):
        parser.add_argument(f"--{item.name}", type=type(item.default), default=item.default)
    parser.add_argument("--max-attempts", type=int, default=3)
    parser.add_argument("--outage-every", type=float, default=0.0, help="seconds between outages; 0 for none")
    parser.add_argument("--outage-seconds", type=float, default=5.0)
    parser.add_argument("--ledger", type=Path, help="default: next to the bucket")
    return parser


if __name__ == "__main__":
    sys.exit(main())
