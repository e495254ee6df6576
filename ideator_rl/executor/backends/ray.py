"""The backend `ray`: each job is a detached actor with the job's name, which runs the worker as a child process.

A scheduler that starts again finds the actors by name.  Ray reserves CPUs, GPUs and memory for an actor, and starts and
releases nodes where it scales.  Nodes need this package only in the interpreter that `python` names.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ideator_rl.config.base import read_config
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends import backend as seam
from ideator_rl.executor.backends.backend import Backend, Job, JobState
from ideator_rl.executor.backends.command import OWN_INTERPRETER
from ideator_rl.executor.backends.ray_actor import LINGER_SECONDS, LOG_BYTES, worker_actor
from ideator_rl.executor.backends.ray_settings import RaySettings
from ideator_rl.executor.backends.timed_calls import TimedCalls
from ideator_rl.executor.start_worker import worker_variables
from ideator_rl.storage.bucket import Bucket, credential_variables

MAX_TAILS = 100
RECONNECT_SECONDS = 7 * 86400
"""Ray ends processes that use it when its head has been away for longer; by default after a minute."""


class RayBackend(Backend):
    """The scheduler's thread calls the methods; other threads make Ray's calls, which may hang."""

    def __init__(self, bucket: Bucket, slots: int | None, settings: RaySettings):
        try:
            import ray
        except ImportError as error:
            raise IdeatorError("The backend ray needs the cluster's release of ray: pip install ray.") from error
        self.settings, self.every, self._ray = settings, settings.every, ray
        self._most, self._prefix = min(slots or settings.most, settings.most), seam.job_prefix(bucket.url)
        if missing := [name for name in settings.variables if name not in os.environ]:
            raise IdeatorError(f"The backend ray is to pass {missing[0]} to workers, but it is not set here.")
        credentials = credential_variables() if bucket.remote else {}
        self._variables = worker_variables(credentials | {name: os.environ[name] for name in settings.variables})
        for name in OWN_INTERPRETER if settings.python else ():
            self._variables.pop(name, None)
        # By name: the actor, and its answers that it runs and how its worker ended.  For the calls alone.
        self._jobs: dict[str, tuple[Any, Any, Any]] = {}
        self._cancelled: set[str] = set()
        self._tails: dict[str, str] = {}
        self._call = TimedCalls(settings.timeout)
        try:
            self._call(self._connect)
        except Exception as error:
            raise IdeatorError(f"No Ray cluster answers at {settings.address}. {_text(error)}") from error

    @classmethod
    def create(cls, bucket: Bucket, slots: int | None, isolation: str, settings: Any = None) -> RayBackend:
        """Raises: IdeatorError: wrong settings, no package ray, or no cluster."""
        del isolation  # part of each job
        return cls(bucket, slots, read_config(RaySettings, settings or {}, "The backend_config of ray has"))

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        results: dict[str, str | None] = {}
        for job in jobs[: max(0, self._most - len(self._jobs))]:
            try:
                results[job.name] = self._call(self._start, job)
            except Exception as error:
                results[job.name] = f"Ray started no actor: {_text(error)}"
        return results

    def listing(self) -> dict[str, JobState] | None:
        try:
            return self._call(self._list)  # type: ignore[no-any-return]
        except Exception:  # the head is away, or slow
            return None

    def cancel(self, names: list[str]) -> None:
        self._call(self._cancel, names)

    def log_tail(self, name: str) -> str:
        return self._tails.get(name, "")

    def _connect(self) -> None:
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(RECONNECT_SECONDS))
        self._ray.init(self.settings.address, namespace=self.settings.namespace, log_to_driver=False,
                       logging_level="ERROR", ignore_reinit_error=True)  # fmt: skip

    def _start(self, job: Job) -> None:
        actor = self._ray.remote(worker_actor()).options(
            name=job.name, lifetime="detached", get_if_exists=True, max_restarts=0, max_task_retries=0,
            max_concurrency=8, num_cpus=job.resources.cpus, num_gpus=job.resources.gpus,
            memory=job.memory_gb * 10**9, resources=self.settings.resources,
        )  # fmt: skip
        argv = job.argv(self.settings.python or sys.executable)
        self._adopt(job.name, actor.remote(argv, self._variables, LOG_BYTES, LINGER_SECONDS))

    def _adopt(self, name: str, actor: Any) -> None:
        self._jobs[name] = (actor, actor.ready.remote(), actor.outcome.remote())

    def _list(self) -> dict[str, JobState]:
        listed = {name for name in self._ray.util.list_named_actors() if name.startswith(self._prefix)}
        for name in listed - self._jobs.keys():  # of an earlier scheduler, or of another one
            try:
                self._adopt(name, self._ray.get_actor(name))
            except ValueError:
                continue  # it has ended meanwhile
        done = self._done([answer for _, *answers in self._jobs.values() for answer in answers])
        states = {}
        for name, (_, ready, outcome) in list(self._jobs.items()):
            over = outcome in done or name not in listed
            running = seam.RUNNING if ready in done else seam.WAITING
            states[name] = JobState(seam.OVER, self._end(name)) if over else JobState(running)
        return states

    def _done(self, answers: list[Any]) -> set[Any]:
        return set(self._ray.wait(answers, num_returns=len(answers), timeout=0)[0]) if answers else set()

    def _end(self, name: str) -> str:
        """Forget an actor whose worker has ended; returns the reason."""
        actor, _, outcome = self._jobs.pop(name)
        try:
            status, log = self._ray.get(outcome, timeout=self.settings.timeout)
            self._ray.kill(actor)  # so that its name and its CPUs are free now
            reason = seam.JOB_FAILED if status else ""
        except self._ray.exceptions.RayActorError as error:
            # The actor only waits for its child: unless it could not start that, its death is the node's doing.
            reason, log = seam.JOB_FAILED if error.actor_init_failed else seam.NODE_FAIL, str(error)[-LOG_BYTES:]
            reason = seam.JOB_PREEMPTED if getattr(error, "preempted", False) else reason
        if reason:
            self._tails[name] = log
            # Only the last ones are asked for.
            self._tails.pop(next(iter(self._tails)) if len(self._tails) > MAX_TAILS else "", "")
        if name in self._cancelled:
            self._cancelled.remove(name)
            reason = seam.JOB_CANCELLED
        return reason

    def _cancel(self, names: list[str]) -> None:
        jobs = {name: self._jobs[name] for name in names if name in self._jobs}
        self._cancelled |= jobs.keys()
        running = self._done([ready for _, ready, _ in jobs.values()])
        for actor, ready, _ in jobs.values():
            # Where the worker runs, it can still write why it ended.
            actor.stop.remote() if ready in running else self._ray.kill(actor)


def _text(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [f"{type(error).__name__}: no answer in time."])[0][:300]
