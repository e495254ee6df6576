"""`ideator-rl worker`: run on this node what a bucket waits for, without an engine and without a scheduler."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress

from ideator_rl.cli.interrupt import before_exit
from ideator_rl.cli.output import open_shared_bucket, print_progress
from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store, share
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.node import Terms
from ideator_rl.executor.pull_worker import PullWorker
from ideator_rl.executor.services import ServiceReporter

SLURM_END = "SLURM_JOB_END_TIME"
"""Slurm sets it in a job: Unix seconds."""


def main(args: argparse.Namespace) -> int:
    """Returns 0 at the end of the node's time, or when nothing has come for `--idle` seconds."""
    cpus, gpus = _slots(args.slots, args.gpus)
    share.refuse_other_hardware(args.hardware, share.gpus() if gpus else [])
    bucket = open_shared_bucket(args.bucket)
    record_store.upgrade(bucket)
    backend = LocalBackend(bucket.url, max(1, cpus), args.isolation)
    # Refused here where the slots' folder has no locks.
    backend.refuse_if_too_large(Resources(1, 0, 1))
    backend.start = args.start
    until = args.until or _slurm_end()
    terms = Terms(cpus, gpus, isolation=args.isolation, idle=args.idle, until=until)
    worker = PullWorker(bucket, backend, terms, print_progress)
    reporter = ServiceReporter(bucket, "worker", worker.facts)

    def stop() -> None:
        worker.stop()
        reporter.close()

    before_exit(stop)
    print_progress(f"serving {bucket.url} with slots for {cpus} CPUs and {gpus} GPUs")
    with reporter:
        worker.serve()
    return 0


def _slurm_end() -> float:
    """The end of the job of Slurm around this process, in Unix seconds; infinite outside of one.

    Raises:
        IdeatorError: the variable has another value.
    """
    text = os.environ.get(SLURM_END) or "inf"
    try:
        return float(text)
    except ValueError:
        raise IdeatorError(f"{SLURM_END} is {text!r}. Expected Unix seconds: correct it, or give --until.") from None


def _slots(cpus: int | None, gpus: int | None) -> tuple[int, int]:
    """Slots for experiments that need CPUs alone, and for those that need GPUs; of one kind where only that was named.

    Raises:
        IdeatorError: this process may use fewer GPUs.
    """
    if gpus is not None:
        if (available := len(share.gpus())) < gpus:
            raise IdeatorError(f"--gpus is {gpus}, and this process may use {available} GPUs. Ask for at most so many.")
        return 0, gpus
    if cpus is not None:
        return cpus, 0
    # Without GPUs that can be used, such as parts of one (MIG), CPUs are what this node offers.
    with suppress(IdeatorError):
        return share.cpu_share(), len(share.gpus())
    return share.cpu_share(), 0
