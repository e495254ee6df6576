"""One sealed run of an experiment's command, with the clock held here and not by the experiment.

Guarantees: the CPU (or wall) time of the whole process tree is measured by this process; a run is ended when its budget
is, and what changed in its artifact after that does not exist, whatever the script believes (the clock is read twenty
times a second); when `run` returns nothing of the run is alive.  Output
is kept from both ends and bounded.  What the run printed or wrote is never a metric.
"""

from __future__ import annotations

import os
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ideator_rl.environments.environment import Budget, Resources
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import BWRAP, WORKSPACE, Sandbox

POLL_SECONDS = 0.05
LOG_HEAD, LOG_TAIL = 16_384, 49_152
"""Bytes of output kept from the start and from the end."""
DISK_SECONDS = 1.0
"""Between two looks at the disk."""
SOCKET_BYTES = 425_984
"""What the kernel lets a socket hold by default, counted as memory for each of them."""
MAX_ENTRIES = 20_000
MAX_DEPTH = 64
LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Command:
    """What to run: the environment's command, what it preloads, and its variables (an allow-list)."""

    argv: tuple[str, ...]
    preload: tuple[str, ...]
    variables: dict[str, str]


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    status: str
    """`ok`, `failed` or `timed_out`."""
    message: str
    log: str
    cpu: float
    """CPU seconds of the tree after start-up."""
    kept: bool
    """Whether the artifact was complete within the budget: always when the run was, else if not a file of it changed
    after the last look at which the run was still within."""
    startup: float
    """CPU seconds before the experiment's code was loaded; 0 where nothing is preloaded."""
    wall: float
    """Seconds from start to end, start-up included."""


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
    beat: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a command in the sandbox until it ends or breaks a limit.  `beat` is called at every poll."""
    workspace = next(iter(mounts.writable))
    argv, ready_write, ready_read = _wrapped(sandbox, command)
    before = _children_cpu()
    started = time.monotonic()
    counted = budget.clock == "cpu" and sandbox.level == BWRAP
    process = sandbox.start(
        argv,
        replace(mounts, readonly={**mounts.readonly, LAUNCHER: "/ideator/launch.py"}),
        sandbox.place(workspace, WORKSPACE),
        counted=counted,
        pass_fds=[] if ready_write is None else [ready_write],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if ready_write is not None:
        os.close(ready_write)
    watch = _Watch(process.pid, budget, resources, workspace, started, has_mark=ready_read is not None, counted=counted)
    log = _Log()
    assert process.stdout is not None
    try:
        broken = _follow(process, process.stdout.fileno(), ready_read, log, watch, beat)
    finally:
        if process.poll() is None:
            process_tree.end(process.pid)
        process.wait()
        process_tree.end(os.getpid())
        _reap()
        process.stdout.close()
        if ready_read is not None:
            os.close(ready_read)
    # What is killed with its PID namespace is missing from our children's time; what was seen alive is not.
    cpu = max(0.0, max(_children_cpu() - before, watch.seen) - watch.startup)
    wall = time.monotonic() - started
    return _verdict(process.returncode, broken, log, watch, cpu, wall)


def _wrapped(sandbox: Sandbox, command: Command) -> tuple[list[str], int | None, int | None]:
    """The command with its variables and, for a Python script, our launcher in front of it."""
    argv, ready_write, ready_read = list(command.argv), None, None
    python = sys.executable
    if argv[0] == "python" and len(argv) > 1 and argv[1].endswith(".py"):
        ready_read, ready_write = os.pipe()
        launcher = sandbox.place(LAUNCHER, "/ideator/launch.py")
        argv = [python, "-I", "-B", "-u", launcher, str(ready_write), ",".join(command.preload), *argv[1:]]
    elif argv[0] == "python":
        argv[0] = python
    pairs = [f"{name}={value}" for name, value in command.variables.items()]
    return ["/usr/bin/env", "-i", *pairs, *argv], ready_write, ready_read


class _Watch:
    """The clock and the limits of one run."""

    def __init__(
        self,
        pid: int,
        budget: Budget,
        resources: Resources,
        workspace: Path,
        started: float,
        *,
        has_mark: bool,
        counted: bool,
    ):
        self.pid, self.budget, self.resources, self.workspace = pid, budget, resources, workspace
        self.started, self.startup, self.marked = started, 0.0, not has_mark
        self._counted = counted
        """No time of children can be lost; a sum that falls is only one that was read while a child ended."""
        self.seen = 0.0
        """CPU seconds of the tree at the last look."""
        self._last, self._gone, self._held = 0.0, 0.0, process_tree.Held()
        self._startup_wall = 0.0
        self._next_check, self._next_disk = started, started + DISK_SECONDS
        self._artifact = workspace / "artifact"
        self._in_time: tuple[tuple[str, int, int], ...] = ()
        """The artifact's files at the last look within the budget."""
        self._allowance = 0.0 if has_mark else budget.startup_allowance

    def mark(self) -> None:
        """The launcher has imported what is preloaded: the budget runs from here."""
        self.startup = process_tree.usage(process_tree.below(self.pid)).seconds
        self._startup_wall = time.monotonic() - self.started
        self.marked = True

    def over(self, cpu: float, wall: float) -> bool:
        spent = cpu if self.budget.clock == "cpu" else wall - self._startup_wall
        return spent > self.budget.seconds + self._allowance

    def broken(self) -> tuple[str, str] | None:
        """The limit that is broken now: a status and a sentence.  Looks at most once a poll, however chatty the run."""
        if time.monotonic() < self._next_check:
            return None
        self._next_check = time.monotonic() + POLL_SECONDS / 2
        pids = process_tree.below(self.pid)
        used = process_tree.usage(pids)
        cpu = used.seconds
        # Where children can be ignored, their time then vanishes from the tree: what was seen once stays counted.
        self._gone += 0.0 if self._counted else max(0.0, self._last - cpu)
        self._last, cpu = cpu, cpu + self._gone
        self.seen = max(self.seen, cpu)
        wall = time.monotonic() - self.started
        if not self.marked:
            spent = cpu if self.budget.clock == "cpu" else wall
            if spent > self.budget.startup_allowance or wall > 20 * self.budget.startup_allowance:
                return "failed", f"start-up took over its allowance of {self.budget.startup_allowance:g} s"
        elif self.over(cpu - self.startup, wall):
            return "timed_out", self.sentence()
        elif self.budget.clock == "cpu" and wall - self._startup_wall > 30 + 6 * self.budget.seconds:
            self._in_time = ()  # who stretches a CPU budget this far is not believed
            return (
                "timed_out",
                f"idle: {wall:.0f} s of wall clock for a budget of {self.budget.seconds:g} CPU seconds",
            )
        if self.marked and not self.over(cpu - self.startup, wall):
            self._in_time = _state(self._artifact)
        if used.tasks > self.resources.processes:
            return "failed", f"over the limit of {self.resources.processes} processes and threads"
        memory = self.resources.memory_gb * 1e9 - self._held.sockets * SOCKET_BYTES
        if used.resident > memory and process_tree.proportional(pids) > memory:
            return "failed", f"over the memory limit of {self.resources.memory_gb:g} GB"
        return self._disk(pids)

    def kept(self) -> bool:
        """Whether a run that was over its budget had completed its artifact before."""
        return bool(self._in_time) and _state(self._artifact) == self._in_time

    def sentence(self) -> str:
        unit = "CPU seconds of all its processes" if self.budget.clock == "cpu" else "seconds"
        return f"over the budget of {self.budget.seconds:g} {unit} before its artifact was complete"

    def _disk(self, pids: list[int]) -> tuple[str, str] | None:
        if time.monotonic() < self._next_disk:
            return None
        size, entries = _weight(self.workspace)
        self._held = process_tree.held(pids, self.workspace.stat().st_dev)
        self._next_disk = time.monotonic() + DISK_SECONDS
        if entries > MAX_ENTRIES:
            return "failed", f"left over {MAX_ENTRIES} files and folders, or folders that cannot be looked into"
        if self._held.too_many:
            return "failed", f"over the limit of {process_tree.MOST_HANDLES} open descriptors"
        limit = self.resources.disk_gb
        if size + self._held.unlinked > limit * 1e9:
            return "failed", f"over the disk limit of {limit:g} GB"
        return None


