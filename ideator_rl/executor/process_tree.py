"""CPU time and memory of a process and everything below it, read from /proc; and the end of all of it.

A process that leaves its parent stays below the nearest subreaper (bubblewrap's init, or the supervisor itself), and
the CPU time of the dead is in the children's time of whoever reaped them: nothing below the root escapes the sum.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Adopt daemons that processes below this one leave behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start_time(pid: int) -> str | None:
    """The start of a process in clock ticks since boot: with the pid, a name that is never used twice.

    None when there is no such process, or only its zombie.
    """
    fields = _stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else fields[19]


def place() -> str:
    """A name for this boot and PID namespace: where equal, a pid means the same process."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    return f"unknown {os.getpid()}"


def below(root: int) -> list[int]:
    """The pids of `root` and of all its descendants."""
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(_children(pid))
    return found


def usage(pids: list[int]) -> tuple[float, int]:
    """CPU seconds (reaped children included) and resident bytes of these processes together."""
    seconds, resident = 0.0, 0
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            seconds += sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICKS
            resident += int(fields[21]) * PAGE
    return seconds, resident


def end(root: int, patience: float = 5.0) -> None:
    """Kill everything below `root`, and `root` unless it is this process, until nothing is left.

    Raises:
        RuntimeError: something survives SIGKILL for `patience` seconds (it hangs in the kernel).
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        alive = [pid for pid in below(root) if pid != os.getpid() and start_time(pid) is not None]
        if not alive:
            return
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    raise RuntimeError(f"processes below {root} outlived SIGKILL for {patience} s")


def _children(pid: int) -> list[int]:
    out: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                out.extend(int(word) for word in file.read().split())
    return out


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/pid/stat from the state on (index 0)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
