"""How often a dispatcher looks at its bucket and its backend."""

from __future__ import annotations

import random

from ideator_rl.storage.bucket import Bucket

HERE_SECONDS, HERE_FRACTION, HERE_FACTOR = (0.1, 0.5), 1 / 50, 20
"""On this machine: a fraction of the time since something happened, within bounds, and at least a multiple of the time
that a look takes."""
YOUNG_SECONDS, YOUNG_LOOK, REMOTE_LOOK = 60.0, 2.0, (5.0, 10.0)
"""Over a network, in requests that cost money: while something happened lately, and else.  Observers spread out."""

CLAIM_CHECK_SECONDS = 10.0
"""Between two reads of an attempt elsewhere that has no heartbeat."""
TICK_SECONDS = 0.1
"""Between two tries to find room at a backend that reports no ends."""


def look_interval(bucket: Bucket, took: float, quiet: float, by_others: bool) -> float:
    """Seconds from the begin of a look to the next one.

    Args:
        took: seconds of the last look.
        quiet: seconds since something was requested or ended.
        by_others: what waits is run by other processes, or comes from them.
    """
    if bucket.remote:
        return YOUNG_LOOK if by_others and quiet < YOUNG_SECONDS else random.uniform(*REMOTE_LOOK)
    least, most = HERE_SECONDS
    return max(min(max(least, HERE_FRACTION * quiet), most), min(HERE_FACTOR * took, REMOTE_LOOK[1]))
