"""`ideator-rl cancel`: end a run's trainer and its experiments on this machine.

A process is signalled only if its id and its start time are those in the run's lock or in the experiment's claim.
Stored results stay: `--resume` continues the run.  Other schedulers of the same bucket may start a cancelled
experiment again; end them first.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from ideator_rl.cli.output import print_json, print_text
from ideator_rl.cli.target import Process, bucket_at, find_trainer, read_entries, run_folder
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store, worker
from ideator_rl.experiment import RUNNING
from ideator_rl.storage.bucket import Bucket
from ideator_rl.storage.run_reader import read_run

END_SECONDS = 10.0
"""For a process to end after a signal."""
REASON = "cancelled by `ideator-rl cancel`"


def main(args: argparse.Namespace) -> int:
    """Returns 0 when none of its processes is at work on this machine; nothing to end is no failure."""
    folder = run_folder(args.target)
    process = find_trainer(folder) if folder is not None else None
    if process is not None:
        _end(process)
    ids = _end_experiments(folder, args.target)
    if args.json:
        print_json({"trainer": process.pid if process else None, "experiments": ids})
        return 0
    if process is not None:
        print_text(f"ended the run, process {process.pid}")
    print_text(f"ended {len(ids)} running experiments" + (": " + ", ".join(ids) if ids else ""))
    if folder is not None:
        print_text("Finished experiments are stored; the same line with --resume goes on.")
    return 0


def _end_experiments(folder: Path | None, target: str) -> list[str]:
    if folder is None:
        bucket = bucket_at(target)
        return cancel(bucket, [entry.id for entry in read_entries(bucket) if entry.claim])
    run = read_run(folder)
    shared_bucket = run.recipe.get("bucket")
    bucket = bucket_at(str(shared_bucket or folder / "bucket"))
    running = [entry for entry in read_entries(bucket) if entry.claim]
    if shared_bucket:  # other runs may use it: end only the experiments that this run waits for
        ideas = {row.idea for row in run.rollouts if row.status == RUNNING}
        running = [entry for entry in running if entry.spec is not None and entry.spec.idea in ideas]
    return cancel(bucket, [entry.id for entry in running])


def cancel(bucket: Bucket, ids: list[str]) -> list[str]:
    """End these experiments where they run on this machine, and mark their attempts.

    Returns:
        The ids of the experiments that were ended.

    Raises:
        IdeatorError: a worker does not end.
    """
    # Read before the workers are killed: afterwards the claims no longer count.
    attempts = {id: (record_store.count_attempts(bucket, id) - 1, record_store.running_claim(bucket, id)) for id in ids}
    ended = worker.cancel(bucket, ids)
    for id in ended:
        attempt, claim = attempts[id]
        if claim is not None:
            _wait(Process(claim["pid"], claim["start"]), END_SECONDS)
            record_store.abandon_attempt(bucket, id, attempt, REASON)
    return ended


def _end(process: Process) -> None:
    """Ask the process to end; kill it when it does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            if process.alive:
                os.kill(process.pid, number)
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
