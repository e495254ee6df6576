"""An experiment that waits in the queue of a bucket, for workers to take."""

import asyncio

from ideator_rl.executor.queue import read_queue


async def queued_baseline(executor):
    """Propose the baseline, and give up waiting once it is queued; returns its entry."""
    waiting = asyncio.ensure_future(executor.baseline())
    while not (ids := executor.bucket.list("queue/")):
        await asyncio.sleep(0.02)
    waiting.cancel()
    (entry,) = read_queue(executor.bucket, [next(iter(ids))]).values()
    return entry
