"""The clock and the limits of one run: CPU or wall time, memory, processes, disk, open files, mappings.

Covered:
- the whole process tree is measured from outside, about twenty times a second, and more often near the budget's end
- what a run can make slow to look at (disk, descriptors, mappings, shared memory) is looked at by other processes,
  once a second; too slow to look at is too much
- whatever this process overlooks: a run that used more than its budget keeps no artifact, and the kernel ends each
  process that computes for longer than the budget
Not covered: a limit can be exceeded for as long as one interval; the gaps listed in docs/reference/safety.md.

All of it is read and written by the one thread that follows the run.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from ideator_rl.environments.environment import Budget, Resources
from ideator_rl.experiment import FAILED, LOST, TIMED_OUT
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.checkpoints import CheckpointWatch
from ideator_rl.sandbox.slow_look import SlowLook, TooSlow
from ideator_rl.sandbox.tracer import Tracer

POLL_SECONDS, SHORTEST_POLL_SECONDS = 0.05, 0.01
"""Between two looks at the clock: the first while much of the budget is left, the second at its end."""
OVERRUN_SECONDS = 0.25
"""CPU seconds beyond the budget after which nothing of a run counts, whatever its artifact looks like."""
DISK_SECONDS = 1.0
"""Between two looks at disk, descriptors and mappings."""
MEMORY_SECONDS = 0.1
"""Between two looks at shared memory."""
SOCKET_BYTES = 425_984
"""What the kernel lets a socket hold by default, counted as memory for each of them."""
OPEN_PER_PROCESS = 39
"""A run may have so many descriptors and mappings for each process that it may have, or `process_tree.MAX_OPEN`."""
MAX_ENTRIES = 20_000
MAX_DEPTH = 64
MAX_ARTIFACT_ENTRIES = 1_000
"""Of the artifact folder, looked at by the clock itself.  Far fewer are taken as an artifact."""


def kernel_cpu_seconds(budget: Budget) -> int | None:
    """After how many CPU seconds the kernel is to kill a process of a run; None for a budget on the wall clock.

    Serves where this process is held up: it is of one process, in whole seconds, and includes a cold start-up.
    """
    return math.ceil(budget.seconds + budget.startup_allowance) + 1 if budget.clock == "cpu" else None


class Watch:
    """Measures one run and reports the limit that it breaks."""

    def __init__(
        self,
        pid: int,
        budget: Budget,
        resources: Resources,
        workspace: Path,
        started: float,
        tracer: Tracer | None = None,
        checkpoints: CheckpointWatch | None = None,
        *,
        counted: bool,
    ):
        """
        Args:
            started: monotonic seconds.
            tracer: counts what the kernel's own sums lose.
            checkpoints: is shown the artifact's files at each look within the budget.
            counted: no time of children can be lost; a sum that falls was only read while a child ended.
        """
        self.pid, self.budget, self.resources, self.workspace = pid, budget, resources, workspace
        self.started, self.startup, self.marked = started, 0.0, False
        self._tracer, self._counted, self._checkpoints = tracer, counted, checkpoints
        self.cpu_seen = 0.0
        """CPU seconds of the tree, the highest sum so far."""
        self.cpu_of_looks = 0.0
        """CPU seconds of our own processes that looked at the run and have ended: they count as this one's children."""
        self._last_cpu, self._vanished_cpu = 0.0, 0.0
        self._open = process_tree.OpenResources()
        self._most_open = max(process_tree.MAX_OPEN, OPEN_PER_PROCESS * resources.processes)
        self._startup_wall = 0.0
        self._next_check, self._next_disk_check, self._next_memory_check = started, started + DISK_SECONDS, started
        # Looks that are under way.
        self._disk_look: SlowLook | None = None
        self._memory_look: SlowLook | None = None
        self._artifact = workspace / "artifact"
        self._artifact_in_time: tuple[tuple[str, int, int], ...] = ()
        """The artifact's files at the last look within the budget."""

    def mark(self) -> None:
        """The launcher has imported what is preloaded: the budget runs from here."""
        pids = process_tree.descendants(self.pid)
        self.startup = process_tree.usage(pids).seconds
        if self._tracer is not None:
            self._tracer.mark(pids, self.startup)
        self._startup_wall = time.monotonic() - self.started
        self.marked = True

    def over_budget(self, cpu: float, wall: float) -> bool:
        """Args: `cpu` without start-up, `wall` with it."""
        return self._left(cpu, wall) < 0

    def seconds_to_next_look(self) -> float:
        """How long the caller may wait before it asks for the broken limit again."""
        return max(0.0, self._next_check - time.monotonic())

    def broken_limit(self) -> tuple[str, str] | None:
        """The limit that is broken now: a status and a sentence.  However often it is asked, it looks at its own pace.

        The status is `lost` while no code of the experiment has run.
        """
        if time.monotonic() < self._next_check:
            return None
        fault = self._broken_limit()
        return (LOST, fault[1]) if fault and not self.marked else fault

    def _broken_limit(self) -> tuple[str, str] | None:
        pids = process_tree.descendants(self.pid)
        used = process_tree.usage(pids)
        traced = self._tracer.seconds(pids) if self._tracer is not None and self.marked else None
        cpu = used.seconds if traced is None else traced
        # Where children can be ignored, their time then vanishes from the tree: what was seen once stays counted.
        self._vanished_cpu += 0.0 if self._counted else max(0.0, self._last_cpu - cpu)
        self._last_cpu, cpu = cpu, cpu + self._vanished_cpu
        self.cpu_seen = max(self.cpu_seen, cpu)
        now = time.monotonic()
        wall = now - self.started
        self._next_check = now + self._pause(cpu, wall)
        if fault := self._broken_clock(cpu, wall):
            return fault
        # The artifact counts as it was at the last look within the budget.
        if self.marked and not self.over_budget(cpu - self.startup, wall):
            self._artifact_in_time = _file_states(self._artifact)
            if self._checkpoints is not None:
                names = [name for name, _, _ in self._artifact_in_time]
                self._checkpoints.look(self._artifact, names, self.spent(cpu - self.startup, wall))
        if used.tasks > self.resources.processes:
            return FAILED, f"over the limit of {self.resources.processes} processes and threads"
        try:
            return self._broken_memory_limit(pids, used.resident) or self._broken_disk_limit(pids)
        except TooSlow:
            return FAILED, "its memory, mappings, open files or folders took too long to look at"

    def close(self) -> None:
        """The run has ended: give up the looks that are under way."""
        for look in (self._disk_look, self._memory_look):
            if look is not None:
                self._end(look)
        self._disk_look = self._memory_look = None

    def artifact_in_time(self, cpu: float) -> bool:
        """Whether a run that was over its budget had completed its artifact before.  Args: `cpu` without start-up."""
        if self.budget.clock == "cpu" and self._left(cpu, 0.0) < -OVERRUN_SECONDS:
            return False
        return bool(self._artifact_in_time) and _file_states(self._artifact) == self._artifact_in_time

    def over_budget_message(self) -> str:
        unit = "CPU seconds of all its processes" if self.budget.clock == "cpu" else "seconds"
        return f"over the budget of {self.budget.seconds:g} {unit} before its artifact was complete"

    def _left(self, cpu: float, wall: float) -> float:
        """Seconds of the budget that are left; negative when it is exceeded."""
        return self.budget.seconds - self.spent(cpu, wall)

    def spent(self, cpu: float, wall: float) -> float:
        """Seconds of the budget.  Args: `cpu` without start-up, `wall` with it."""
        return cpu if self.budget.clock == "cpu" else max(0.0, wall - self._startup_wall)

    def _pause(self, cpu: float, wall: float) -> float:
        """Seconds until the next look: shorter than all processors together need to spend what is left."""
        if not self.marked:
            return POLL_SECONDS / 2
        processors = (os.cpu_count() or 1) if self.budget.clock == "cpu" else 1
        left = self._left(cpu - self.startup, wall) / processors
        return min(POLL_SECONDS / 2, max(SHORTEST_POLL_SECONDS, left / 2))

    def _broken_clock(self, cpu: float, wall: float) -> tuple[str, str] | None:
        budget = self.budget
        if not self.marked:
            spent = cpu if budget.clock == "cpu" else wall
            if spent > budget.startup_allowance or wall > 20 * budget.startup_allowance:
                return FAILED, f"start-up took over its allowance of {budget.startup_allowance:g} s"
        elif self.over_budget(cpu - self.startup, wall):
            return TIMED_OUT, self.over_budget_message()
        elif budget.clock == "cpu" and wall - self._startup_wall > budget.max_wall_seconds:
            # A run that stretches a CPU budget this far may hide CPU time: its artifact does not count.
            self._artifact_in_time = ()
            message = f"idle: {wall:.0f} s of wall clock for a budget of {budget.seconds:g} CPU seconds"
            if self._tracer is not None and self._tracer.fault:
                message += f"; no process can handle SIGCHLD here ({self._tracer.fault}), and one may have waited"
            return TIMED_OUT, message
        return None

    def _broken_memory_limit(self, pids: list[int], resident: int) -> tuple[str, str] | None:
        """Raises: TooSlow."""
        limit = self.resources.memory_gb * 1e9 - self._open.sockets * SOCKET_BYTES - self._open.page_tables
        if self._memory_look is not None:
            exact = self._memory_look.result()
            if self._memory_look.ended:
                self._end(self._memory_look)
                self._memory_look = None
            if exact is not None and exact > limit:
                return FAILED, f"over the memory limit of {self.resources.memory_gb:g} GB"
        # The plain sum counts shared pages for each process: the exact figure is slow, and needed only above the limit.
        elif resident > limit and time.monotonic() >= self._next_memory_check:
            self._next_memory_check = time.monotonic() + MEMORY_SECONDS
            self._memory_look = SlowLook(lambda: process_tree.proportional_memory(pids))
        return None

    def _broken_disk_limit(self, pids: list[int]) -> tuple[str, str] | None:
        """Raises: TooSlow."""
        if self._disk_look is None:
            if time.monotonic() >= self._next_disk_check:
                self._disk_look = SlowLook(lambda: _look_at_disk(self.workspace, pids, self._most_open))
            return None
        answer = self._disk_look.result()
        if not self._disk_look.ended:
            return None
        self._end(self._disk_look)
        self._disk_look, self._next_disk_check = None, time.monotonic() + DISK_SECONDS
        if answer is None:
            return None
        size, entries, self._open = answer["size"], answer["entries"], process_tree.OpenResources(**answer["open"])
        if entries > MAX_ENTRIES:
            return FAILED, f"left over {MAX_ENTRIES} files and folders, or folders that cannot be looked into"
        if self._open.too_many == "mappings":
            return FAILED, f"over the limit of {self._most_open} memory mappings"
        if self._open.too_many:
            return FAILED, f"over the limit of {self._most_open} open descriptors"
        limit = self.resources.disk_gb
        if size + self._open.unlinked > limit * 1e9:
            return FAILED, f"over the disk limit of {limit:g} GB"
        return None

    def _end(self, look: SlowLook) -> None:
        look.close()
        self.cpu_of_looks += look.cpu


