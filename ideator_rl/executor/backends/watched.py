"""The backend `bucket`: starts nothing; other processes watch the bucket and run what is in its queue.

`ideator-rl scheduler` and `ideator-rl worker` are such processes.  An experiment that they gave up has left the queue
without a record: it is lost for the run that waits for it, too.
"""

from __future__ import annotations

from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.backend import Backend, Job
from ideator_rl.storage.bucket import Bucket


class WatchedBucket(Backend):
    starts = False

    @classmethod
    def create(
        cls, bucket: Bucket, slots: int | None, isolation: str, settings: dict[str, Any] | None = None
    ) -> WatchedBucket:
        return cls()  # slots, isolation and settings are the watcher's own

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        raise IdeatorError("The backend bucket starts no attempts: other processes do.")
