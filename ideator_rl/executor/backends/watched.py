"""The backend `bucket`: starts nothing; another process watches the bucket and runs what is put there.

`ideator-rl scheduler` on another machine is such a process.  Each watcher stops after some attempts of its own.  When
an experiment that was given up is proposed again, such as a week later, a new round of attempts is requested.
"""

from __future__ import annotations

from typing import Any

from ideator_rl._imports import renamed
from ideator_rl.executor import record_store
from ideator_rl.executor.backends.backend import Backend, Job
from ideator_rl.storage.bucket import Bucket

__getattr__ = renamed(__name__)


class WatchedBucket(Backend):
    starts = False

    def __init__(self, bucket: Bucket):
        self._bucket = bucket

    @classmethod
    def create(
        cls, bucket: Bucket, slots: int | None, isolation: str, settings: dict[str, Any] | None = None
    ) -> WatchedBucket:
        return cls(bucket)  # slots, isolation and settings are the watcher's own

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        """Request attempts; there is always room."""
        for job in jobs:
            record_store.request_retry(self._bucket, job.id)
        return {job.name: None for job in jobs}