def _look_at_disk(workspace: Path, pids: list[int], most_open: int) -> dict[str, Any]:
    size, entries = _disk_usage(workspace)
    # A workspace that is away is a fault of the machine, which the worker looks for when the run has failed.
    device = workspace.stat().st_dev if workspace.exists() else 0
    return {"size": size, "entries": entries, "open": asdict(process_tree.open_resources(pids, device, most_open))}


def _file_states(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and change times of a folder's files.  The owner of a file cannot set its change time."""
    try:
        with os.scandir(folder) as entries:
            first = list(islice(entries, MAX_ARTIFACT_ENTRIES + 1))
        if len(first) > MAX_ARTIFACT_ENTRIES:
            return ()
        return tuple(sorted((e.name, (s := e.stat(follow_symlinks=False)).st_size, s.st_ctime_ns) for e in first))
    except OSError:
        return ()


def _disk_usage(folder: Path) -> tuple[int, int]:
    """Bytes and entries below a folder; looks no further once there are too many, or they lie too deep."""
    size, entries, queue = 0, 0, [(folder, 0)]
    while queue and entries <= MAX_ENTRIES:
        current, depth = queue.pop()
        if depth > MAX_DEPTH:
            return size, MAX_ENTRIES + 1
        try:
            with os.scandir(current) as children:
                for entry in children:
                    entries += 1
                    info = entry.stat(follow_symlinks=False)
                    size += max(info.st_size, info.st_blocks * 512)  # room may be taken beyond the end
                    if entry.is_dir(follow_symlinks=False):
                        queue.append((Path(entry.path), depth + 1))
        except FileNotFoundError:
            continue
        except OSError:  # closed, or under a path too long: what cannot be measured counts as too much
            return size, MAX_ENTRIES + 1
    return size, entries
