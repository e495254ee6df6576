"""The backend `local`: workers as detached processes on this machine, within CPU and GPU slots.

A worker is forked from a zygote (`executor.zygote`), or, with `start: cold`, is a new interpreter.

A slot is a file that the worker keeps locked for as long as it lives.  The kernel releases the lock after any kill, and
several runs of one user on one machine share the slots: one for each processor and GPU.  A run takes as many as its
`slots` allows, at first those of its own share (`executor.share`).  The file names the holder, for runs that wait.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import share, spool
from ideator_rl.executor.backends.backend import OVER, RUNNING, Backend, Job, JobState
from ideator_rl.executor.start_worker import RunningWorker, ZygoteClient, ZygoteRefused, start_worker, worker_variables
from ideator_rl.files import try_lock
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.mounts import GPUS_VARIABLE
from ideator_rl.sandbox.process_tree import readable
from ideator_rl.sandbox.program import COLD, FORKED
from ideator_rl.text.display import visible

MAX_REFUSALS = 3
"""Of zygotes, before all further experiments start cold."""
WAITING_SECONDS, WAITING_AGAIN_SECONDS = 10.0, 300.0
"""A run without a worker says that it waits for other runs after the first, and again after the second."""
UNUSABLE_SECONDS = 600.0
"""Slots may be unusable for so long before experiments are lost for it."""
MAX_ERRORS_KEPT = 100
"""Workers whose standard error is kept."""

log = logging.getLogger(__name__)


class SlotsUnusable(IdeatorError):
    """The files of slots cannot be opened."""


class LocalBackend(Backend):
    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        self._bucket_url, self._isolation = bucket_url, isolation
        self.slots = slots or share.cpu_share()
        processors = share.processors()
        # More slots than processors: those in excess are shared by all runs that want so many.
        self._cpus = processors + [number for number in range(self.slots) if number not in processors]
        self._cpus = self._cpus[: max(self.slots, len(processors))]
        # The scheduler's thread alone reads and writes what follows.  Workers started here, by job:
        self._processes: dict[str, RunningWorker] = {}
        # What ended workers wrote to their standard error, by job.
        self._errors: dict[str, str] = {}
        self._cpus_in_use: dict[str, tuple[str, int]] = {}
        # Since when the files of slots cannot be opened; None while they can.
        self._unusable_since: float | None = None
        # Since when no worker runs and no slot is free.
        self._waiting_since: float | None = None
        self._next_waiting_line = 0.0
        # Started with the first experiment, and dropped when it has died.
        self._zygote: ZygoteClient | None = None
        self._refusals = 0
        # Called once a job has its slots: what is added to the worker's configuration, or None to start nothing.  The
        # pull worker sets it, to claim the attempt itself.
        self.before_start: Callable[[Job], dict[str, Any] | None] = lambda job: {}

    @cached_property
    def _gpus(self) -> list[int]:
        # Looked for when an experiment needs one: parts of a GPU (MIG) may serve the ideator alone.
        return share.gpus()

    def refuse_if_too_large(self, resources: Resources) -> None:
        """Raises: IdeatorError when an experiment could never start here."""
        handle, path = _open_slot("check")
        try:
            try_lock(handle, path, shared=True)  # refused here where the folder has no locks
        finally:
            os.close(handle)
        gpus = len(self._gpus) if resources.gpus else 0
        for kind, needed, available in (("CPU", resources.cpus, self.slots), ("GPU", resources.gpus, gpus)):
            if needed > available and not (kind == "CPU" and resources.gpus):
                raise IdeatorError(
                    f"An experiment of this preset needs {needed} {kind} slots and this machine offers {available}. "
                    "Choose a smaller preset, or more slots."
                )

    def refuse_other_hardware(self, hardware: str, resources: Resources) -> None:
        """Raises: UnfitNode when this machine is another than the declared one: its workers would start nothing."""
        try:
            share.refuse_other_hardware(hardware, self._gpus if resources.gpus else [])
        except share.UnfitNode as error:
            raise share.UnfitNode(
                f"{error} Here, the backend local runs all experiments: change the recipe's key hardware, hide other "
                "GPUs with CUDA_VISIBLE_DEVICES, or choose another backend."
            ) from error

    # With the second parameter it is `submit(id, resources)` of 0.1.0, which subclasses of that version call.
    def submit(self, jobs: list[Job], resources: Resources | None = None) -> dict[str, str | None]:
        """Start a worker for each job, in this order, until no slot is free."""
        if resources is not None:
            id = str(jobs)
            return self._start(Job(id, id, self._bucket_url, self._isolation, resources, 0))  # type: ignore[return-value]
        taken: dict[str, str | None] = {}
        for job in jobs:
            try:
                if not (self.active(job.name) or self._start(job)):
                    break
            except SlotsUnusable as error:
                # No room, or too few descriptors, for a moment: what waits must not be lost for that.
                now = time.monotonic()
                if self._unusable_since is None:
                    self._unusable_since = now
                    log.warning("No experiment starts now, and each is tried again: %s", error)
                if now - self._unusable_since > UNUSABLE_SECONDS:
                    raise
                break
            self._unusable_since = None
            taken[job.name] = None
        return taken

    def _start(self, job: Job) -> bool:
        """Start a worker; False when no slot is free now."""
        resources = job.resources
        # An experiment on GPUs takes GPU slots alone.
        needed_cpus = resources.cpus if resources.gpus == 0 else 0
        # A worker whose record waits for the bucket has released its slots.
        waiting = spool.waiting_ids()
        in_use = sum(
            cpus for name, (id, cpus) in list(self._cpus_in_use.items()) if self.active(name) and id not in waiting
        )
        if in_use + needed_cpus > self.slots:
            return False
        holder = {"pid": os.getpid(), "since": time.time(), "bucket": self._bucket_url, "experiment": job.id}
        cpus: dict[int, int] | None = None
        gpus: dict[int, int] | None = {}
        try:
            cpus = _take_slots("cpu", self._cpus, needed_cpus, holder)
            if cpus is not None and resources.gpus:
                gpus = _take_slots("gpu", self._gpus, resources.gpus, holder)
            if cpus is None or gpus is None:
                self._say_waiting("cpu" if cpus is None else "gpu")
                return False
            self._waiting_since = None
            variables = {GPUS_VARIABLE: ",".join(str(index) for index in gpus)} if gpus else {}
            sandbox = best_sandbox()  # probed once here, instead of by each worker
            config = job.config | {"probed": {"level": sandbox.level, "reason": sandbox.reason}}
            if (more := self.before_start(job)) is None:
                return False
            config |= more
            slots = [*cpus.values(), *gpus.values()]
            worker = self._fork(config, variables, slots) if self.start == FORKED else None
            self._processes[job.name] = worker or start_worker(config, variables, slots)
            self._cpus_in_use[job.name] = job.id, needed_cpus
        finally:
            # A worker has inherited the descriptors, and with them the locks; without one the slots are free again.
            _release(cpus or {})
            _release(gpus or {})
        return True

    def _fork(self, config: dict[str, Any], variables: dict[str, str], slots: list[int]) -> RunningWorker | None:
        """A worker forked from the zygote; None where that is impossible now."""
        try:
            if self._zygote is None:
                self._zygote = ZygoteClient(worker_variables({}))
            worker = self._zygote.fork_worker(config, variables, slots)
            self._refusals = 0
            return worker
        except (OSError, ZygoteRefused) as error:
            self._refusals += 1
            always = self._refusals >= MAX_REFUSALS
            log.warning("%s cold: %s.", "From here on, experiments start" if always else "An experiment starts", error)
            self.start = COLD if always else self.start
            self.close()
            return None

    def listing(self) -> dict[str, JobState]:
        """Each running worker, and once more each that has ended since the last listing."""
        return {name: JobState(RUNNING if self.active(name) else OVER) for name in list(self._processes)}

    def cancel(self, names: list[str]) -> None:
        """Ask workers to end, which they do with a reason in the bucket."""
        for name in names:
            if (worker := self._processes.get(name)) is not None:
                # By its descriptor: the pid may belong to another process by now.
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(worker.end, signal.SIGTERM)

    def end_all(self, seconds: float) -> None:
        """Ask all workers to end, and wait for that.

        Takes no lock: it may run in another thread, while a signal has stopped the one that calls the other methods.
        """
        workers = list(self._processes.values())
        self.cancel(list(self._processes))
        deadline = time.monotonic() + seconds
        for worker in workers:
            readable(worker.end, max(0.0, deadline - time.monotonic()))

    def active(self, name: str) -> bool:
        """Whether the worker of a job is still alive."""
        worker = self._processes.get(name)
        if worker is None or worker.running():
            return worker is not None
        del self._processes[name]
        self._cpus_in_use.pop(name, None)
        if text := worker.close():
            self._errors[name] = text
            # The scheduler asks soon, and only for workers that claimed nothing.
            if len(self._errors) > MAX_ERRORS_KEPT:
                del self._errors[next(iter(self._errors))]
        return False

    def log_tail(self, name: str) -> str:
        return self._errors.pop(name, "")

    def _say_waiting(self, kind: str) -> None:
        """Log which processes have the slots, once this run has waited for them alone for a while."""
        now = time.monotonic()
        if self._waiting_since is None or any(self.active(id) for id in list(self._processes)):
            self._waiting_since, self._next_waiting_line = now, now + WAITING_SECONDS
        if now < self._next_waiting_line:
            return
        self._next_waiting_line = now + WAITING_AGAIN_SECONDS
        numbers = self._cpus if kind == "cpu" else self._gpus
        log.warning(
            "Waiting for %d s for %s slots of this machine, which other runs have: %s. Runs of one user share them.",
            now - self._waiting_since,
            kind.upper(),
            "; ".join(_holders(kind, numbers)) or "none any more",
        )

    def end_descriptors(self) -> list[int]:
        """Descriptors of the running workers, each readable once its worker has ended."""
        if self._zygote is not None:
            self._zygote.read_reports()
        return [worker.end for id, worker in list(self._processes.items()) if self.active(id)]

    def close(self) -> None:
        """Let the zygote end; workers go on."""
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None


def slots_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"ideator_rl-slots-{os.getuid()}"


def slots_in_use() -> int:
    """Slots that workers of this user have, CPU and GPU together.

    A look at a slot locks it for an instant: a scheduler that misses it takes it at its next tick.
    """
    return sum(_is_taken(path) for path in slots_folder().glob("[cg]pu*"))


def _take_slots(kind: str, numbers: list[int], wanted: int, holder: dict[str, Any]) -> dict[int, int] | None:
    """Lock `wanted` of the slots: slot number → file descriptor; None, and none locked, when too few are free."""
    locks: dict[int, int] = {}
    try:
        for number in numbers:
            if len(locks) == wanted:
                return locks
            handle, path = _open_slot(f"{kind}{number}")
            locks[number] = handle
            if not try_lock(handle, path):
                os.close(locks.pop(number))
                continue
            # For runs that wait: a disk that is full for a moment must not cost the slot.
            with suppress(OSError):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(holder).encode(), 0)
        if len(locks) == wanted:
            return locks
    except BaseException:
        _release(locks)
        raise
    _release(locks)
    return None


def _open_slot(name: str) -> tuple[int, Path]:
    """A slot's file, open, and its path.

    Raises:
        SlotsUnusable: for want of rights, room or descriptors.
    """
    path = slots_folder() / name
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SlotsUnusable(
            f"The slots of this machine, files in {path.parent}, cannot be used: {error.strerror or error}. "
            "Set TMPDIR to a folder on a local disk that this user may write to, the same for all runs."
        ) from error
    return handle, path


def _holders(kind: str, numbers: list[int]) -> list[str]:
    """Which processes have the slots that are taken: how many, and for how long."""
    seconds: dict[str, list[float]] = {}
    for number in numbers:
        path = slots_folder() / f"{kind}{number}"
        if path.exists() and _is_taken(path):
            # Text of another run, which may be writing it at this moment.
            with suppress(OSError, ValueError, TypeError, KeyError):
                holder = json.loads(path.read_bytes())
                run = f"process {int(holder['pid'])} (bucket {visible(str(holder['bucket']))})"
                seconds.setdefault(run, []).append(max(0.0, time.time() - holder["since"]))
    return [f"{len(times)} by {run} for up to {max(times):.0f} s" for run, times in seconds.items()]


def _is_taken(path: Path) -> bool:
    handle, path = _open_slot(path.name)
    try:
        return not try_lock(handle, path, shared=True)
    finally:
        os.close(handle)


def _release(locks: dict[int, int]) -> None:
    for handle in locks.values():
        with suppress(OSError):
            os.close(handle)
