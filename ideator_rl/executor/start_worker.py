"""How a backend on this machine starts workers: forked from a zygote, or as interpreters of their own.

Either way the worker is detached: neither an interrupt nor the end of this process reaches it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ideator_rl._imports import ROOT
from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox.process_tree import readable
from ideator_rl.storage.bucket import credential_variables, is_remote

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
             "PYTHONUSERBASE", "PYTHONNOUSERSITE", "IDEATOR_BEAT_SECONDS", "IDEATOR_LEASE_SECONDS")  # fmt: skip
"""The variables a worker inherits, besides those that reach its bucket; an experiment inherits none."""
ZYGOTE_SECONDS, CLOSE_SECONDS = 60.0, 5.0
"""How long the zygote may take to start and to fork a worker, and to end."""
MAX_MESSAGE, MAX_SLOTS = 1 << 16, 250
"""Bytes, and descriptors, of one message."""
MAX_ERRORS = 4096
"""Bytes of the end of a worker's standard error that are read."""

log = logging.getLogger(__name__)


class ZygoteRefused(IdeatorError):
    """The zygote forked no worker."""


@dataclass
class RunningWorker:
    """A worker that was started here.  `end`, a pidfd, becomes readable when it has ended."""

    pid: int
    end: int
    process: subprocess.Popen[bytes] | None = None
    """Of a cold start: a child of this process, to be collected."""
    errors: int = -1
    """A file in memory with what it writes to its standard error."""

    def running(self) -> bool:
        return not readable(self.end, 0)

    def close(self) -> str:
        """Release what belongs to a worker that has ended; returns the end of what it wrote to its standard error."""
        if self.process is not None:
            self.process.wait()
        os.close(self.end)
        text = os.pread(self.errors, MAX_ERRORS, max(0, os.fstat(self.errors).st_size - MAX_ERRORS))
        os.close(self.errors)
        return text.decode(errors="replace")


def worker_variables(more: dict[str, str]) -> dict[str, str]:
    """All variables of a worker: an allow-list of ours, and `more`."""
    variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Read by numpy while it is imported: the evaluator computes on one core.
    variables["OMP_NUM_THREADS"] = "1"
    return variables | more


def _with_credentials(variables: dict[str, str], config: dict[str, Any]) -> dict[str, str]:
    """The variables of a worker, and those with which this process reaches the worker's bucket."""
    more = credential_variables() if is_remote(config["bucket"]) else {}
    return worker_variables(more | variables)


def start_worker(config: dict[str, Any], variables: dict[str, str], slots: list[int]) -> RunningWorker:
    """Start a worker as a new interpreter; it inherits the descriptors of its slots."""
    argument, variables = json.dumps(config | {"slots": slots}), _with_credentials(variables, config)
    errors = os.memfd_create("worker-errors")
    process = None
    try:
        process = _popen("ideator_rl.executor.worker", argument, variables, slots, errors)
        return RunningWorker(process.pid, os.pidfd_open(process.pid), process, errors)
    except BaseException:
        os.close(errors)
        if process is not None:  # one that is not watched would run beside the next start
            process.kill()
            process.wait()
        raise


class ZygoteClient:
    """The connection to a zygote that this process has started, and that ends with this object."""

    def __init__(self, variables: dict[str, str]):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ZYGOTE_SECONDS)
        try:
            self._process = _popen("ideator_rl.executor.zygote", str(theirs.fileno()), variables, [theirs.fileno()])
        finally:
            theirs.close()
        self._reported: set[str] = set()
        # A process that this one forks has the connection too, and must not use it.
        self._owner = os.getpid()

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork_worker(self, config: dict[str, Any], variables: dict[str, str], slots: list[int]) -> RunningWorker:
        """Raises: ZygoteRefused, OSError."""
        if len(slots) > MAX_SLOTS or self._owner != os.getpid():
            raise ZygoteRefused("too many slots" if len(slots) > MAX_SLOTS else "the zygote is another process's")
        # Not among the variables of the zygote itself: the kernel shows those of all that it forks.
        request = {"config": config, "variables": _with_credentials(variables, config), "slots": len(slots)}
        errors = os.memfd_create("worker-errors")
        request["errors"] = f"/proc/{os.getpid()}/fd/{errors}"
        try:
            worker = self._request(json.dumps(request).encode(), slots)
            worker.errors = errors
            return worker
        except ZygoteRefused:
            os.close(errors)
            raise
        except BaseException:
            os.close(errors)
            # An answer may be under way, and would be taken for that of the next request.
            self.close()
            raise

    def _request(self, request: bytes, slots: list[int]) -> RunningWorker:
        try:
            socket.send_fds(self._control, [request], slots)
            while True:
                body, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 1)
                answer: dict[str, Any] = json.loads(body) if body else {"refused": "the zygote ended"}
                if "pid" in answer and not descriptors:
                    with suppress(ProcessLookupError):  # one that is not watched would run beside the next start
                        os.kill(answer["pid"], signal.SIGKILL)
                    raise OSError(errno.EMFILE, "this process is out of descriptors")
                if "pid" in answer:
                    return RunningWorker(answer["pid"], descriptors[0])
                if "refused" in answer:
                    raise ZygoteRefused(answer["refused"])
                self._report(answer.get("refusal", ""))
        except TimeoutError:
            self._process.kill()  # it would fork the worker later, beside the one that starts cold now
            raise ZygoteRefused(f"the zygote gave no answer within {ZYGOTE_SECONDS:g} s") from None
        except (BrokenPipeError, ConnectionResetError):
            raise ZygoteRefused("the zygote ended") from None

    def read_reports(self) -> None:
        """Log what workers have reported since the last call."""
        while self._control.fileno() >= 0 and readable(self._control.fileno(), 0):
            with suppress(OSError):
                if body := self._control.recv(MAX_MESSAGE):
                    self._report(json.loads(body).get("refusal", ""))
                    continue
            return

    def _report(self, reason: str) -> None:
        # Once each: what refuses one forked start mostly refuses all.
        if reason and reason not in self._reported:
            self._reported.add(reason)
            log.warning("Experiments start cold: %s.", reason)

    def close(self) -> None:
        """Let the zygote end."""
        self._control.close()
        if self._owner != os.getpid():
            return
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _popen(
    module: str, argument: str, variables: dict[str, str], descriptors: list[int], errors: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    # A session of its own: neither an interrupt nor the end of this process reaches it.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, argument],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=variables,
        start_new_session=True,
        pass_fds=descriptors,
    )