def _follow(
    process: subprocess.Popen[bytes],
    output: int,
    ready: int | None,
    log: _Log,
    watch: _Watch,
    beat: Callable[[], None],
) -> tuple[str, str] | None:
    """Read output and the start mark until the process ends (None) or a limit breaks (which one)."""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        if ready is not None:
            selector.register(ready, selectors.EVENT_READ)
        while process.poll() is None:
            for key, _ in selector.select(POLL_SECONDS):
                data = os.read(key.fd, 65_536)
                if key.fd == ready:
                    watch.mark() if data else None
                    selector.unregister(key.fd)
                elif data:
                    log.add(data)
                else:
                    selector.unregister(key.fd)
                    time.sleep(POLL_SECONDS)
            if broken := watch.broken():
                return broken
            beat()
    os.set_blocking(output, False)
    for _ in range(16):  # a writer that is still alive must not keep us here
        if not (data := _read_now(output)):
            break
        log.add(data)
    return None


def _verdict(code: int, broken: tuple[str, str] | None, log: _Log, watch: _Watch, cpu: float, wall: float) -> Ended:
    text = log.text()
    if broken is None and watch.marked and watch.over(cpu, wall):
        broken = ("timed_out", watch.sentence())
    if broken is None and code != 0:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
        broken = ("failed", f"ended with status {code}: {last.strip()[:300]}")
    status, message = broken or ("ok", "")
    kept = status == "ok" or (status == "timed_out" and watch.kept())
    return Ended(status, message, text, cpu, kept, watch.startup, wall)


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and change times of a folder's files; a change time cannot be set by who owns the file."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted((e.name, (s := e.stat(follow_symlinks=False)).st_size, s.st_ctime_ns) for e in entries))
    except OSError:
        return ()


def _read_now(fd: int) -> bytes:
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


def _weight(folder: Path) -> tuple[int, int]:
    """Bytes and entries below a folder; looks no further once there are too many, or they lie too deep."""
    size, entries, queue = 0, 0, [(folder, 0)]
    while queue and entries <= MAX_ENTRIES:
        here, depth = queue.pop()
        if depth > MAX_DEPTH:
            return size, MAX_ENTRIES + 1
        try:
            with os.scandir(here) as found:
                for entry in found:
                    entries += 1
                    info = entry.stat(follow_symlinks=False)
                    size += max(info.st_size, info.st_blocks * 512)  # room may be taken beyond the end
                    if entry.is_dir(follow_symlinks=False):
                        queue.append((Path(entry.path), depth + 1))
        except FileNotFoundError:
            continue
        except OSError:  # closed, or under a path too long: what cannot be weighed is too much
            return size, MAX_ENTRIES + 1
    return size, entries
