"""The backend `bucket`: starts nothing; another process watches the bucket and runs what is put there.

`ideator-rl scheduler` on another machine is such a process.  Each watcher stops after some attempts of its own.  When
an experiment that was given up is proposed again, such as a week later, a new round of attempts is requested.
"""

from __future__ import annotations

from ideator_rl._imports import renamed
from ideator_rl.environments.environment import Resources
from ideator_rl.executor import record_store
from ideator_rl.executor.backends.backend import Backend
from ideator_rl.storage.bucket import Bucket

__getattr__ = renamed(__name__)


class WatchedBucket(Backend):
    starts = False

    def __init__(self, bucket: Bucket):
        self._bucket = bucket

    @classmethod
    def create(cls, bucket: Bucket, slots: int | None, isolation: str) -> WatchedBucket:
        return cls(bucket)  # slots and isolation are the watcher's own

    def submit(self, id: str, resources: Resources) -> bool:
        """Request an attempt; there is always room."""
        record_store.request_retry(self._bucket, id)
        return True

    def active(self, id: str) -> bool:
        return False
