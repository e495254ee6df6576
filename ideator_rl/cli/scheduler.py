"""`ideator-rl scheduler`: a scheduler on a machine of its own, for a bucket that other processes fill."""

from __future__ import annotations

import argparse
import asyncio
from functools import partial

from ideator_rl.cli.output import open_shared_bucket, print_progress, print_text
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.scheduler import Scheduler
from ideator_rl.experiment import Experiment

LOOK_SECONDS = 1.0


def main(args: argparse.Namespace) -> int:
    """Returns 0 when nothing was lost; without `--once` it runs until it is interrupted."""
    bucket = open_shared_bucket(args.bucket)
    backend = LocalBackend(bucket.url, args.slots, args.isolation)
    backend.start = args.start
    print_progress(f"serving {bucket.url} with {backend.slots} slots")
    return asyncio.run(_serve(Scheduler(bucket, backend, isolation=args.isolation), args.once))


async def _serve(scheduler: Scheduler, once: bool) -> int:
    lost: list[str] = []

    def ended(id: str, future: asyncio.Future[Experiment]) -> None:
        error = future.exception()
        if error is not None:
            lost.append(id)
        print_text(f"{id}  " + (f"lost: {error}" if error is not None else future.result().status))

    while True:
        for id, future in scheduler.discover().items():
            future.add_done_callback(partial(ended, id))
        if once and not scheduler.without_record:
            await asyncio.sleep(0)  # the last callbacks
            return 1 if lost else 0
        await asyncio.sleep(LOOK_SECONDS)
