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
import sys
import time
from dataclasses import dataclass, replace

from ideator_rl.environments.environment import Budget, Resources, joined_folders
from ideator_rl.experiment import FAILED, LOST, TIMED_OUT
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.checkpoints import Checkpoint, CheckpointWatch
from ideator_rl.sandbox.limits import Watch, kernel_cpu_seconds
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.program import COLD, PROGRAM, Inside, Process, Script
from ideator_rl.sandbox.sandbox import BWRAP, NONE, WORKSPACE, Sandbox
from ideator_rl.sandbox.start import start_script
from ideator_rl.sandbox.tracer import Tracer
from ideator_rl.text.redaction import beginning_of, end_of

LOG_HEAD, LOG_TAIL = 4_990_000, 4_990_000
"""Bytes of output kept from the start and from the end."""
LAST_LINE_CHARACTERS = 65_536
"""The last line of the output is looked for in so many."""
MAX_LAST_LINE = 300
"""Characters of it in a message."""


@dataclass(frozen=True)
class Command:
    """What to run: the environment's command, what it preloads, and its variables (an allow-list)."""

    argv: tuple[str, ...]
    preload: tuple[str, ...]
    variables: dict[str, str]
    folders: tuple[str, ...] = ("",)
    """Folders of the workspace that come first on a Python script's `sys.path`."""
    ranks: int = 1
    """So many processes of the command run together; all limits are of all of them."""


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
    start: str = COLD
    """`forked` or `cold`; a command that is no Python script always starts cold."""
    killed: bool = False
    """It failed by a signal that we did not send, and that a crash does not raise.  The machine may have killed it, or
    the experiment itself."""
    crashed: bool = False
    """Its program ended with an error, and `message` holds its last line; else `message` is ours."""
    spent: float = 0.0
    """Seconds of the budget."""
    checkpoints: tuple[Checkpoint, ...] = ()
    exit_code: int | None = None
    """Of a command that ended by itself; None for one that was ended."""
    compiled: float | None = None
    """Seconds of the budget when it reported that it had compiled; None if it did not."""


class _Log:
    """The first and the last bytes of a stream."""

    def __init__(self) -> None:
        self._head, self._tail, self.total = bytearray(), bytearray(), 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = LOG_HEAD - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room else data
        # Only now and then, so that a long log is not copied for each read.
        if len(self._tail) > 2 * LOG_TAIL:
            del self._tail[:-LOG_TAIL]

    def text(self) -> str:
        tail = self._tail[-LOG_TAIL:]
        if self.total == len(self._head) + len(tail):
            return (self._head + tail).decode("utf-8", "replace")
        # Without the words that the cut goes through: the rest of a secret would not be known as one.
        head = beginning_of(self._head.decode("latin-1") + "x", len(self._head)).encode("latin-1")
        tail_text = end_of("x" + tail.decode("latin-1"), len(tail)).encode("latin-1")
        middle = f"\n… {self.total - len(head) - len(tail_text)} bytes left out …\n".encode()
        return (head + middle + tail_text).decode("utf-8", "replace")


def run(
    sandbox: Sandbox,
    command: Command,
    mounts: Mounts,
    budget: Budget,
    resources: Resources,
    checkpoints: bool = False,
) -> RunResult:
    """Run a command in the sandbox until it ends or breaks a limit.

    Args:
        checkpoints: note when each checkpoint in the artifact was first complete.
    """
    cpu_before = _children_cpu()
    tracer = Tracer() if budget.clock == "cpu" and sandbox.level == BWRAP else None
    output, write_output = os.pipe()
    try:
        process = _start(sandbox, command, mounts, budget, resources, write_output, tracer)
    except BaseException:
        os.close(output)
        if tracer is not None:
            tracer.close_inherited()
            tracer.close()
        raise
    finally:
        os.close(write_output)
        if tracer is not None:
            tracer.close_inherited()
    # A fork server may just have imported for a minute what the first experiment preloads: not this run's time.
    started = process.started
    seen = CheckpointWatch(resources.artifact_bytes) if checkpoints else None
    workspace = next(iter(mounts.writable))
    watch = Watch(process.pid, budget, resources, workspace, started, tracer, seen, counted=tracer is not None)
    log, traced_cpu = _Log(), 0.0
    try:
        broken = _follow(process, output, log, watch)
        exit_code = process.poll()
    finally:
        watch.close()
        # The tree of the command first; then daemons that left it, which this process has adopted.
        if process.poll() is None:
            process_tree.kill_tree(process.pid, reapers=0 if sandbox.level == NONE else 2)
        if tracer is not None:
            traced_cpu = tracer.close()
        process.close()
        process_tree.kill_tree(os.getpid())
        _reap()
        os.close(output)
    # What is killed with its PID namespace is missing from our children's time; what was seen alive is not.
    cpu = max(0.0, max(_children_cpu() - cpu_before - watch.cpu_of_looks, traced_cpu, watch.cpu_seen) - watch.startup)
    wall = time.monotonic() - started
    spent = watch.spent(cpu, wall)
    return replace(
        _result(exit_code or 0, broken, log, watch, cpu, wall),
        start=process.how,
        spent=spent,
        exit_code=exit_code if broken is None else None,
        checkpoints=() if seen is None else seen.close(spent),
        compiled=None if seen is None else seen.compiled,
    )


