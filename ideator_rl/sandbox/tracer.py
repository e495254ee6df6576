"""Traces the processes of a run, so that the CPU time of children whose parent ignores their end is counted.

The kernel adds the time of a child to its parent's when the parent waits for it.  A parent that ignores SIGCHLD, or
sets SA_NOCLDWAIT, loses it.  A traced process stays until its tracer has looked at it, whatever its parent does.

Covered:
- from `Tracer()` on, every process and thread of the run is traced, and so are all that they start
- the time of each process that ends is read before it is released, to the nanosecond
- signals, stops and the waits of the processes among themselves are as without a tracer; a stop costs some 10 µs
- the run's processes are killed when the tracer ends, and the tracer when its parent ends

Not covered: what a process had reaped before is known to two ticks of 10 ms (see `_seconds_before`).

The tracer is a forked process, because the one that holds the clock must never wait for a run.  Shared memory: the
tracer writes and the clock's process reads.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import signal
import struct
from contextlib import suppress

from ideator_rl.sandbox.process_tree import (
    TICKS,
    descendants,
    die_with_parent,
    own_seconds,
    readable,
    reaped_seconds,
    start_time,
    status_fields,
)

ATTACH_SECONDS = 10.0
_CONT, _SEIZE, _LISTEN = 7, 0x4206, 0x4208
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x10_0000  # fork, vfork and clone are followed; the processes are killed with the tracer
_STOP_EVENT = 128
_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_ALL = 0x4000_0000  # __WALL: threads, and children whose end sends another signal
_ROUNDED = 8
"""Processes whose reaped time is taken as the kernel shows it, rounded down to ticks."""
_FIGURES = struct.Struct("@ddd")


class Tracer:
    """Holds the processes of one run from the moment at which it is created."""

    def __init__(self, root: int, filters: int):
        """
        Args:
            root: the process tree of the run, our own processes in it included.
            filters: processes with more filters of system calls than these are the experiment's.

        `fault` is empty when all are traced; else it says why they are not, and nothing is counted here.
        """
        self.cpu = 0.0
        """CPU seconds of the tracer's process, once it has been collected."""
        self._memory = mmap.mmap(-1, _FIGURES.size)
        self._read, write = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            die_with_parent(parent)
            _trace(root, filters, self._memory, write)
        os.close(write)
        answer = os.read(self._read, 512) if readable(self._read, ATTACH_SECONDS) else b"it took too long"
        self.fault = "" if answer == b"\0" else answer.decode() or "the tracer was killed"

    def seconds(self, pids: list[int]) -> float:
        """CPU seconds of the run so far, of ended and living processes.  Args: `pids` of the whole tree."""
        # First what has ended: a process that ends after this is missing until the next look, and never counted twice.
        ended, before, _ = self._figures()
        living = sum(own_seconds(pid) or 0.0 for pid in pids if start_time(pid) or self._holds(pid))
        return ended + before + living

    def close(self) -> float:
        """The run's processes are dead: wait until all are seen; returns the CPU seconds of the run."""
        # Readable at the tracer's end.  Killing it is the way out if a process hangs in the kernel.
        if not readable(self._read, ATTACH_SECONDS):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            used = os.wait4(self.pid, 0)[2]
            self.cpu = used.ru_utime + used.ru_stime
        os.close(self._read)
        return sum(self._figures())

    def _holds(self, pid: int) -> bool:
        """Whether a process that has ended is not yet among the ended ones."""
        return status_fields(pid).get("TracerPid") == str(self.pid)

    def _figures(self) -> tuple[float, float, float]:
        """CPU seconds: of processes that ended under the tracer; of those before; of untraced ones at that time."""
        while True:  # until it was not read in the middle of a write
            figures = _FIGURES.unpack_from(self._memory)
            if figures == _FIGURES.unpack_from(self._memory):
                return figures  # type: ignore[return-value]


def _trace(root: int, filters: int, memory: mmap.mmap, write: int) -> None:
    """The tracer's process.  Never returns."""
    try:
        gc.disable()  # a collection would copy the parent's memory page by page
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        fault, pids = _attach(libc, root, filters)
        before, untraced = _seconds_before(root, pids)
        _FIGURES.pack_into(memory, 0, 0.0, before, untraced)
        os.write(write, fault.encode() or b"\0")
        _follow(libc, memory, before, untraced)
    finally:
        os._exit(0)


