"""Backends of 0.1.0, which start one attempt a call (`submit(id, resources)`, `active(id)`), on the seam of today."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from ideator_rl.executor.backends.backend import OVER, RUNNING, Backend, Job, JobState


def adapted(backend: Any) -> Backend:
    """The backend itself, or one that serves a backend of 0.1.0."""
    # `submit(jobs)` is today's; any second parameter without a default is that of 0.1.0.
    parameters = inspect.signature(backend.submit).parameters.values()
    if sum(parameter.default is parameter.empty for parameter in parameters) < 2:
        return backend  # type: ignore[no-any-return]
    warnings.warn(
        f"The backend {type(backend).__name__} has submit(id, resources) of version 0.1.0. Write submit(jobs) and "
        "listing() of `ideator_rl.executor.backends.Backend` instead.",
        DeprecationWarning,
        stacklevel=3,
    )
    return OneByOneBackend(backend)


class OneByOneBackend(Backend):
    """Asks a backend of 0.1.0 for one job after the other."""

    def __init__(self, backend: Any):
        self._backend = backend
        # Job → experiment, of those that were running at the last listing or were submitted since.
        self._ids: dict[str, str] = {}
        self.starts = getattr(backend, "starts", True)

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        taken: dict[str, str | None] = {}
        for job in jobs:
            if job.name not in self._ids and not self._backend.submit(job.id, job.resources):
                break
            taken[job.name] = None
            self._ids[job.name] = job.id
        return taken

    def listing(self) -> dict[str, JobState]:
        states = {name: JobState(RUNNING if self._backend.active(id) else OVER) for name, id in self._ids.items()}
        self._ids = {name: id for name, id in self._ids.items() if states[name].state == RUNNING}
        return states

    def end_descriptors(self) -> list[int]:
        of_backend = getattr(self._backend, "end_descriptors", None)
        return list(of_backend()) if of_backend is not None else []

    def close(self) -> None:
        if (of_backend := getattr(self._backend, "close", None)) is not None:
            of_backend()
