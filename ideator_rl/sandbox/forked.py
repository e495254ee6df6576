"""Forked starts: a script gets a copy of a process that has its imports already (`fork_server`).

bubblewrap builds the sandbox around a process that only holds it; the fork server brings a copy of itself inside, and
the copy takes on the user, the filter and the limits that a cold start would have given it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox.memory_image import memory_image
from ideator_rl.sandbox.mounts import Mounts, package_folders
from ideator_rl.sandbox.process_tree import readable
from ideator_rl.sandbox.program import FORKED, Inside, Script
from ideator_rl.sandbox.sandbox import BWRAP, NONE, Sandbox, experiment_uid, kernel_limits

LAUNCHER = Path(__file__).with_name("launch.py")
FORK_SERVER = Path(__file__).with_name("fork_server.py")
HOLDER_SECONDS, SERVER_SECONDS, SCORER_SECONDS = 20.0, 300.0, 20.0
"""How long to wait for bubblewrap, and for a fork server that may still be importing what is preloaded."""
_NAMESPACES = {"user": 0x1000_0000, "mnt": 0x2_0000, "pid": 0x2000_0000, "ipc": 0x800_0000, "uts": 0x400_0000,
               "net": 0x4000_0000, "cgroup": 0x200_0000}  # fmt: skip


class ForkRefused(IdeatorError):
    """No forked start is possible here now; a cold one is."""


@dataclass(frozen=True)
class ForkServerKey:
    """Equal for scripts that one fork server can start."""

    modules: str
    variables: str
    """Lines NAME=value, in order, of variables that are read once, at the start or while a library is imported."""
    in_memory: bool
    """It sees the memory image of these modules instead of the disk."""

    def start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Start a fork server; returns its process and the connection for requests.

        Raises:
            ForkRefused: there is no memory image.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Nothing of our environment: the processes that it forks can read the variables that it was started with.
        variables = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "USER": "experiment"}
        variables |= dict(line.split("=", 1) for line in self.variables.splitlines())
        options: dict[str, Any] = {"cwd": "/", "env": variables, "pass_fds": [theirs.fileno()]}
        options |= {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        program = "/ideator/fork_server.py" if self.in_memory else str(FORK_SERVER)
        argv = [sys.executable, "-I", "-B", "-u", program, str(theirs.fileno()), self.modules]
        argv.append(os.pathsep.join(package_folders()))
        try:
            if not self.in_memory:
                return _start_on_disk(argv, options), ours
            image = memory_image(tuple(filter(None, self.modules.split(","))))
            if isinstance(image, str):
                raise ForkRefused(image)
            programs = {FORK_SERVER: "/ideator/fork_server.py", LAUNCHER: "/ideator/launch.py"}
            return Sandbox.start_trusted(argv, Mounts({}, programs, image=image), **options), ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()


def _start_on_disk(argv: list[str], options: dict[str, Any]) -> subprocess.Popen[bytes]:
    if os.getuid() == 0:
        return subprocess.Popen(argv, **options)
    # From a copy of the interpreter that has no name: through /proc/self/exe a script that has this user could change
    # the mode and times of the file, for all others.
    copy = os.memfd_create("python", os.MFD_CLOEXEC)
    try:
        with open(os.path.realpath(sys.executable), "rb") as source, open(copy, "wb", closefd=False) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        options = options | {"pass_fds": [*options["pass_fds"], copy], "executable": f"/proc/self/fd/{copy}"}
        return subprocess.Popen(argv, **options)
    finally:
        os.close(copy)


class ForkedProcess:
    """A script that was forked from a server which had the imports."""

    how = FORKED

    def __init__(self, sandbox: Sandbox, script: Script, inside: Inside):
        """Raises: ForkRefused, OSError."""
        assert sandbox.forks is not None
        self._status: int | None = None
        with ExitStack() as on_failure, ExitStack() as after:
            self.ready, ready = _pipe(on_failure, after)
            self.end, status = _pipe(on_failure, after)
            handles = _opened(after, sandbox, inside)
            nowhere = os.open(os.devnull, os.O_RDWR)
            after.callback(os.close, nowhere)
            output = nowhere if inside.output is None else inside.output
            passed = {0: nowhere, 1: output, 2: output, ready: ready}
            passed |= {number: number for number in inside.descriptors}
            limits = kernel_limits(inside.file_bytes) | (
                {} if inside.cpu_seconds is None else {"cpu": inside.cpu_seconds}
            )
            request = {
                "script": script.path,
                "arguments": script.arguments,
                "folders": script.folders,
                "variables": dict(script.variables),
                "cwd": inside.cwd,
                "uid": experiment_uid(sandbox.level) if os.getuid() == 0 else None,
                "limits": {f"RLIMIT_{name.upper()}": limit for name, limit in limits.items()},
                "filtered": sandbox.level == BWRAP,
                "ready": ready,
                "guard": inside.guard,
                "ranks": script.ranks,
                "descriptors": list(passed),
                "namespaces": 0,
            }
            # Runs and scorers have a server each: of a library that both had mapped, a run's /proc/self/pagemap would
            # show which pages a scorer touches.
            key = ForkServerKey(
                ",".join(script.preload),
                _read_at_start(script.variables),
                in_memory=inside.mounts.image is not None and os.getuid() == 0,
            )
            reply = after.enter_context(_request_fork(sandbox.forks, key))
            self._holder = _Holder(sandbox, inside)
            on_failure.callback(self._holder.close)
            request["namespaces"] = self._holder.namespaces
            body = json.dumps(request).encode()
            try:
                socket.send_fds(reply, [body], [*handles, status, *passed.values()])
                socket.send_fds(reply, [b"\0"], [self._holder.init])
            except OSError as error:
                raise ForkRefused(f"the fork server ended: {error.strerror}") from None
            # What a scorer waits counts against the time of its measurement, so it rather starts cold.  Its server may
            # only be slow to import: a run's long wait alone shows that a server hangs.
            seconds = SCORER_SECONDS if inside.silent else SERVER_SECONDS
            if not _wait_until_forked(reply, seconds):
                if not inside.silent:
                    _report(sandbox.forks, {"hung": vars(key)})
                raise ForkRefused(f"the fork server gave no answer within {seconds:g} s")
            on_failure.pop_all()
        self.pid, self.started = self._holder.pid, time.monotonic()

    def poll(self) -> int | None:
        if self._status is None and readable(self.end, 0):
            text = os.read(self.end, 16)
            # The keeper always reports, unless it was killed together with the script.
            self._status = int(text) if text.isdigit() else 137
            self._holder.release()
        return self._status

    def close(self) -> None:
        self._holder.close()
        os.close(self.end)
        os.close(self.ready)


class _Holder:
    """A sandbox without an experiment, and a descriptor of its init."""

    def __init__(self, sandbox: Sandbox, inside: Inside):
        info_read, info_write = os.pipe()
        try:
            self._process = sandbox.start_holder(inside, info_write)
        except BaseException:
            os.close(info_read)
            raise
        finally:
            os.close(info_write)
        self.pid = self._process.pid
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            # Complete: everything is mounted when the holder's own first line arrives.
            output = self._process.stdout
            if not readable(output.fileno(), HOLDER_SECONDS) or not output.read(1):
                raise ForkRefused("bubblewrap built no sandbox")
            try:
                init = int(json.loads(os.read(info_read, 4096))["child-pid"])
            except (ValueError, KeyError):
                raise ForkRefused("bubblewrap did not name its process") from None
            self.namespaces = _differing_namespaces(init)
            self.init = os.pidfd_open(init)
        except BaseException:
            self._kill()
            raise
        finally:
            os.close(info_read)

    def release(self) -> None:
        """Let the sandbox end by itself, so that the CPU time of its processes is counted among our children's."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self._kill()
        os.close(self.init)

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def forked_start_fault(sandbox: Sandbox) -> str:
    """Try a forked start of a script that does nothing; returns why it does not work, or nothing."""
    if sandbox.level == NONE:
        return "there is no sandbox to join"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        try:
            server, connection = ForkServerKey("", "OMP_NUM_THREADS=1", in_memory=False).start()
        except OSError as error:
            return f"no fork server started: {error.strerror}"
        router = threading.Thread(target=_route_one, args=(theirs, connection), daemon=True)
        router.start()
        try:
            script = Script("/dev/null", variables={"OMP_NUM_THREADS": "1"})
            process = ForkedProcess(replace(sandbox, forks=ours, image=None), script, Inside(Mounts(), "/tmp"))
            try:
                ended = readable(process.end, HOLDER_SECONDS)
                return "" if ended and process.poll() == 0 else "the script did not end as it should"
            finally:
                process.close()
        except (ForkRefused, OSError) as error:
            return str(error)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            router.join()
            connection.close()
            server.wait()