def _attach(libc: ctypes.CDLL, root: int, filters: int) -> tuple[str, list[int]]:
    """Seize every thread of the experiment; returns why that fails, or nothing, and all its processes."""
    me, is_complete = str(os.getpid()), False
    pids: list[int] = []
    # The kernel lists processes by rising numbers, and a child's number is above its parent's.  So when one pass meets
    # only traced ones, no other is left: it would descend from one that had been passed untraced.
    while not is_complete:
        pids, is_complete = [], True
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if int(status_fields(pid).get("Seccomp_filters", 0)) <= filters or not _is_below(pid, root):
                continue
            pids.append(pid)
            # A thread starts others, too: each is looked at until all of them are traced.
            for task in _tasks(pid):
                status = status_fields(task)
                if status.get("TracerPid", me) == me:
                    continue
                if status["State"][0] in "ZX":
                    if task == pid and start_time(pid) is not None:
                        return "the main thread of a process had ended before its other threads", pids
                    continue
                is_complete = False
                if libc.ptrace(_SEIZE, task, None, _OPTIONS) != 0 and ctypes.get_errno() != errno.ESRCH:
                    return f"a process cannot be traced: {os.strerror(ctypes.get_errno())}", pids
    return "", pids


def _is_below(pid: int, root: int) -> bool:
    """Whether a process belongs to the tree of `root`.  True where that cannot be found out."""
    for _ in range(100):
        above = pid
        while above > 1 and above != root:
            # An ancestor that ends meanwhile leaves its children to another one in the same tree.
            above = int(status_fields(above).get("PPid", -1))
        if above >= 0:
            return above == root
        if not status_fields(pid):
            return False
    return True


def _tasks(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    return []


def _seconds_before(root: int, pids: list[int]) -> tuple[float, float]:
    """CPU seconds of what ended before, and those of our own processes in the tree so far.

    Args:
        pids: all processes of the experiment; what they start from now on has reaped nothing.
    """
    ours = set(descendants(root)) - set(pids)
    # No traced process can be reaped before this one has waited for it.  What ended before can: then the figures may
    # hold its time twice, or not at all, and are read again.
    while True:
        ended = {pid: own_seconds(pid) for pid in pids if start_time(pid) is None and not _is_mine(pid)}
        reaped = sum(map(reaped_seconds, [*ours, *pids]))
        if all(own_seconds(pid) is not None for pid, seconds in ended.items() if seconds is not None):
            break
    # Each could hide two ticks at most, since the kernel rounds down: where many do, that is taken as used.
    reaped += max(0, len(pids) - _ROUNDED) * 2 / TICKS
    untraced = sum(own_seconds(pid) or 0.0 for pid in ours if not _is_mine(pid))
    return reaped + sum(filter(None, ended.values())), untraced


def _is_mine(pid: int) -> bool:
    return status_fields(pid).get("TracerPid") == str(os.getpid())


def _follow(libc: ctypes.CDLL, memory: mmap.mmap, before: float, untraced: float) -> None:
    """Let the processes go on at each stop, and add up the time of those that end, until none is left."""
    ended = 0.0
    with suppress(ChildProcessError):
        while True:
            event = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOWAIT | _ALL)
            assert event is not None
            pid = event.si_pid
            if event.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
                seconds = own_seconds(pid) or 0.0  # 0 for a thread: its time is in its process's
                os.waitpid(pid, _ALL)
                # After the wait: `seconds` counts a process as living while the tracer has it.
                ended += seconds
                _FIGURES.pack_into(memory, 0, ended, before, untraced)
                continue
            kind, number = event.si_status >> 8, event.si_status & 0xFF
            if kind == _STOP_EVENT and number in _STOPPING:
                libc.ptrace(_LISTEN, pid, None, None)  # stopped as without a tracer, until a signal continues it
            else:
                # A signal is delivered; the stop of a new process or thread, and of its parent, is for us alone.
                libc.ptrace(_CONT, pid, None, 0 if kind else number)
