"""One sealed run of an experiment's command, with the clock held by this process and not by the experiment.

Covered:
- the CPU (or wall) time of the whole process tree is measured here
- a run is ended when its budget is spent; what changes in its artifact after that does not count (see `limits`)
- when `run` returns, no process of the run is alive
- output is kept from both ends and bounded

Not covered: what the run printed or wrote is never a metric; `scoring` measures its artifact.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ideator_rl.environments.environment import Budget, Resources
from ideator_rl.experiment import FAILED, LOST, TIMED_OUT
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.limits import POLL_SECONDS, Watch
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import BWRAP, NONE, WORKSPACE, Sandbox

LOG_HEAD, LOG_TAIL = 16_384, 49_152
"""Bytes of output kept from the start and from the end."""
SENT_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM}
"""By these a program is ended from outside, as by the kernel when memory is short.  Others are raised by a crash."""
LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Command:
    """What to run: the environment's command, what it preloads, and its variables (an allow-list)."""

    argv: tuple[str, ...]
    preload: tuple[str, ...]
    variables: dict[str, str]


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    status: str
    """`ok`, `failed` or `timed_out`; `lost` where it ended before any code of the experiment ran: our fault."""
    message: str
    log: str
    cpu: float
    """CPU seconds of the tree after start-up."""
    artifact_complete: bool
    """Whether the artifact was complete within the budget: always when the run was, else if not a file of it changed
    after the last look at which the run was still within."""
    startup: float
    """CPU seconds before the experiment's code was loaded; 0 where nothing is preloaded."""
    wall: float
    """Seconds from start to end, start-up included."""
    killed: bool = False
    """It failed by a signal that we did not send, and that a crash does not raise.  The machine may have killed it, or
    the experiment itself."""


class _Log:
    """The first and the last bytes of a stream."""

    def __init__(self) -> None:
        self._head, self._tail, self.total = b"", b"", 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = LOG_HEAD - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[room:])[-LOG_TAIL:] if len(data) > room else self._tail

    def text(self) -> str:
        cut = self.total - len(self._head) - len(self._tail)
        middle = f"\n… {cut} bytes left out …\n".encode() if cut else b""
        return (self._head + middle + self._tail).decode("utf-8", "replace")


