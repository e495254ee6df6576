"""Backends by name: who starts the experiments."""

from __future__ import annotations

from typing import Any, Protocol

from ideator_rl.environments.environment import Resources
from ideator_rl.registry import resolve

BUILT_IN = {
    "local": "ideator_rl.executor.backends.local.LocalBackend",
    "bucket": "ideator_rl.executor.backends.watched.WatchedBucket",
    "in_process": "ideator_rl.executor.backends.in_process.InProcessBackend",
}


class Backend(Protocol):
    """Made as `Class(bucket_url, slots, isolation)`.  Called by one thread; `active` by others too.

    A backend that answers at once has `runner(environment, preset)` besides, and is never asked to submit anything.
    """

    starts: bool
    """It starts experiments itself.  Of one that does not, attempts are counted in the bucket.  A class that says
    nothing starts them."""

    def submit(self, id: str, resources: Resources) -> bool:
        """Start an attempt at an experiment; False when there is no room now."""

    def active(self, id: str) -> bool:
        """Whether an attempt that was started here still goes on."""

    def refuse_if_too_large(self, resources: Resources) -> None:
        """Raises: IdeatorError when an experiment could never start here, however long it waited."""


def get_backend(name: str) -> Any:
    """The class of a backend: a name (`local`, `bucket`, `in_process`), entry point of `ideator_rl.backends`, or path.

    Raises:
        UnknownName: nothing is known by that name.
    """
    return resolve("backends", name, BUILT_IN)
