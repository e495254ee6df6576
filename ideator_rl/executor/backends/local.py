"""The backend `local`: workers as detached processes on this machine, within CPU and GPU slots.

A worker is forked from a zygote (`executor.zygote`), or, with `start: cold`, is a new interpreter.

A slot is a file that the worker keeps locked for as long as it lives.  The kernel releases the lock after any kill, and
several runs of one user on one machine share the slots.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.backend import Backend
from ideator_rl.executor.start_worker import RunningWorker, ZygoteClient, ZygoteRefused, start_worker, worker_variables
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.program import COLD, FORKED

MAX_REFUSALS = 3
"""Of zygotes, before all further experiments start cold."""

log = logging.getLogger(__name__)


class LocalBackend(Backend):
    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        self._bucket_url, self._isolation = bucket_url, isolation
        self.slots = slots or os.cpu_count() or 1
        self._gpus = gpu_count()
        # Workers started here, by experiment.  The scheduler's thread adds them; any thread that calls `active` removes
        # those that have ended.
        self._processes: dict[str, RunningWorker] = {}
        # The scheduler's thread starts it with the first experiment, and drops it when it has died.
        self._zygote: ZygoteClient | None = None
        self._refusals = 0
        # Guards the workers' descriptors, which one thread may close while another one looks at them.
        self._lock = threading.Lock()

    def refuse_if_too_large(self, resources: Resources) -> None:
        """Raises: IdeatorError when an experiment could never start here."""
        for kind, needed, available in (("CPU", resources.cpus, self.slots), ("GPU", resources.gpus, self._gpus)):
            if needed > available and not (kind == "CPU" and resources.gpus):
                raise IdeatorError(
                    f"An experiment of this preset needs {needed} {kind} slots and this machine offers {available}. "
                    "Choose a smaller preset, or more slots."
                )

    def submit(self, id: str, resources: Resources) -> bool:
        """Start a worker for an experiment; False when no slot is free now."""
        # An experiment on GPUs takes GPU slots alone.
        cpus = _take_slots("cpu", self.slots, resources.cpus if resources.gpus == 0 else 0)
        if cpus is None:
            return False
        gpus = _take_slots("gpu", self._gpus, resources.gpus)
        if gpus is None:
            _release(cpus)
            return False
        variables = {"IDEATOR_GPUS": ",".join(str(index) for index in gpus)} if gpus else {}
        sandbox = best_sandbox()  # probed once here, instead of by each worker
        config: dict[str, Any] = {"bucket": self._bucket_url, "id": id, "isolation": self._isolation}
        config |= {"probed": {"level": sandbox.level, "reason": sandbox.reason}}
        try:
            slots = [*cpus.values(), *gpus.values()]
            worker = self._fork(config, variables, slots) if self.start == FORKED else None
            self._processes[id] = worker or start_worker(config, variables, slots)
        finally:
            # The worker has inherited the descriptors, and with them the locks.
            _release(cpus | gpus)
        return True

    def _fork(self, config: dict[str, Any], variables: dict[str, str], slots: list[int]) -> RunningWorker | None:
        """A worker forked from the zygote; None where that is impossible now."""
        try:
            if self._zygote is None:
                self._zygote = ZygoteClient(worker_variables({}))
            return self._zygote.fork_worker(config, variables, slots)
        except (OSError, ZygoteRefused) as error:
            self._refusals += 1
            always = self._refusals >= MAX_REFUSALS
            log.warning("%s cold: %s.", "From here on, experiments start" if always else "An experiment starts", error)
            self.start = COLD if always else self.start
            self.close()
            return None

    def active(self, id: str) -> bool:
        """Whether a worker that this backend started for the experiment is still alive."""
        with self._lock:
            worker = self._processes.get(id)
            if worker is None or worker.running():
                return worker is not None
            del self._processes[id]
            worker.close()
            return False

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


def gpu_count() -> int:
    return sum(1 for _ in Path("/dev").glob("nvidia[0-9]*"))


def _take_slots(kind: str, count: int, wanted: int) -> dict[int, int] | None:
    """Lock `wanted` of `count` slots: slot number → file descriptor; None, and none locked, when too few are free."""
    folder = slots_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    locks: dict[int, int] = {}
    for number in range(count):
        if len(locks) == wanted:
            break
        handle = os.open(folder / f"{kind}{number}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks[number] = handle
        except OSError:
            os.close(handle)
    if len(locks) < wanted:
        _release(locks)
        return None
    return locks


def _release(locks: dict[int, int]) -> None:
    for handle in locks.values():
        with suppress(OSError):
            os.close(handle)
