"""The local backend: supervisors as detached processes on this machine, within CPU and GPU slots.

A slot is a file that the supervisor holds locked for as long as it lives: the kernel keeps the books, so slots are
right after any kill, and several runs of one user on one machine share them.
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

from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError

PASSED = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""The variables a supervisor inherits; an experiment inherits none."""


class LocalBackend:
    starts = True

    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        self._bucket_url, self._isolation = bucket_url, isolation
        self.slots = slots or os.cpu_count() or 1
        self._gpus = _gpu_count()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def refuse_if_too_large(self, resources: Resources) -> None:
        """Raises: IdeatorError when an experiment could never start here, however long it waited."""
        for what, needed, offered in (("CPU", resources.cpus, self.slots), ("GPU", resources.gpus, self._gpus)):
            if needed > offered and not (what == "CPU" and resources.gpus):
                raise IdeatorError(
                    f"An experiment of this preset needs {needed} {what} slots and this machine offers {offered}. "
                    "Choose a smaller preset, or more slots."
                )

    def submit(self, id: str, resources: Resources) -> bool:
        """Start a supervisor for an experiment; False when no slot is free now."""
        locks = _take("cpu", self.slots, resources.cpus if resources.gpus == 0 else 0)
        if locks is None:
            return False
        gpus = _take("gpu", self._gpus, resources.gpus)
        if gpus is None:
            _close(locks)
            return False
        variables = {name: os.environ[name] for name in PASSED if name in os.environ}
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [_package_root(), os.environ.get("PYTHONPATH")]))
        variables["OMP_NUM_THREADS"] = "1"
        if gpus:
            variables["IDEATOR_GPUS"] = ",".join(str(index) for index in gpus)
        config = {"bucket": self._bucket_url, "id": id, "isolation": self._isolation}
        held = [*locks.values(), *gpus.values()]
        try:
            self._processes[id] = subprocess.Popen(
                [sys.executable, "-P", "-m", "ideator_rl.executor.worker", json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=variables,
                start_new_session=True,
                pass_fds=held,
            )
        finally:
            _close(locks | gpus)
        return True

    def active(self, id: str) -> bool:
        """Whether a supervisor that this backend started for the experiment is still alive."""
        process = self._processes.get(id)
        if process is None:
            return False
        if process.poll() is None:
            return True
        self._processes.pop(id, None)  # progress asks from another thread
        return False


def slots_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"ideator_rl-slots-{os.getuid()}"


def _take(kind: str, count: int, wanted: int) -> dict[int, int] | None:
    """Lock `wanted` of `count` slots: slot number → file descriptor; None (and nothing held) when too few are free."""
    folder = slots_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    taken: dict[int, int] = {}
    for number in range(count):
        if len(taken) == wanted:
            break
        handle = os.open(folder / f"{kind}{number}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken[number] = handle
        except OSError:
            os.close(handle)
    if len(taken) < wanted:
        _close(taken)
        return None
    return taken


def _close(locks: dict[int, int]) -> None:
    for handle in locks.values():
        with suppress(OSError):
            os.close(handle)


def _gpu_count() -> int:
    return sum(1 for path in Path("/dev").glob("nvidia[0-9]*"))


def _package_root() -> str:
    import ideator_rl

    return str(Path(ideator_rl.__file__).resolve().parent.parent)