def _route_one(requests: socket.socket, server: socket.socket) -> None:
    """Hand one request on, as the zygote does."""
    body, connections, _, _ = socket.recv_fds(requests, 1 << 16, 1)
    if body:
        socket.send_fds(server, [b"\0"], connections)
    for connection in connections:
        os.close(connection)


def report_refusal(forks: socket.socket, reason: str) -> None:
    """Have the reason of a cold start logged where the backend lives."""
    _report(forks, {"refusal": reason})


def _report(forks: socket.socket, message: dict[str, Any]) -> None:
    try:
        forks.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
    except OSError:
        return  # the zygote is gone, and the backend logs that


_READ_AT_START = ("MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "PYTORCH_", "TORCH")
"""How the names of variables begin that the C library, pools of threads and torch read once."""
_READ_LATER = frozenset({"TORCHINDUCTOR_CACHE_DIR"})


def _read_at_start(variables: Mapping[str, str]) -> str:
    """`ForkServerKey.variables`."""
    names = sorted(name for name in variables.keys() - _READ_LATER if name.startswith(_READ_AT_START))
    return "\n".join(f"{name}={variables[name]}" for name in names)


def _request_fork(forks: socket.socket, key: ForkServerKey) -> socket.socket:
    """A connection to a process that a fork server has just forked."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        socket.send_fds(forks, [json.dumps({"fork": vars(key)}).encode()], [theirs.fileno()])
    except OSError:
        ours.close()
        raise ForkRefused("the zygote ended") from None
    finally:
        theirs.close()
    return ours


def _wait_until_forked(reply: socket.socket, seconds: float) -> bool:
    """Wait for the keeper's answer; False when none comes in time.  Raises: ForkRefused."""
    if not readable(reply.fileno(), seconds):
        return False
    try:
        answer = json.loads(reply.recv(4096) or b'{"refused": "the fork server ended"}')
    except OSError as error:
        raise ForkRefused(f"the fork server ended: {error.strerror}") from None
    if "refused" in answer:
        raise ForkRefused(answer["refused"])
    return True


def _differing_namespaces(pid: int) -> int:
    """The namespaces of a process that are not ours, as flags of setns.  Joining one's own would be refused."""
    flags = 0
    for name, flag in _NAMESPACES.items():
        if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
            flags |= flag
    return flags


def _pipe(on_failure: ExitStack, after: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    on_failure.callback(os.close, read)
    after.callback(os.close, write)
    return read, write


def _opened(after: ExitStack, sandbox: Sandbox, inside: Inside) -> list[int]:
    """A descriptor of the filter's program, for the process to load; of nothing where the level has no filter."""
    handle = inside.open_filter() if sandbox.level == BWRAP else os.open(os.devnull, os.O_RDONLY)
    after.callback(os.close, handle)
    return [handle]
