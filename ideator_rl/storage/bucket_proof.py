"""Proves that a bucket keeps its guarantees: writers race for the same objects, and each race has one winner."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from ideator_rl.storage.bucket_protocol import Bucket, BucketError

PROOF = ".ideator/proved-1.json"
"""Stored once a bucket has passed; the number changes with the way in which an adapter writes."""
WRITERS, RACES = 8, 5


def ensure_proved(bucket: Bucket) -> None:
    """Prove a bucket, unless a process has done so before.

    Raises:
        BucketError: it cannot be reached, or does not keep its guarantees.
    """
    if bucket.get(PROOF) is None:
        prove(bucket)
        bucket.put(PROOF, json.dumps({"races": RACES, "writers": WRITERS}).encode())


def prove(bucket: Bucket, races: int = RACES) -> None:
    """Let writers race for objects of their own, which are removed afterwards.

    Raises:
        BucketError: a race had not one winner, an object was replaced, or the listing lacks one.
    """
    folder, own = ".ideator/proof", uuid.uuid4().hex
    keys = [f"{folder}/{own}-{number}" for number in range(races)]
    try:
        for key in keys:
            winners = _race(bucket, key)
            if winners != 1 or bucket.create(key, b"one more"):
                raise BucketError(
                    f"The store at {bucket.url} does not do conditional writes ({winners} of {WRITERS} writers won). "
                    "Use one that honours If-None-Match: * when an object is put, or a folder on a local disk."
                )
        missing = set(keys) - {f"{folder}/{name}" for name in bucket.list(folder)}
        if missing:
            raise BucketError(
                f"The store at {bucket.url} does not list {len(missing)} of {races} objects that were created. Use one "
                "whose listings are consistent, or a folder on a local disk."
            )
    finally:
        for key in keys:
            bucket.delete(key)


def _race(bucket: Bucket, key: str) -> int:
    """How many of several writers created the object, by what they were answered."""
    start = threading.Barrier(WRITERS)

    def write(writer: int) -> bool:
        start.wait()
        return bucket.create(key, f"{key} {writer}".encode())

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(write, range(WRITERS)))
