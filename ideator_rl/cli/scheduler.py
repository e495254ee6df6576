"""`ideator-rl scheduler`: starts on an engine, or on this machine, what the runs of a bucket wait for."""

from __future__ import annotations

import argparse
import math
import queue
from contextlib import closing
from functools import partial
from typing import Any

from ideator_rl.cli.output import open_shared_bucket, print_json, print_progress, print_text
from ideator_rl.config.backend_config import read_backend_config
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import Backend, backend_class
from ideator_rl.executor.backends.backend import WAITING
from ideator_rl.executor.retry import Retry
from ideator_rl.executor.scheduler import Lost, Scheduler
from ideator_rl.executor.services import ServiceReporter
from ideator_rl.experiment import LOST, Experiment
from ideator_rl.storage.bucket import Bucket

PATIENCE_SECONDS = 0.2
"""Between two looks at whether anything waits, for `--once`."""


def main(args: argparse.Namespace) -> int:
    """Returns 0 when nothing was lost; without `--once` it runs until it is interrupted."""
    bucket = open_shared_bucket(args.bucket)
    backend = _create_backend(args, bucket)
    record_store.upgrade(bucket)
    slots = getattr(backend, "slots", None)
    print_progress(f"serving {bucket.url} by {args.backend}" + (f" with {slots} slots" if slots else ""))
    # A service never gives up on its bucket.
    retry = Retry(bucket.url, math.inf)
    scheduler = Scheduler(
        bucket, backend, retry=retry, isolation=args.isolation, hardware=args.hardware, every=args.every
    )
    facts = partial(_facts, scheduler, args.backend)
    with closing(backend), closing(scheduler), ServiceReporter(bucket, "scheduler", facts):
        return _serve(scheduler, args.once, args.json)


def _create_backend(args: argparse.Namespace, bucket: Bucket) -> Backend:
    settings = read_backend_config(args.backend_config)
    backend = backend_class(args.backend).create(bucket, args.slots, args.isolation, *([settings] if settings else ()))
    if not backend.starts:
        raise IdeatorError(
            f"The backend {args.backend} starts no experiments of a bucket. Give one that does, such as local or slurm."
        )
    backend.start = args.start
    return backend


def _facts(scheduler: Scheduler, backend: str) -> dict[str, Any]:
    jobs = scheduler.dispatcher.jobs
    return {
        "backend": backend,
        "queued": jobs.count(WAITING),
        "running": scheduler.running_count,
        "breaker": jobs.breaker.reason,
    }


def _serve(scheduler: Scheduler, once: bool, as_json: bool) -> int:
    ends: queue.SimpleQueue[tuple[str, Experiment | Lost]] = queue.SimpleQueue()
    scheduler.serve(lambda id, outcome: ends.put((id, outcome)))
    lost = 0
    while True:
        # Asked before the ends are taken: what ends in between has been put there.
        over = once and scheduler.dispatcher.looks > 0 and not scheduler.without_record
        try:
            id, outcome = ends.get(timeout=PATIENCE_SECONDS if once else None)
        except queue.Empty:
            if over:
                return 1 if lost else 0
            continue
        lost += isinstance(outcome, Lost)
        _print_end(id, outcome, as_json)


def _print_end(id: str, outcome: Experiment | Lost, as_json: bool) -> None:
    status, error = (LOST, str(outcome)) if isinstance(outcome, Lost) else (outcome.status, "")
    if as_json:
        print_json({"id": id, "status": status} | ({"error": error} if error else {}))
    else:
        print_text(f"{id}  {status}" + (f": {error}" if error else ""))
