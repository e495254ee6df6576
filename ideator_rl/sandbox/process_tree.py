"""What a process and everything below it use, read from /proc; and the end of all of it.

A process that leaves its parent stays below the nearest subreaper (bubblewrap's init, or the supervisor itself), and
the CPU time of the dead is in the children's time of whoever reaped them: nothing below the root escapes the sum.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_CHILD_SUBREAPER = 36
MOST_HANDLES = 20_000
"""Descriptors of all processes together that are looked at: some 0.1 s."""


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


@dataclass(frozen=True)
class Usage:
    """Of several processes together."""

    seconds: float = 0.0
    """CPU, reaped children included."""
    resident: int = 0
    """Bytes; what processes share is counted for each of them."""
    tasks: int = 0
    """Processes and threads."""


def usage(pids: list[int]) -> Usage:
    """What these processes use now."""
    seconds, resident, tasks = 0.0, 0, 0
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            seconds += sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICKS
            resident += int(fields[21]) * PAGE
            tasks += int(fields[17])
    return Usage(seconds, resident, tasks)


def proportional(pids: list[int]) -> int:
    """Resident bytes of these processes, what they share counted once.  Takes the kernel milliseconds."""
    return sum(_proportional(pid) for pid in pids)


@dataclass(frozen=True)
class Held:
    """What processes hold that neither their memory nor a folder shows."""

    unlinked: int = 0
    """Bytes on the device in files that have no name any more, but are open or mapped."""
    sockets: int = 0
    """Open ones, each of which may have full buffers in the kernel."""
    too_many: bool = False
    """More than `MOST_HANDLES` descriptors, so that no more were looked at."""


def held(pids: list[int], device: int) -> Held:
    """What these processes hold.  Takes milliseconds: every descriptor is looked at, but not without end."""
    files: dict[int, int] = {}
    sockets: set[int] = set()
    handles = 0
    for pid in pids:
        files |= _mapped_unlinked(pid, device)
        for info in _open_files(pid):
            handles += 1
            if handles > MOST_HANDLES:
                return Held(too_many=True)
            if stat.S_ISSOCK(info.st_mode):
                sockets.add(info.st_ino)
            elif info.st_nlink == 0 and info.st_dev == device:
                files[info.st_ino] = info.st_blocks * 512
    return Held(sum(files.values()), len(sockets))


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


def _proportional(pid: int) -> int:
    """Resident bytes, of shared pages a fair part; all of them where the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError):
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        return 0
    return usage([pid]).resident


def _open_files(pid: int) -> Iterator[os.stat_result]:
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as handles:
        for handle in handles:
            with contextlib.suppress(OSError):
                yield os.stat(handle.path)


def _mapped_unlinked(pid: int, device: int) -> dict[int, int]:
    out: dict[int, int] = {}
    place = f"{os.major(device):02x}:{os.minor(device):02x}"
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/maps", errors="replace") as file:
        for line in file:
            if line.endswith(" (deleted)\n"):
                span, _, offset, where, inode = line.split(None, 5)[:5]
                start, stop = (int(bound, 16) for bound in span.split("-"))
                if where == place:
                    out[int(inode)] = max(out.get(int(inode), 0), int(offset, 16) + stop - start)
    return out


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/pid/stat from the state on (index 0)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
