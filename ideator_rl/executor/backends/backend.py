"""The base class of backends, which start the attempts at experiments, and the backends by name.

To add one, write a class that inherits from `Backend`.  A recipe names it by its dotted path; a package registers it as
an entry point of `ideator_rl.backends`; one of ours gets a line in `BUILT_IN` and a file in this folder.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isclass
from typing import Protocol

from ideator_rl.environments.environment import Environment, Preset, Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.record_store import Spec
from ideator_rl.experiment import Experiment
from ideator_rl.patch import Tree
from ideator_rl.registry import require_members, resolve
from ideator_rl.sandbox.program import FORKED
from ideator_rl.storage.bucket import Bucket

BUILT_IN = {
    "local": "ideator_rl.executor.backends.local.LocalBackend",
    "bucket": "ideator_rl.executor.backends.watched.WatchedBucket",
    "in_process": "ideator_rl.executor.backends.in_process.InProcessBackend",
}

Runner = Callable[[Spec, Tree], Experiment]
"""Runs an experiment at once: the record of a specification and its codebase."""


class Backend(Protocol):
    """One thread calls all methods; other threads call `active` as well."""

    starts: bool = True
    """It starts attempts itself, and the scheduler counts those.  Else attempts are counted in the bucket."""

    start: str = FORKED
    """`forked` or `cold`: how it is to start Python for workers and experiments.  Set before the first submission."""

    # With defaults, so that `super().__init__()` works in a class that was written without this base class.
    def __init__(self, bucket_url: str = "", slots: int | None = None, isolation: str = "auto") -> None:
        del bucket_url, slots, isolation

    @classmethod
    def create(cls, bucket: Bucket, slots: int | None, isolation: str) -> Backend:
        """The backend for a bucket.  Override it to use the bucket object that the executor has open."""
        return cls(bucket.url, slots, isolation)

    def submit(self, id: str, resources: Resources) -> bool:
        """Start an attempt at an experiment; False when there is no room now."""
        ...

    def active(self, id: str) -> bool:
        """Whether an attempt that was started here still runs."""
        ...

    def end_descriptors(self) -> list[int]:
        """Descriptors that become readable when an attempt that was started here ends: the scheduler then looks.

        Called by the thread that calls `submit`.  A descriptor of an attempt that had ended is no longer among them.
        By default there is none.
        """
        return []

    def close(self) -> None:
        """Release what serves to start attempts; those that run go on."""

    def refuse_if_too_large(self, resources: Resources) -> None:
        """Raises: IdeatorError when an experiment could never start here.  By default nothing is too large."""
        del resources

    def runner(self, environment: Environment, preset: Preset) -> Runner | None:
        """For a backend that runs an experiment at once: what runs it.  `submit` is then never called."""
        del environment, preset
        return None


def backend_class(name: str) -> type[Backend]:
    """The class behind a name (`local`, `bucket`, `in_process`), entry point of `ideator_rl.backends`, or dotted path.

    Raises:
        UnknownName: no backend has that name.
        IdeatorError: the name is not that of a class.
    """
    backend: type[Backend] = resolve("backends", name, BUILT_IN)
    if not isclass(backend):
        raise IdeatorError(f"The backend {name} is {backend!r}. Expected a class with the methods of `Backend`.")
    require_members("backends", name, backend, "submit", "active")
    # A class written without the base class gets the defaults of the methods that it leaves out.
    if Backend not in backend.__mro__:
        return type(backend.__name__, (backend, Backend), {})
    return backend
