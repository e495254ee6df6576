"""The backend `local`: workers as detached processes on this machine, within CPU and GPU slots.

A slot is a file that the worker keeps locked for as long as it lives.  The kernel releases the lock after any kill, and
several runs of one user on one machine share the slots.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from ideator_rl._imports import ROOT
from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.backend import Backend

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""The variables a worker inherits; an experiment inherits none."""


class LocalBackend(Backend):
    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        self._bucket_url, self._isolation = bucket_url, isolation
        self.slots = slots or os.cpu_count() or 1
        self._gpus = gpu_count()
        # Workers started here, by experiment.  The scheduler's thread adds them; any thread that calls `active` removes
        # those that have ended.
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

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
        variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables["OMP_NUM_THREADS"] = "1"
        if gpus:
            variables["IDEATOR_GPUS"] = ",".join(str(index) for index in gpus)
        config = {"bucket": self._bucket_url, "id": id, "isolation": self._isolation}
        # A session of its own: neither an interrupt nor the end of this process reaches the worker.
        try:
            self._processes[id] = subprocess.Popen(
                [sys.executable, "-P", "-m", "ideator_rl.executor.worker", json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=variables,
                start_new_session=True,
                pass_fds=[*cpus.values(), *gpus.values()],
            )
        finally:
            # The worker has inherited the descriptors, and with them the locks.
            _release(cpus | gpus)
        return True

    def active(self, id: str) -> bool:
        """Whether a worker that this backend started for the experiment is still alive."""
        process = self._processes.get(id)
        if process is None:
            return False
        if process.poll() is None:
            return True
        self._processes.pop(id, None)
        return False


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
