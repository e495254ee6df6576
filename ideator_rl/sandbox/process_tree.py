"""A process and its descendants: what they use, read from /proc, and how they are killed.

No descendant escapes the sums: a process that leaves its parent becomes a child of the nearest subreaper (bubblewrap's
init, or the worker itself), and the CPU time of a dead process is in the children's time of the one that reaped it.
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
MAX_DESCRIPTORS = 20_000
"""Descriptors of all processes together that are looked at: takes about 0.1 s."""


def become_subreaper() -> None:
    """Adopt daemons that processes below this one leave behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start_time(pid: int) -> str | None:
    """The start of a process in clock ticks since boot: with the pid, a name that is never used twice.

    None when there is no such process, or only its zombie.
    """
    fields = _stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else fields[19]


def host_identity() -> str:
    """This boot and PID namespace, as text: where it is equal, a pid means the same process."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    return f"unknown {os.getpid()}"


def descendants(root: int) -> list[int]:
    """The pids of `root` and of all its descendants."""
    pids, queue = [], [root]
    while queue:
        pid = queue.pop()
        pids.append(pid)
        queue.extend(_children(pid))
    return pids


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
            # User and system time, of the process itself and of the children that it has reaped.
            seconds += sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICKS
            resident += int(fields[21]) * PAGE
            tasks += int(fields[17])
    return Usage(seconds, resident, tasks)


def proportional_memory(pids: list[int]) -> int:
    """Resident bytes of these processes, shared pages counted once.  Slow: the kernel needs milliseconds."""
    return sum(_proportional_memory(pid) for pid in pids)


@dataclass(frozen=True)
class OpenResources:
    """What open descriptors and mappings occupy, seen neither in the memory of processes nor in a folder."""

    unlinked: int = 0
    """Bytes on the device in files that have no name any more, but are open or mapped."""
    sockets: int = 0
    """Number of open sockets, each of which may have full buffers in the kernel."""
    too_many: bool = False
    """More than `MAX_DESCRIPTORS` descriptors: the figures above are not complete."""


def open_resources(pids: list[int], device: int) -> OpenResources:
    """What these processes keep open.  Takes milliseconds; stops at `MAX_DESCRIPTORS`."""
    # By inode: a file or socket that several processes share counts once.
    files: dict[int, int] = {}
    sockets: set[int] = set()
    descriptors = 0
    for pid in pids:
        files |= _mapped_unlinked(pid, device)
        for info in _open_files(pid):
            descriptors += 1
            if descriptors > MAX_DESCRIPTORS:
                return OpenResources(too_many=True)
            if stat.S_ISSOCK(info.st_mode):
                sockets.add(info.st_ino)
            elif info.st_nlink == 0 and info.st_dev == device:
                files[info.st_ino] = info.st_blocks * 512
    return OpenResources(sum(files.values()), len(sockets))


def kill_tree(root: int, timeout: float = 5.0) -> None:
    """Kill the descendants of `root`, and `root` unless it is this process, until none is left.

    Raises:
        RuntimeError: a process survives SIGKILL for `timeout` seconds (it hangs in the kernel).
    """
    deadline = time.monotonic() + timeout
    # In rounds: a process may fork between the look at the tree and the signal.
    while time.monotonic() < deadline:
        alive = [pid for pid in descendants(root) if pid != os.getpid() and start_time(pid) is not None]
        if not alive:
            return
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    raise RuntimeError(f"processes below {root} outlived SIGKILL for {timeout} s")


def _children(pid: int) -> list[int]:
    # Each thread has children of its own.
    children: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                children.extend(int(child) for child in file.read().split())
    return children


def _proportional_memory(pid: int) -> int:
    """Resident bytes, of shared pages a fair part; all of them where the kernel does not report that."""
    with contextlib.suppress(OSError, ValueError):
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        return 0
    return usage([pid]).resident


def _open_files(pid: int) -> Iterator[os.stat_result]:
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield os.stat(entry.path)


def _mapped_unlinked(pid: int, device: int) -> dict[int, int]:
    """Inode → bytes of the files on the device that are mapped and have no name any more."""
    sizes: dict[int, int] = {}
    device_name = f"{os.major(device):02x}:{os.minor(device):02x}"
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/maps", errors="replace") as file:
        for line in file:
            if line.endswith(" (deleted)\n"):
                addresses, _, offset, line_device, inode = line.split(None, 5)[:5]
                start, stop = (int(address, 16) for address in addresses.split("-"))
                if line_device == device_name:
                    sizes[int(inode)] = max(sizes.get(int(inode), 0), int(offset, 16) + stop - start)
    return sizes


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/pid/stat from the state on (index 0)."""
    try:
        # The program's name comes first and may hold spaces and parentheses: fields begin after the last one.
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