def _start(
    sandbox: Sandbox,
    command: Command,
    mounts: Mounts,
    budget: Budget,
    resources: Resources,
    output: int,
    tracer: Tracer | None,
) -> Process:
    """Start the command: a Python script or module with its preload, anything else as it is."""
    argv, cwd = command.argv, sandbox.visible_path(next(iter(mounts.writable)), WORKSPACE)
    inside = Inside(mounts, cwd, cpu_seconds=kernel_cpu_seconds(budget), file_bytes=resources.file_bytes, output=output)
    if tracer is not None:
        inside = replace(inside, descriptors=(tracer.inherited,), guard=tracer.inherited)
    is_module = argv[1:2] == ("-m",) and len(argv) > 2
    if argv[0] == "python" and (is_module or (len(argv) > 1 and argv[1].endswith(".py"))):
        folders = joined_folders(cwd, command.folders)
        script = Script(argv[1], argv[2:], command.preload, command.variables, folders, command.ranks)
        return start_script(sandbox, script, inside)
    program = sys.executable if argv[0] == "python" else argv[0]
    # Without imports a new process is as quick as a forked one.
    script = Script(PROGRAM, (program, *argv[1:]), variables=command.variables, ranks=command.ranks)
    return start_script(replace(sandbox, forks=None), script, inside)


def _follow(process: Process, output: int, log: _Log, watch: Watch) -> tuple[str, str] | None:
    """Read output and the start mark until the process ends (None) or a limit breaks (which one)."""
    with selectors.DefaultSelector() as selector:
        # Each of them wakes this process, so that only the limits have to be polled for.
        for descriptor in (output, process.end, process.ready):
            selector.register(descriptor, selectors.EVENT_READ)
        while process.poll() is None:
            for key, _ in selector.select(watch.seconds_to_next_look()):
                if key.fd == process.end:
                    continue
                data = os.read(key.fd, 65_536)
                if key.fd == output and data:
                    log.add(data)
                    continue
                if key.fd == process.ready and data:
                    watch.mark()
                selector.unregister(key.fd)  # nothing more will come
            if broken := watch.broken_limit():
                return broken
    # A short program may end between two looks, with its mark unread.
    if not watch.marked:
        os.set_blocking(process.ready, False)
        if _read_available(process.ready):
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
    text, killed, crashed = log.text(), False, False
    # The last seconds may have passed between the last poll and the end.
    if broken is None and watch.marked and watch.over_budget(cpu, wall):
        broken = (TIMED_OUT, watch.over_budget_message())
    if broken is None and (exit_code != 0 or not watch.marked):
        message, crashed = f"ended with status {exit_code}: {_last_line(text)}", True
        if watch.marked:
            broken, killed = (FAILED, message), _signal_number(exit_code) in process_tree.SENT_SIGNALS
        else:
            # bubblewrap, Python or a module that is preloaded: no code of the experiment was there yet.
            broken = (LOST, f"The experiment did not start: it {message}")
    status, message = broken or ("ok", "")
    complete = status == "ok" or (status == TIMED_OUT and watch.artifact_in_time(cpu))
    return RunResult(status, message, text, cpu, complete, watch.startup, wall, killed=killed, crashed=crashed)


def _last_line(text: str) -> str:
    """The last line of an output for a message, without half of a secret at its end."""
    lines = reversed(end_of(text, LAST_LINE_CHARACTERS).splitlines())
    return beginning_of(next((line.strip() for line in lines if line.strip()), "it printed nothing"), MAX_LAST_LINE)


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
