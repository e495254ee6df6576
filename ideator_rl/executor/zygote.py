"""The zygote: a process of ours that has imported the worker and the evaluator's libraries, and forks workers.

    backend ── request ──> zygote ── fork ──> worker ── fork ──> evaluator
                             └─ starts ──> fork servers, one for each set of preloaded modules

- It has one thread, runs no experiment and loads no environment: a worker reads all of that itself.
- It ends with the process that started it.  Workers go on, as they do after a cold start; what they start from then on
  starts cold.
- It hands a worker's request for a forked start to the fork server that has the modules, and starts that server when
  there is none, when it has died, or when an installed package has changed.

usage: python -m ideator_rl.executor.zygote CONTROL_FD
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from typing import Any

# Imported before any fork, for the workers and evaluators.
import ideator_rl.scoring.evaluate  # noqa: F401
from ideator_rl.executor import worker
from ideator_rl.executor.start_worker import MAX_MESSAGE, MAX_SLOTS
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.forked import ForkServerKey
from ideator_rl.sandbox.mounts import package_folders
from ideator_rl.storage.bucket import is_remote

MAX_DEATHS = 3
"""Of fork servers with the same modules, before no more is started."""


@dataclass
class ForkServer:
    """A running fork server."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    packages: tuple[int, ...]
    """The state of what was installed when it was started."""


class Zygote:
    """All of its state belongs to the one thread of its process."""

    def __init__(self, control: socket.socket, parent: int):
        """`parent`: a descriptor that becomes readable when the backend's process ends."""
        self._control, self._parent = control, parent
        # Workers inherit the second end; what they send arrives at the first.
        self._requests, self.forks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._servers: dict[ForkServerKey, ForkServer] = {}
        self._deaths: dict[ForkServerKey, int] = {}
        self._workers: set[int] = set()

    def serve(self) -> None:
        """Answer requests until the backend's process has ended."""
        while True:
            sources: list[socket.socket | int] = [self._control, self._requests, self._parent]
            readable, _, _ = select.select(sources, [], [])
            self._reap()
            # The connection may live on in a process that the parent has forked.
            if self._parent in readable:
                return
            if self._requests in readable:
                self._serve_worker()
            if self._control in readable and not self._serve_backend():
                return

    def _serve_backend(self) -> bool:
        """Fork the worker of one submission; False when the backend is gone."""
        body, slots, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, MAX_SLOTS)
        if not body:
            return False
        request = json.loads(body)
        threads = len(os.listdir("/proc/self/task"))
        try:
            if threads > 1:
                self._send({"refused": f"the zygote has {threads} threads"})
            elif len(slots) != request["slots"]:
                self._send({"refused": "the zygote is out of descriptors"})
            else:
                self._fork_worker(request, slots)
        except OSError as error:
            self._send({"refused": f"no process can be forked: {error.strerror}"})
        for slot in slots:
            os.close(slot)  # the worker has the lock now
        return True

    def _fork_worker(self, request: dict[str, Any], slots: list[int]) -> None:
        if is_remote(request["config"]["bucket"]):
            # Imported once here.  It starts threads only when a store is opened, which this process never does.
            importlib.import_module("ideator_rl.storage.object_store")
        pid = os.fork()
        if pid == 0:
            self._become_worker(request, slots)
        self._workers.add(pid)
        # Taken before the worker can be reaped: the descriptor is that of no other process.
        try:
            end = os.pidfd_open(pid)
        except OSError:
            # The backend is told that there is no worker, and starts another one for the same attempt.
            os.kill(pid, signal.SIGKILL)
            raise
        try:
            socket.send_fds(self._control, [json.dumps({"pid": pid}).encode()], [end])
        finally:
            os.close(end)

    def _become_worker(self, request: dict[str, Any], slots: list[int]) -> None:
        """Never returns.  The slots stay open, and with them the locks."""
        status = 1
        try:
            os.setsid()
            self._control.close()
            self._requests.close()
            for server in self._servers.values():
                server.connection.close()
            os.close(self._parent)
            with contextlib.suppress(OSError):  # the backend's process may have ended
                os.dup2(os.open(request["errors"], os.O_WRONLY | os.O_APPEND), 2)
            os.environ.clear()
            os.environ.update(request["variables"])
            status = worker.main(request["config"] | {"slots": slots}, self.forks)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _serve_worker(self) -> None:
        """Hand a request for a forked start on; the worker sees its connection close where that is impossible."""
        body, connections, _, _ = socket.recv_fds(self._requests, MAX_MESSAGE, 1)
        request = json.loads(body)
        try:
            if "refusal" in request:
                self._report(request["refusal"])
            elif "hung" in request:
                self._kill_server(ForkServerKey(**request["hung"]))
            elif not connections:
                self._report("the zygote is out of descriptors")
            else:
                self._hand_on(ForkServerKey(**request["fork"]), connections)
        except Exception as error:
            # Of this one request: the worker then starts its script cold.
            self._report(f"there is no fork server: {error}")
        finally:
            for connection in connections:
                os.close(connection)

    def _hand_on(self, key: ForkServerKey, connections: list[int]) -> None:
        server = self._server(key)
        if server is None:
            return
        try:
            socket.send_fds(server.connection, [b"\0"], connections)
        except BlockingIOError:
            # Hundreds of requests wait: it serves none.
            self._kill_server(key)
            raise

    def _kill_server(self, key: ForkServerKey) -> None:
        """End a fork server that does not answer; the next request starts another one."""
        if key in self._servers:
            self._servers[key].process.kill()
            self._servers[key].process.wait()

    def _server(self, key: ForkServerKey) -> ForkServer | None:
        """The fork server for a key, started when there is none that can be used."""
        packages = _packages(key.modules)
        server = self._servers.get(key)
        if server is not None and server.process.poll() is not None:
            self._deaths[key] = self._deaths.get(key, 0) + 1
            self._report(
                f"the fork server of {key.modules or 'no modules'} ended with status {server.process.returncode}"
            )
            server.connection.close()
            server = None
        if server is not None and server.packages != packages:
            server.connection.close()  # it ends when it has served what it was sent
            server = None
        if server is None and self._deaths.get(key, 0) < MAX_DEATHS:
            server = self._servers[key] = ForkServer(*key.start(), packages)
            # A server that serves nothing must not block this process once its queue is full.
            server.connection.setblocking(False)
        return server

    def _reap(self) -> None:
        """Collect workers that have ended; fork servers are collected by `poll`."""
        self._workers -= {pid for pid in self._workers if os.waitpid(pid, os.WNOHANG)[0]}

    def _report(self, text: str) -> None:
        self._send({"refusal": text})

    def _send(self, message: dict[str, Any]) -> None:
        # A backend that reads nothing for long must not hold up its workers.
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


def _packages(modules: str) -> tuple[int, ...]:
    """The state of what is installed, as far as these modules go: another one after a package was changed."""
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *package_folders(), sys.executable}
    for module in filter(None, modules.split(",")):
        spec = importlib.util.find_spec(module.partition(".")[0])
        if spec is not None and spec.origin is not None:
            paths.add(spec.origin)
    return tuple(os.stat(path).st_mtime_ns for path in sorted(paths) if os.path.exists(path))


def main(control: int) -> None:
    # Some callers leave this signal ignored, and children can then not be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    parent = os.pidfd_open(os.getppid())
    best_sandbox()  # probed here, for all workers
    Zygote(socket.socket(fileno=control), parent).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
