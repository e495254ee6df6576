"""`ideator-rl cancel`: end a run's trainer and its experiments, wherever they run.

A request in the bucket (`cancel.json`) reaches every worker with its next heartbeat, and no scheduler starts what is
cancelled.  Beyond that, what this machine can end at once is ended at once: its own workers, and the jobs of an engine,
with one listing and one cancellation.

A process is signalled only if its id and its start time are those in the run's lock or in the experiment's claim.
Stored results stay: `--resume` continues the run, and asks for the cancelled experiments again.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ideator_rl.cli.output import print_json, print_text
from ideator_rl.cli.target import Process, bucket_at, find_trainer, run_folder
from ideator_rl.config.backend_config import read_backend_config
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import backend_class
from ideator_rl.executor.backends.backend import OVER, experiment_of
from ideator_rl.executor.record_store import BEATS, QUEUE
from ideator_rl.experiment import RUNNING
from ideator_rl.storage.bucket import Bucket, DamagedObject
from ideator_rl.storage.run_reader import Run, read_run

END_SECONDS = 10.0
"""For a process to end after a signal."""
WORKER_END_SECONDS = 5.0
"""For a worker, before it is killed."""
REASON = "cancelled by `ideator-rl cancel`"


def main(args: argparse.Namespace) -> int:
    """Returns 0 when all that could be reached has ended or was asked to end; nothing to end is no failure."""
    folder = run_folder(args.target)
    recipe: dict[str, Any] = read_run(folder).recipe if folder is not None else {}
    # Opened first: a trainer that has ended while its experiments cannot be found is only half cancelled.
    bucket = bucket_at(args.target if folder is None else str(recipe.get("bucket") or folder / "bucket"))
    process = find_trainer(folder) if folder is not None else None
    if process is not None:
        _end(process)
    ids = _outstanding(bucket)
    if folder is not None and recipe.get("bucket"):
        # Other runs may use it: end only the experiments that this run waits for, as its trainer left them.
        ids = _of_run(bucket, ids, folder, read_run(folder))
    # Before any worker ends: its end is then the cancellation, and no scheduler starts another attempt.
    record_store.request_cancel(bucket, ids)
    backend, settings = args.backend, args.backend_config
    if backend is None:
        backend, settings = recipe.get("backend") or "local", recipe.get("backend_config")
    try:
        # First the engine's jobs: one that waits could start while workers here are ended.
        jobs = _cancel_jobs(bucket, backend, settings, ids)
    finally:
        ended = end_workers_here(bucket, ids)
    if args.json:
        facts = {"trainer": process.pid if process else None, "experiments": ids, "ended_here": ended, "jobs": jobs}
        print_json(facts)
        return 0
    if process is not None:
        print_text(f"ended the run, process {process.pid}")
    print_text(f"cancelled {len(ids)} experiments" + (": " + ", ".join(ids) if ids else ""))
    print_text(f"{len(ended)} workers ended on this machine, {len(jobs)} jobs cancelled at the backend {backend}")
    if len(ids) > len(ended) + len(jobs):
        print_text(f"Workers elsewhere end within {record_store.BEAT_SECONDS:g} s, after their next heartbeat.")
    if folder is not None:
        print_text("Finished experiments are stored; the same line with --resume goes on.")
    return 0


def _outstanding(bucket: Bucket) -> list[str]:
    """Ids of the experiments that a run waits for, or that have a heartbeat."""
    record_store.upgrade(bucket)
    return sorted({*bucket.list(QUEUE), *bucket.list(BEATS)})


def _of_run(bucket: Bucket, ids: Collection[str], folder: Path, run: Run) -> list[str]:
    """Of the outstanding experiments of a bucket, those that this run waits for; its baselines and reruns included."""
    names = {os.path.realpath(folder), str(run.recipe.get("output_dir"))}  # an earlier version put the latter
    entries = record_store.read_queue(bucket, ids)
    # Two machines may have runs at one path, and the same bucket: of these, only one proposed an idea.
    proposed = {row.idea for row in run.rollouts} | {""}
    waiting = {row.idea for row in run.rollouts if row.status == RUNNING}
    own = []
    for id in ids:
        name = entries[id].run if id in entries else ""
        # Without an entry it was cancelled before, and runs on; one of 0.1.0 names no run.  Its idea decides alone.
        if name and name not in names and os.path.realpath(name) not in names:
            continue
        try:
            spec = record_store.Spec.load(bucket, id)
        except DamagedObject:
            spec = None
        # Of this run, and without its specification: no run can have it run.
        if spec.idea in (proposed if name else waiting) if spec is not None else bool(name):
            own.append(id)
    return own


def _cancel_jobs(bucket: Bucket, backend_name: str, settings: Any, ids: Collection[str]) -> list[str]:
    """Cancel the jobs of these experiments at their engine, with one listing and one call; returns their names.

    Raises:
        IdeatorError: the engine does not list its jobs, or refuses to end them.
    """
    backend = backend_class(backend_name).create(bucket, None, "auto", read_backend_config(settings))
    try:
        states = backend.listing()
        if states is None:
            raise IdeatorError(
                f"The backend {backend_name} does not list its jobs now. Workers end after their next heartbeat; "
                "repeat the command to end jobs that wait."
            )
        names = [name for name, state in states.items() if state.state != OVER and experiment_of(name) in ids]
        if names:
            backend.cancel(names)
        return names
    finally:
        backend.close()


def end_workers_here(bucket: Bucket, ids: Collection[str]) -> list[str]:
    """End the workers of these experiments on this machine, and mark their attempts as cancelled.

    Returns:
        The ids of the experiments whose worker ended.

    Raises:
        IdeatorError: a worker does not end.
    """
    attempts = [record_store.running_attempt(bucket, id) for id in ids]
    claims = [attempt.claim for attempt in attempts if attempt is not None and attempt.claim.is_here]
    # The process of a claim with a node is a pull worker, which runs others as well; its workers see the request.
    claims = [claim for claim in claims if not claim.node]
    processes = {claim: Process(claim.pid, str(claim.start)) for claim in claims}
    for process in processes.values():
        # One that is stopped would not notice the first.
        for number in (signal.SIGTERM, signal.SIGCONT):
            process.signal(number)
    deadline = time.monotonic() + WORKER_END_SECONDS
    for claim, process in processes.items():
        with suppress(IdeatorError):
            _wait(process, deadline - time.monotonic())
        process.signal(signal.SIGKILL)
        _wait(process, END_SECONDS)
        # The end that the worker wrote itself counts, where it could.
        record_store.end_attempt(bucket, claim.id, claim.number, record_store.CANCELLED, REASON)
    return [claim.id for claim in claims]


def _end(process: Process) -> None:
    """Ask the process to end; kill it when it does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.signal(number)
        with suppress(IdeatorError):
            return _wait(process, END_SECONDS)
    _wait(process, END_SECONDS)


def _wait(process: Process, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.alive:
        if time.monotonic() > deadline:
            raise IdeatorError(
                f"Process {process.pid} does not end: it is stuck in the kernel. Wait until it is gone, then repeat."
            )
        time.sleep(0.02)
