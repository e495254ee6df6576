"""What a run does about the end of its children: allowed, and its CPU time counted all the same.

A parent may ignore SIGCHLD, and the kernel then forgets the time of its children.  Whether a call asks for that lies in
memory that other threads can change, where no filter can check it.  So a call that sets the action waits for the
worker, which traces the run from then on (`tracer`) and lets the call pass.  A run that never makes it is not traced.

Covered, on x86-64 and 64-bit ARM: the launcher installs the filter before any code of the experiment is loaded, and
only the worker holds its listener.  Where the kernel has no listeners (before 5.9), or processes cannot be traced, the
call returns success and does nothing: no time is lost, and a program that waits for the signal waits in vain.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import select
import socket
import struct

from ideator_rl.sandbox import seccomp
from ideator_rl.sandbox.process_tree import status_fields
from ideator_rl.sandbox.tracer import Tracer

_RECEIVE, _SEND = 0xC050_2100, 0xC018_2101  # SECCOMP_IOCTL_NOTIF_RECV and …_SEND
_NOTIFICATION_BYTES = 80
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel performs the call as asked


class ChildSignal:
    """The worker's hold on one run.  Used by the thread that follows the run."""

    def __init__(self) -> None:
        self._channel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener = -1
        """Wait for it to be readable, then call `answer`; -1 before `take_listener` and where there is none."""
        self.tracer: Tracer | None = None
        self.fault = ""
        """Why calls have no effect; empty when they have."""
        machine = platform.machine()
        self._channel.send(str(seccomp.load_call(machine)).encode())
        for notify in (True, False):
            self._channel.send(seccomp.child_signal(machine, notify=notify))

    @property
    def inherited(self) -> int:
        """The descriptor that the launcher inherits; `close_inherited` once it has been started."""
        return self._theirs.fileno()

    def close_inherited(self) -> None:
        self._theirs.close()

    def take_listener(self) -> bool:
        """The launcher has sent its mark, and before that the listener; returns whether there is one."""
        message, descriptors, _, _ = socket.recv_fds(self._channel, 16, 1, socket.MSG_DONTWAIT)
        if descriptors:
            self.listener = descriptors[0]
        else:
            self.fault = "the kernel cannot hand over system calls"
        return bool(descriptors)

    def answer(self, root: int) -> bool:
        """Answer one waiting call; returns False when no process is left that could make one.

        Args:
            root: the process tree of the run.
        """
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        if not any(events & select.POLLIN for _, events in poll.poll(0)):
            return False
        notification = bytearray(_NOTIFICATION_BYTES)
        # The caller may be gone, killed or interrupted, at either of the two calls.
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self.listener, _RECEIVE, notification)
            identity = struct.unpack_from("=Q", notification)[0]
            flags = _CONTINUE if self._is_traced(root) else 0
            fcntl.ioctl(self.listener, _SEND, struct.pack("=QqiI", identity, 0, 0, flags))
        return True

    def _is_traced(self, root: int) -> bool:
        if self.tracer is None and not self.fault:
            # The launcher's own filter comes after those of this process and of the sandbox.
            filters = status_fields(os.getpid()).get("Seccomp_filters")
            tracer = Tracer(root, int(filters) + 1) if filters is not None else None
            self.fault = "the kernel does not count filters" if tracer is None else tracer.fault
            self.tracer = tracer
        return not self.fault

    def seconds(self, pids: list[int]) -> float | None:
        """CPU seconds of the run so far; None where the kernel's sums lose nothing.  Args: `pids` of its tree."""
        return None if self.tracer is None or self.fault else self.tracer.seconds(pids)

    def close(self) -> tuple[float, float]:
        """The run's processes are dead; returns its CPU seconds, 0 if they were not counted here, and the tracer's."""
        self._channel.close()
        if self.listener >= 0:
            os.close(self.listener)
        if self.tracer is None:
            return 0.0, 0.0
        seconds = self.tracer.close()
        return 0.0 if self.fault else seconds, self.tracer.cpu
