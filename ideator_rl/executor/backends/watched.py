"""The backend `bucket`: starts nothing; other processes watch the bucket and run what is in its queue.

`ideator-rl scheduler` and `ideator-rl worker` are such processes.  An experiment that they gave up has left the queue
without a record: it is lost for the run that waits for it, too.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
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


def want(bucket: Bucket, id: str) -> None:
    """Request an experiment of the bucket anew.  For plugins of 0.1.0; new code uses `record_store.request_run`."""
    if (spec := record_store.Spec.load(bucket, id)) is not None:
        # Of another time, so that it counts as a second request, which begins a new round of attempts.
        spec = replace(spec, created=time.time())
        record_store.request_run(bucket, spec, load_environment(spec.environment).preset(spec.preset))


def wanted(bucket: Bucket, id: str) -> bool:
    """Whether a run waits for an experiment.  For plugins of 0.1.0; new code uses `record_store.read_queue`."""
    return id in record_store.read_queue(bucket, [id])
