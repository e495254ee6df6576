"""Traces the processes of a run, so that the CPU time of children whose parent ignores their end is counted.

The kernel adds the time of a child to its parent's when the parent waits for it.  A parent that ignores SIGCHLD, or
sets SA_NOCLDWAIT, loses it.  A traced process stays until its tracer has looked at it, whatever its parent does.

Covered:
- the launcher is traced before any code of the experiment is loaded, and then all processes and threads that it starts
- so are the other processes of the sandbox: without root, an experiment may write to the memory of its init
- the time of each process that ends is read before it is released, to the nanosecond
- signals, stops and the waits of the processes among themselves are as without a tracer; a stop costs some 10 µs
- the run's processes are killed when the tracer ends, and the tracer when its parent ends

Not covered: where the launcher cannot be traced, it installs a filter by which calls that set an action for SIGCHLD
succeed without an effect.  No time is lost then, and a program that waits for the signal waits in vain.

The tracer is a thread, because the one that holds the clock must never wait for a run.  It writes `_ended` and `fault`,
and the clock's thread reads them.  No other thread may wait for any child (-1) meanwhile: that would take its events.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import struct
import threading
from contextlib import suppress

from ideator_rl.sandbox import seccomp
from ideator_rl.sandbox.process_tree import descendants, own_seconds, start_time, status_fields

END_SECONDS = 10.0
_CONT, _SEIZE, _LISTEN = 7, 0x4206, 0x4208
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x10_0000  # fork, vfork and clone are followed; the processes are killed with the tracer
_STOP_EVENT = 128
_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_ALL = 0x6000_0000  # __WALL, threads, and children whose end sends another signal; __WNOTHREAD, none of other threads
_CREDENTIALS = struct.Struct("@iII")


class Tracer:
    """The thread that traces one run, and what it has counted.  Used by the thread that follows the run."""

    def __init__(self) -> None:
        self.fault = ""
        """Why nothing is traced; empty when all is, and before the launcher's mark."""
        self._ended = 0.0
        """CPU seconds of the traced processes that have ended."""
        self._ours = 0.0
        """CPU seconds until the mark of what is not traced, and of what had been reaped by then."""
        self._reaped = 0.0
        self._theirs, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The kernel then names the sender of each message, by the number that it has here.
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._thread = threading.Thread(target=self._trace, args=(channel,), daemon=True)
        self._thread.start()

    @property
    def inherited(self) -> int:
        """The descriptor that the launcher inherits; `close_inherited` once it has been started."""
        return self._theirs.fileno()

    def close_inherited(self) -> None:
        self._theirs.close()

    def mark(self, pids: list[int], startup: float) -> None:
        """The launcher has sent its mark, and before that it was traced or refused.

        Args:
            pids: of the whole tree.
            startup: its CPU seconds so far, of reaped children too.
        """
        own = {pid: own_seconds(pid) or 0.0 for pid in pids}
        # What a preloaded module has started and waited for; below zero by what was computed since `startup`.  Where
        # there are ranks, they are traced before the mark, and `_ended` has what of that was traced.
        self._reaped = max(0.0, startup - sum(own.values()) - self._ended)
        self._ours = self._reaped + sum(own[pid] for pid in pids if not self._holds(pid))

    def seconds(self, pids: list[int]) -> float | None:
        """CPU seconds of the run so far; None where the kernel's sums lose nothing.  Args: `pids` of the whole tree."""
        if self.fault:
            return None
        # First what has ended: a process that ends after this is missing until the next look, and never counted twice.
        ended = self._ended
        counted = [pid for pid in pids if start_time(pid) or self._holds(pid)]
        return ended + self._reaped + sum(own_seconds(pid) or 0.0 for pid in counted)

    def close(self) -> float:
        """The run's processes are dead: wait until all are counted; returns the CPU seconds of the run."""
        self._thread.join(END_SECONDS)  # not for ever: a process may hang in the kernel
        return self._ended + self._ours

    def _holds(self, pid: int) -> bool:
        """Whether a process is traced.  One that has ended and is traced is not yet among the ended ones."""
        return status_fields(pid).get("TracerPid") == str(self._thread.native_id)

    def _trace(self, channel: socket.socket) -> None:
        """The thread: attach to the launcher when it asks for that, and follow the run to its end."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        with channel:
            message, ancillary, _, _ = channel.recvmsg(16, socket.CMSG_SPACE(_CREDENTIALS.size))
            if not message:
                return  # it was not started
            self.fault = _attach(libc, _CREDENTIALS.unpack_from(ancillary[0][2])[0])
            machine = platform.machine()
            refusing = f"{seccomp.load_call(machine)} ".encode() + seccomp.no_child_signal(machine)
            with suppress(BrokenPipeError):  # it was killed
                channel.send(refusing if self.fault else b"\0")
        self._follow(libc)

    def _follow(self, libc: ctypes.CDLL) -> None:
        """Let the processes go on at each stop, and add up the time of those that end, until none is left."""
        with suppress(ChildProcessError):
            while True:
                event = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOWAIT | _ALL)
                assert event is not None
                pid = event.si_pid
                if event.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
                    seconds = own_seconds(pid) or 0.0  # 0 for a thread: its time is in its process's
                    os.waitpid(pid, _ALL)
                    # After the wait: `seconds` counts a process as living while this thread has it.
                    self._ended += seconds
                    continue
                kind, number = event.si_status >> 8, event.si_status & 0xFF
                if kind == _STOP_EVENT and number in _STOPPING:
                    libc.ptrace(_LISTEN, pid, None, None)  # stopped as without a tracer, until a signal continues it
                else:
                    # A signal is delivered; the stop of a new process or thread, and of its parent, is for us alone.
                    libc.ptrace(_CONT, pid, None, 0 if kind else number)


def _attach(libc: ctypes.CDLL, pid: int) -> str:
    """Seize every thread of the launcher, which waits and starts none; returns why that fails, or nothing."""
    try:
        tasks = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except FileNotFoundError:
        return "it has been killed"
    for task in tasks:
        if libc.ptrace(_SEIZE, task, None, _OPTIONS) != 0:
            return os.strerror(ctypes.get_errno())
    # The sandbox's init and what waits in it have one thread each.  One that refuses us refuses the experiment too.
    for other in _sandboxed_with(pid):
        if other != pid:
            libc.ptrace(_SEIZE, other, None, _OPTIONS)
    return ""


def _sandboxed_with(pid: int) -> list[int]:
    """The processes below this one that are in the PID namespace of a sandboxed one; none where that is our own.

    What is traced is killed with the tracer.  So nothing is found by climbing from a process to its parents: these may
    end at any moment, and the next one above is then not of the sandbox.
    """
    namespace = _pid_namespace(pid)
    if namespace in (None, _pid_namespace(os.getpid())):
        return []
    return [other for other in descendants(os.getpid()) if _pid_namespace(other) == namespace]


def _pid_namespace(pid: int) -> str | None:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return None