def run(
    sandbox: Sandbox,
    command: Command,
    mounts: Mounts,
    budget: Budget,
    resources: Resources,
    heartbeat: Callable[[], None] = lambda: None,
) -> RunResult:
    """Run a command in the sandbox until it ends or breaks a limit.  `heartbeat` is called at every poll."""
    workspace = next(iter(mounts.writable))
    argv, ready_write, ready_read = _wrapped(sandbox, command)
    cpu_before = _children_cpu()
    started = time.monotonic()
    counted = budget.clock == "cpu" and sandbox.level == BWRAP
    process = sandbox.start(
        argv,
        replace(mounts, readonly={**mounts.readonly, LAUNCHER: "/ideator/launch.py"}),
        sandbox.visible_path(workspace, WORKSPACE),
        counted=counted,
        pass_fds=[] if ready_write is None else [ready_write],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # Only the launcher holds the writing end now: when it closes it, no code of the experiment can send the mark.
    if ready_write is not None:
        os.close(ready_write)
    watch = Watch(process.pid, budget, resources, workspace, started, has_mark=ready_read is not None, counted=counted)
    log = _Log()
    assert process.stdout is not None
    try:
        broken = _follow(process, process.stdout.fileno(), ready_read, log, watch, heartbeat)
    finally:
        watch.close()
        # The tree of the command first; then daemons that left it, which this process has adopted.
        if process.poll() is None:
            process_tree.kill_tree(process.pid, reapers=0 if sandbox.level == NONE else 2)
        process.wait()
        process_tree.kill_tree(os.getpid())
        _reap()
        process.stdout.close()
        if ready_read is not None:
            os.close(ready_read)
    # What is killed with its PID namespace is missing from our children's time; what was seen alive is not.
    cpu = max(0.0, max(_children_cpu() - cpu_before - watch.cpu_of_looks, watch.cpu_seen) - watch.startup)
    wall = time.monotonic() - started
    return _result(process.returncode, broken, log, watch, cpu, wall)


def _wrapped(sandbox: Sandbox, command: Command) -> tuple[list[str], int | None, int | None]:
    """The command with its variables and, for a Python script, our launcher in front of it."""
    # The mark comes through a pipe of its own: output could be forged by the experiment.
    argv, ready_write, ready_read = list(command.argv), None, None
    python = sys.executable
    if argv[0] == "python" and len(argv) > 1 and argv[1].endswith(".py"):
        ready_read, ready_write = os.pipe()
        launcher = sandbox.visible_path(LAUNCHER, "/ideator/launch.py")
        argv = [python, "-I", "-B", "-u", launcher, str(ready_write), ",".join(command.preload), *argv[1:]]
    elif argv[0] == "python":
        argv[0] = python
    pairs = [f"{name}={value}" for name, value in command.variables.items()]
    return ["/usr/bin/env", "-i", *pairs, *argv], ready_write, ready_read


def _follow(
    process: subprocess.Popen[bytes],
    output: int,
    ready: int | None,
    log: _Log,
    watch: Watch,
    heartbeat: Callable[[], None],
) -> tuple[str, str] | None:
    """Read output and the start mark until the process ends (None) or a limit breaks (which one)."""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        if ready is not None:
            selector.register(ready, selectors.EVENT_READ)
        while process.poll() is None:
            for key, _ in selector.select(watch.seconds_to_next_look()):
                data = os.read(key.fd, 65_536)
                if key.fd == ready:
                    watch.mark() if data else None
                    selector.unregister(key.fd)
                elif data:
                    log.add(data)
                else:  # output was closed: without it `select` would no longer wait
                    selector.unregister(key.fd)
                    time.sleep(POLL_SECONDS)
            if broken := watch.broken_limit():
                return broken
            heartbeat()
    # A short program may end between two looks, with its mark unread.
    if ready is not None and not watch.marked:
        os.set_blocking(ready, False)
        if _read_available(ready):
            watch.mark()
    # A bounded number of reads: a daemon that still writes must not keep us here.
    os.set_blocking(output, False)
    for _ in range(16):
        if not (data := _read_available(output)):
            break
        log.add(data)
    return None


def _result(
    exit_code: int, broken: tuple[str, str] | None, log: _Log, watch: Watch, cpu: float, wall: float
) -> RunResult:
    text, killed = log.text(), False
    # The last seconds may have passed between the last poll and the end.
    if broken is None and watch.marked and watch.over_budget(cpu, wall):
        broken = (TIMED_OUT, watch.over_budget_message())
    if broken is None and (exit_code != 0 or not watch.marked):
        last_line = next((line for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
        message = f"ended with status {exit_code}: {last_line.strip()[:300]}"
        if watch.marked:
            broken, killed = (FAILED, message), _signal_number(exit_code) in SENT_SIGNALS
        else:
            # bubblewrap, Python or a module that is preloaded: no code of the experiment was there yet.
            broken = (LOST, f"The experiment did not start: it {message}")
    status, message = broken or ("ok", "")
    complete = status == "ok" or (status == TIMED_OUT and watch.artifact_in_time(cpu))
    return RunResult(status, message, text, cpu, complete, watch.startup, wall, killed)


def _signal_number(exit_code: int) -> int:
    """The signal that ended a program, 0 for none.  bubblewrap reports it as a shell does."""
    return -exit_code if exit_code < 0 else max(0, exit_code - 128)


def _read_available(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except BlockingIOError:
        return b""


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reap() -> None:
    """Collect adopted daemons, so that their time is in our children's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
