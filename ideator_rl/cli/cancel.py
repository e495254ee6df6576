"""`ideator-rl cancel`: end a run's trainer and its experiments on this machine.

A process is signalled only while it is the one that took the run's lock or claimed the experiment: pid and start time
both.  Nothing that was stored is lost: `--resume` takes the run up again.  Other schedulers that serve the same bucket
may start a cancelled experiment anew; end those first.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from ideator_rl.cli.output import emit, show
from ideator_rl.cli.target import Process, bucket_at, entries, run_folder, trainer
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import store, worker
from ideator_rl.experiment import RUNNING
from ideator_rl.storage.bucket import Bucket
from ideator_rl.storage.records import read_run

PATIENCE_SECONDS = 10.0
REASON = "cancelled by `ideator-rl cancel`"


def main(args: argparse.Namespace) -> int:
    """Returns 0 when nothing of it is at work here any more; nothing to end is no failure."""
    folder = run_folder(args.target)
    stopped = None
    if folder is not None and (stopped := trainer(folder)) is not None:
        _end(stopped)
    ended = _end_experiments(folder, args.target)
    if args.json:
        emit({"trainer": stopped.pid if stopped else None, "experiments": ended})
        return 0
    if stopped is not None:
        show(f"ended the run, process {stopped.pid}")
    show(f"ended {len(ended)} running experiments" + (": " + ", ".join(ended) if ended else ""))
    if folder is not None:
        show("Nothing that was finished is lost; the same line with --resume goes on.")
    return 0


def _end_experiments(folder: Path | None, target: str) -> list[str]:
    if folder is None:
        bucket = bucket_at(target)
        return cancel(bucket, [e.id for e in entries(bucket) if e.claim])
    run = read_run(folder)
    given = run.recipe.get("bucket")
    bucket = bucket_at(str(given or folder / "bucket"))
    running = [e for e in entries(bucket) if e.claim]
    if given:  # others may use it: take only what this run waits for
        ideas = {row.idea for row in run.rollouts if row.status == RUNNING}
        running = [e for e in running if e.spec is not None and e.spec.idea in ideas]
    return cancel(bucket, [e.id for e in running])


def cancel(bucket: Bucket, ids: list[str]) -> list[str]:
    """End these experiments where they run on this machine, and mark their attempts; returns the ids ended.

    Raises:
        IdeatorError: a worker does not end.
    """
    claimed = {id: (store.count_attempts(bucket, id) - 1, store.running_claim(bucket, id)) for id in ids}
    ended = worker.cancel(bucket, ids)
    for id in ended:
        number, claim = claimed[id]
        if claim is not None:
            _wait(Process(claim["pid"], claim["start"]), PATIENCE_SECONDS)
            store.abandon_attempt(bucket, id, number, REASON)
    return ended


def _end(process: Process) -> None:
    """Ask it to end; then end it."""
    for asked in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            if process.alive:
                os.kill(process.pid, asked)
        with suppress(IdeatorError):
            return _wait(process, PATIENCE_SECONDS)
    _wait(process, PATIENCE_SECONDS)


def _wait(process: Process, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.alive:
        if time.monotonic() > deadline:
            raise IdeatorError(f"Process {process.pid} does not end; it hangs in the kernel. Look at it, then repeat.")
        time.sleep(0.02)
