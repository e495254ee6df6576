"""The backend `bucket`: starts nothing; whoever watches the bucket runs what is put there.

`ideator-rl scheduler` on another machine is one who watches.  Each watcher has tries of its own and stops after them.
An experiment that is wanted all the same, such as one proposed again a week later, is asked for once more:

    experiments/<id>/wanted/<n>.json   created after n attempts that gave no result: somebody waits, try again
"""

from __future__ import annotations

from ideator_rl.environments.environment import Resources
from ideator_rl.executor import store as attempts
from ideator_rl.storage.bucket import Bucket, open_bucket


class WatchedBucket:
    starts = False

    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        del slots, isolation  # the watcher's own
        self._bucket = open_bucket(bucket_url)

    def refuse_if_too_large(self, resources: Resources) -> None:
        """Nothing is known here of the machines."""

    def submit(self, id: str, resources: Resources) -> bool:
        """Say that somebody waits; always room."""
        want(self._bucket, id)
        return True

    def active(self, id: str) -> bool:
        return False


def want(bucket: Bucket, id: str) -> None:
    """Ask for one more round of tries at an experiment that was given up."""
    if number := attempts.attempts(bucket, id):
        bucket.create(f"experiments/{id}/wanted/{number}.json", b"{}")


def wanted(bucket: Bucket, id: str) -> bool:
    """Somebody waits for the experiment although all attempts so far gave no result."""
    number = attempts.attempts(bucket, id)
    return bucket.get(f"experiments/{id}/wanted/{number}.json") is not None
