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
import math
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.fleet_floor import Floor, Nature, read_ledger
from benchmarks.fleet_outage import Outage
from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import attempt_policy, record_store
from ideator_rl.executor.backends import Backend, Job, JobState
from ideator_rl.executor.backends.backend import OVER, RUNNING
from ideator_rl.executor.retry import OUTAGE_ERRORS, Retry
from ideator_rl.executor.scheduler import Scheduler
from ideator_rl.ideas import Idea
from ideator_rl.implementers.implementer import Implementation
from ideator_rl.patch import PatchError, Tree
from ideator_rl.storage.bucket import open_bucket

__all__ = ["HashedIdeas", "SimulatedFleet", "main", "read_ledger"]

VARIABLE = "IDEATOR_FLEET"
SLOTS = 64
LOOK_SECONDS = 0.02
"""Between two looks at the clock."""


class SimulatedFleet(Backend):
    """Slots inside this process; an experiment takes one, whatever its resources."""

    def __init__(
        self, bucket_url: str, slots: int | None = None, isolation: str = "auto", settings: dict | None = None
    ):
        """
        Raises:
            IdeatorError: unknown settings, or a bucket with results that were measured.
        """
        del isolation
        settings = settings or _settings(os.environ.get(VARIABLE, "{}"))
        slots, ledger = slots or settings.pop("slots", SLOTS), settings.pop("ledger", None)
        self.floor = Floor(open_bucket(bucket_url), slots, Nature(**settings), Path(ledger) if ledger else None)
        self.began, self._next_beat = time.time(), 0.0
        self._ids: dict[str, str] = {}

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        answers: dict[str, str | None] = {}
        for job in jobs:
            # What cannot be claimed now is running or over: its next look shows which.
            if not self.floor.start(job.id) and len(self.floor.running) >= self.floor.slots:
                break
            answers[job.name] = None
            self._ids[job.name] = job.id
        return answers

    def listing(self) -> dict[str, JobState]:
        self.floor.sweep()
        self._keep_alive()
        states = {}
        for name, id in list(self._ids.items()):
            attempt = self.floor.running.get(id)
            # An attempt that an outage keeps from being published is over.
            states[name] = JobState(OVER if attempt is None or attempt.over else RUNNING)
            if states[name].state == OVER:
                del self._ids[name]
        return states

    def _keep_alive(self) -> None:
        if self.floor.ledger:
            self.floor.ledger.mark_alive()
        if time.monotonic() >= self._next_beat:
            with suppress(*OUTAGE_ERRORS):
                self.floor.write_beats()
            self._next_beat = time.monotonic() + record_store.BEAT_SECONDS

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
    settings = vars(nature) | {"slots": args.slots, "ledger": str(ledger)}
    fleet = SimulatedFleet(bucket.url, settings=settings)
    # Seconds stand for minutes here.
    attempt_policy.BACKOFF_SECONDS = (0.1, 0.2, 0.4)
    scheduler = Scheduler(bucket, fleet, args.max_attempts, retry=Retry(bucket.url, math.inf))
    scheduler.serve(lambda id, outcome: None)
    print(f"a SIMULATED fleet of {args.slots} slots serves {bucket.url}: no experiment runs", flush=True)
    began = time.monotonic()
    try:
        while not stop[0]:
            if args.outage_every:
                into = (time.monotonic() - began) % (args.outage_every + args.outage_seconds)
                outage.begin() if into >= args.outage_every else outage.end()
            time.sleep(LOOK_SECONDS)
        scheduler.close()
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
