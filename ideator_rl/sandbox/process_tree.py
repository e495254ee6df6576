"""A process and its descendants: what they use, read from /proc, and how they are killed.

No descendant escapes the sums: a process that leaves its parent becomes a child of the nearest subreaper (bubblewrap's
init, or the worker itself), and the CPU time of a dead process is in the children's time of the one that reaped it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.files import kernel_lines

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
REAPING_SECONDS = 5.0
"""How long the processes that reap others are spared when a tree is killed."""
SENT_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM}
"""By these a program is ended from outside, as by the kernel when memory is short.  Others are raised by a crash."""
MAX_OPEN = 20_000
"""Descriptors of all processes together, and mappings, that are looked at by default: takes 0.1 and 0.05 s.  Python
with torch has 350 mappings."""


def become_subreaper() -> None:
    """Adopt daemons that processes below this one leave behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def readable(descriptor: int, seconds: float) -> bool:
    """Wait until a descriptor is readable; works for any number, where `select` ends at 1,023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process, just started, a signal when its parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    # The parent may have ended before the kernel was told.
    if os.getppid() != parent:
        os._exit(1)


def kill_stuck_sandboxes(folder: Path) -> None:
    """Kill bubblewrap processes that were to mount something below a folder whose worker is gone.

    Where a worker is killed in the moment in which bubblewrap starts, its second process waits for ever for the first.
    """
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or entry.stat().st_uid != os.getuid():
                continue
            if Path(f"/proc/{entry.name}/comm").read_bytes() != b"bwrap\n":
                continue
            # The descriptor is that of the process whose command line is read, whoever has the number later.
            pidfd = os.pidfd_open(int(entry.name))
            try:
                if str(folder).encode() in Path(f"/proc/{entry.name}/cmdline").read_bytes():
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)


def start_time(pid: int) -> str | None:
    """The start of a process in clock ticks since boot: with the pid, a name that is never used twice.

    None when there is no such process, or only its zombie.
    """
    fields = _stat(pid)
    return None if fields is None or _living_thread(pid, fields) is None else fields[19]


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
        queue.extend(children(pid))
    return pids


def children(pid: int) -> list[int]:
    """The pids of the children of a process."""
    # Each thread has children of its own.
    pids: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                pids.extend(int(child) for child in file.read().split())
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
        if fields is None:
            continue
        # The kernel rounds each of these figures down to a tick of 10 ms: 500 processes could hide seconds.
        own = own_seconds(pid)
        seconds += sum(int(fields[i]) for i in (11, 12)) / TICKS if own is None else own
        seconds += sum(int(fields[i]) for i in (13, 14)) / TICKS  # of the children that it has reaped
        tasks += int(fields[17])
        thread = _living_thread(pid, fields)
        # A process whose main thread has ended shows its memory at its other threads only.
        fields = _stat(thread) if thread not in (pid, None) else fields
        resident += int(fields[21]) * PAGE if fields is not None else 0
    return Usage(seconds, resident, tasks)


def own_seconds(pid: int) -> float | None:
    """CPU seconds of a process with all its threads, without its children; None when there is no such process."""
    # The number of a process's CPU clock, as clock_getcpuclockid(3) makes it.
    with contextlib.suppress(OSError, OverflowError):
        return time.clock_gettime((~pid << 3) | 2)
    return None


def status_fields(pid: int) -> dict[str, str]:
    """/proc/pid/status, field → text; empty when there is no such process or thread."""
    with contextlib.suppress(OSError):
        lines = kernel_lines(f"/proc/{pid}/status")
        return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}
    return {}


def proportional_memory(pids: list[int]) -> int:
    """Resident bytes of these processes, shared pages counted once.  Slow: the kernel needs milliseconds."""
    return sum(_proportional_memory(living_thread(pid)) for pid in pids)


def living_thread(pid: int) -> int:
    """The id under which /proc shows what a process maps and holds open: its own, unless its main thread has ended."""
    fields = _stat(pid)
    return pid if fields is None else _living_thread(pid, fields) or pid


@dataclass(frozen=True)
class OpenResources:
    """What open descriptors and mappings occupy, seen neither in the memory of processes nor in a folder."""

    unlinked: int = 0
    """Bytes on the device in files that have no name any more, but are open or mapped."""
    sockets: int = 0
    """Number of open sockets, each of which may have full buffers in the kernel."""
    page_tables: int = 0
    """Bytes."""
    too_many: str = ""
    """`descriptors` or `mappings`, when there are more than are looked at: the figures above are not complete."""


def open_resources(pids: list[int], device: int, most: int = MAX_OPEN) -> OpenResources:
    """What these processes keep open.  Takes milliseconds; stops at `most` descriptors, and at so many mappings."""
    # By inode: a file or socket that several processes share counts once.
    files: dict[int, int] = {}
    sockets: set[int] = set()
    descriptors, mappings, page_tables = 0, 0, 0
    for pid in map(living_thread, pids):
        page_tables += _page_tables(pid)
        mappings += _add_mapped_unlinked(pid, device, files, most - mappings)
        if mappings > most:
            return OpenResources(too_many="mappings")
        for info in _open_files(pid):
            descriptors += 1
            if descriptors > most:
                return OpenResources(too_many="descriptors")
            if stat.S_ISSOCK(info.st_mode):
                sockets.add(info.st_ino)
            elif info.st_nlink == 0 and info.st_dev == device:
                files[info.st_ino] = info.st_blocks * 512
    return OpenResources(sum(files.values()), len(sockets), page_tables)


def kill_tree(root: int, timeout: float = 30.0, reapers: int = 0) -> None:
    """Kill the descendants of `root`, and `root` unless it is this process, until none is left.

    Args:
        reapers: so many processes at the top of the tree (bubblewrap and its init) are killed last, one after the
            other from below, when they have reaped all others.  A PID namespace that is killed forgets the CPU time
            of the processes in it.

    Raises:
        RuntimeError: a process survives SIGKILL for `timeout` seconds (it hangs in the kernel).
    """
    began = time.monotonic()
    deadline, patience = began + timeout, began + min(REAPING_SECONDS, timeout / 2)
    # In rounds: a process may fork between the look at the tree and the signal.
    while time.monotonic() < deadline:
        tree = [pid for pid in descendants(root) if pid != os.getpid()]
        alive = [pid for pid in tree if start_time(pid) is not None]
        if not alive:
            return
        # Not for ever: a reaper may have been stopped.
        spared = min(reapers, len(tree) - 1) if time.monotonic() < patience else 0
        for pid in set(alive) - set(tree[:spared]):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    raise RuntimeError(f"processes below {root} outlived SIGKILL for {timeout} s")


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


def _page_tables(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmPTE:"):
                return int(line.split()[1]) * 1024
    return 0


def _add_mapped_unlinked(pid: int, device: int, sizes: dict[int, int], limit: int) -> int:
    """Add the files on the device that a process maps and that have no name any more: inode → bytes.

    Returns how many mappings it has; looks at no more than `limit` + 1.
    """
    device_name, count = f"{os.major(device):02x}:{os.minor(device):02x}".encode(), 0
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/maps", "rb") as file:
        for count, line in enumerate(file, 1):  # noqa: B007
            if count > limit:
                break
            if line.endswith(b" (deleted)\n"):
                addresses, _, offset, line_device, inode = line.split(None, 5)[:5]
                start, stop = (int(address, 16) for address in addresses.split(b"-"))
                if line_device == device_name:
                    sizes[int(inode)] = max(sizes.get(int(inode), 0), int(offset, 16) + stop - start)
    return count


def _living_thread(pid: int, fields: list[str]) -> int | None:
    """A living thread of a process, the main one if it lives; None for a zombie.  `fields`: as `_stat` returns them."""
    if fields[0] not in ("Z", "X"):
        return pid
    # The main thread may have ended while others run on.
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            state = _stat(int(task))
            if state is not None and state[0] not in ("Z", "X"):
                return int(task)
    return None


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/pid/stat from the state on (index 0)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # A process chooses its name, which comes first and may hold any bytes: fields begin after the last
            # parenthesis.  An error here would hide the process from all limits.
            return file.read().rpartition(b")")[2].decode("ascii", "replace").split()
    except OSError:
        return None
