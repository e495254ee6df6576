"""The seam between the scheduler and what starts attempts, an engine: a batch in, one listing out, a batch cancelled.

To add a backend, write a class that inherits from `Backend`; only `submit` has no default.  A recipe names it by its
dotted path; a package registers it as an entry point of `ideator_rl.backends`; one of ours gets a line in `BUILT_IN`
and a file in this folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isclass
from typing import Any, Literal, Protocol

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
    "ray": "ideator_rl.executor.backends.ray.RayBackend",
    "in_process": "ideator_rl.executor.backends.in_process.InProcessBackend",
    "command": "ideator_rl.executor.backends.command.CommandBackend",
    "slurm": "ideator_rl.executor.backends.slurm.SlurmBackend",
}

WORKER_MODULE = "ideator_rl.executor.worker"
WORKER_MEMORY_GB = 1
"""For the worker itself, where an engine limits the memory of a job."""
WAITING: Literal["waiting"] = "waiting"
RUNNING: Literal["running"] = "running"
OVER: Literal["over"] = "over"
JOB_FAILED, JOB_PREEMPTED, NODE_FAIL, JOB_TIMEOUT, JOB_CANCELLED = (
    "failed",
    "preempted",
    "node_fail",
    "timeout",
    "cancelled",
)
"""Reasons why a job is over, as its engine gives them; empty for a job that ended well, or for no known reason."""

Runner = Callable[[Spec, Tree], Experiment]
"""Runs an experiment at once: the record of a specification and its codebase."""


@dataclass(frozen=True)
class Job:
    """One start of a worker for one experiment."""

    name: str
    """Equal for every scheduler of the bucket that would start this attempt: what makes a submission idempotent."""
    id: str
    """Of the experiment."""
    bucket: str
    """URL."""
    isolation: str
    resources: Resources
    minutes: int
    """Time limit, after which an engine may kill the job."""
    hardware: str = ""
    avoid: tuple[str, ...] = ()
    """Names of hosts where an attempt failed: an engine that can choose takes others."""
    least_isolation: str = ""
    """The weakest level at which it may run; empty for any.  `isolation` is how a worker chooses its own."""

    @property
    def config(self) -> dict[str, Any]:
        """The argument of the worker."""
        config = {"bucket": self.bucket, "id": self.id, "isolation": self.isolation, "minutes": self.minutes}
        more = {"hardware": self.hardware, "least_isolation": self.least_isolation}
        return config | {name: value for name, value in more.items() if value}

    @property
    def memory_gb(self) -> int:
        """GB (10^9 bytes) to ask of an engine: for the experiment, for its files in memory, and for the worker.

        /tmp and /dev/shm are in memory, and so may be the workspace where root starts the worker.  Engines start jobs
        as the user who submits them.
        """
        resources = self.resources
        workspace = resources.disk_gb if os.getuid() == 0 else 0.0
        files = resources.tmp_gb + resources.shm_gb + workspace
        return math.ceil(resources.memory_gb + files) + WORKER_MEMORY_GB

    def argv(self, python: str) -> list[str]:
        """The command of the worker.

        Args:
            python: an interpreter, on the machine of the worker, that has this package.
        """
        return [python, "-P", "-m", WORKER_MODULE, json.dumps(self.config)]


def job_prefix(bucket_url: str) -> str:
    """How the names of all jobs for a bucket begin."""
    return f"i{hashlib.sha256(bucket_url.encode()).hexdigest()[:8]}-"


def job_name(bucket_url: str, id: str, claimed: int) -> str:
    """The name of the job for the next attempt at an experiment, of which `claimed` were claimed so far."""
    return f"{job_prefix(bucket_url)}{id}-{claimed}"


def experiment_of(job_name: str) -> str:
    """The id of the experiment in the name of a job."""
    return job_name.partition("-")[2].rpartition("-")[0]


@dataclass(frozen=True)
class JobState:
    state: Literal["waiting", "running", "over"]
    reason: str = ""
    """Of a job that is over."""


class Backend(Protocol):
    """One thread, the scheduler's, calls all methods but `close`.  A call may block, and has a timeout of its own."""

    starts: bool = True
    """It starts attempts.  Else another process does, and `submit` is never called."""

    start: str = FORKED
    """`forked` or `cold`: how it is to start Python for workers and experiments.  Set before the first submission."""

    every: float = 0.0
    """Seconds between two listings; 0 for at each tick of the scheduler."""

    # With defaults, so that `super().__init__()` works in a class that was written without this base class.
    def __init__(self, bucket_url: str = "", slots: int | None = None, isolation: str = "auto") -> None:
        del bucket_url, slots, isolation

    @classmethod
    def create(
        cls, bucket: Bucket, slots: int | None, isolation: str, settings: dict[str, Any] | None = None
    ) -> Backend:
        """The backend for a bucket.

        Args:
            settings: the mapping `backend_config` of a recipe; a backend with settings reads it by a class of its own.

        Raises:
            IdeatorError: settings that it does not take.
        """
        if settings:
            raise IdeatorError(
                f"The backend {cls.__name__} has no settings, and backend_config sets {', '.join(map(str, settings))}. "
                "Leave backend_config out, or name the backend that it is for."
            )
        return cls(bucket.url, slots, isolation)

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        """Start jobs, in this order.

        A name that the engine already has is taken without a second job, unless the earlier one is over.

        Returns:
            For each name None where the engine has the job, or a sentence why it refused.  A name that is left out had
            no room now.  An error that leaves open whether the engine has the job is a sentence too: it is listed
            before it is submitted again.
        """
        ...

    def listing(self) -> dict[str, JobState] | None:
        """State by name of the jobs that the engine has, in one call; None where it cannot be found out now.

        A job that is over may be left out, at once or after a while.  Of several jobs of one name, the one that is not
        over counts.
        """
        return {}

    def cancel(self, names: list[str]) -> None:
        """End these jobs, in one call; a name that the engine does not have is no error."""
        del names

    def log_tail(self, name: str) -> str:
        """The last lines of the engine's log of a job, for a person; empty where there is none."""
        del name
        return ""

    def end_descriptors(self) -> list[int]:
        """Descriptors that become readable when a job ends: the scheduler then asks for a listing.

        A descriptor of a job that a listing showed as over is no longer among them.  By default there is none.
        """
        return []

    def close(self) -> None:
        """Release what serves to start jobs; those that run go on."""

    def refuse_if_too_large(self, resources: Resources) -> None:
        """Raises: IdeatorError when an experiment could never start here.  By default nothing is too large."""
        del resources

    def refuse_other_hardware(self, hardware: str, resources: Resources) -> None:
        """Raises: IdeatorError when this backend never has the hardware that a run declares.  By default it may."""
        del hardware, resources

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
    require_members("backends", name, backend, "submit")
    # A class written without the base class gets the defaults of the methods that it leaves out.
    if Backend not in backend.__mro__:
        return type(backend.__name__, (backend, Backend), {})
    return backend
