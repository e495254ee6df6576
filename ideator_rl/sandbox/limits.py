"""The clock and the limits of one run: CPU or wall time, memory, processes, disk, open files.

Covered: the whole process tree is measured from outside, about twenty times a second; disk and descriptors once a
second.
Not covered: a limit can be exceeded for as long as one interval; the gaps listed in docs/reference/safety.md.

All of it is read and written by the one thread that follows the run.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ideator_rl.environments.environment import Budget, Resources
from ideator_rl.sandbox import process_tree

POLL_SECONDS = 0.05
DISK_SECONDS = 1.0
"""Between two looks at the disk."""
SOCKET_BYTES = 425_984
"""What the kernel lets a socket hold by default, counted as memory for each of them."""
MAX_ENTRIES = 20_000
MAX_DEPTH = 64


class Watch:
    """Measures one run and reports the limit that it breaks."""

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
        """
        Args:
            started: monotonic seconds.
            has_mark: a launcher reports the end of start-up; without one, the budget includes the allowance for it.
            counted: no time of children can be lost; a sum that falls was only read while a child ended.
        """
        self.pid, self.budget, self.resources, self.workspace = pid, budget, resources, workspace
        self.started, self.startup, self.marked = started, 0.0, not has_mark
        self._counted = counted
        self.cpu_seen = 0.0
        """CPU seconds of the tree, the highest sum so far."""
        self._last_cpu, self._vanished_cpu = 0.0, 0.0
        self._open = process_tree.OpenResources()
        self._startup_wall = 0.0
        self._next_check, self._next_disk_check = started, started + DISK_SECONDS
        self._artifact = workspace / "artifact"
        self._artifact_in_time: tuple[tuple[str, int, int], ...] = ()
        """The artifact's files at the last look within the budget."""
        self._allowance = 0.0 if has_mark else budget.startup_allowance

    def mark(self) -> None:
        """The launcher has imported what is preloaded: the budget runs from here."""
        self.startup = process_tree.usage(process_tree.descendants(self.pid)).seconds
        self._startup_wall = time.monotonic() - self.started
        self.marked = True

    def over_budget(self, cpu: float, wall: float) -> bool:
        """Args: `cpu` without start-up, `wall` with it."""
        spent = cpu if self.budget.clock == "cpu" else wall - self._startup_wall
        return spent > self.budget.seconds + self._allowance

    def broken_limit(self) -> tuple[str, str] | None:
        """The limit that is broken now: a status and a sentence.  Looks at most once a poll, however chatty the run."""
        if time.monotonic() < self._next_check:
            return None
        self._next_check = time.monotonic() + POLL_SECONDS / 2
        pids = process_tree.descendants(self.pid)
        used = process_tree.usage(pids)
        cpu = used.seconds
        # Where children can be ignored, their time then vanishes from the tree: what was seen once stays counted.
        self._vanished_cpu += 0.0 if self._counted else max(0.0, self._last_cpu - cpu)
        self._last_cpu, cpu = cpu, cpu + self._vanished_cpu
        self.cpu_seen = max(self.cpu_seen, cpu)
        wall = time.monotonic() - self.started
        if fault := self._broken_clock(cpu, wall):
            return fault
        # The artifact counts as it was at the last look within the budget.
        if self.marked and not self.over_budget(cpu - self.startup, wall):
            self._artifact_in_time = _file_states(self._artifact)
        if used.tasks > self.resources.processes:
            return "failed", f"over the limit of {self.resources.processes} processes and threads"
        memory = self.resources.memory_gb * 1e9 - self._open.sockets * SOCKET_BYTES
        # The plain sum counts shared pages for each process: the exact figure is slow, and needed only above the limit.
        if used.resident > memory and process_tree.proportional_memory(pids) > memory:
            return "failed", f"over the memory limit of {self.resources.memory_gb:g} GB"
        return self._broken_disk_limit(pids)

    def artifact_in_time(self) -> bool:
        """Whether a run that was over its budget had completed its artifact before."""
        return bool(self._artifact_in_time) and _file_states(self._artifact) == self._artifact_in_time

    def over_budget_message(self) -> str:
        unit = "CPU seconds of all its processes" if self.budget.clock == "cpu" else "seconds"
        return f"over the budget of {self.budget.seconds:g} {unit} before its artifact was complete"

    def _broken_clock(self, cpu: float, wall: float) -> tuple[str, str] | None:
        budget = self.budget
        if not self.marked:
            spent = cpu if budget.clock == "cpu" else wall
            if spent > budget.startup_allowance or wall > 20 * budget.startup_allowance:
                return "failed", f"start-up took over its allowance of {budget.startup_allowance:g} s"
        elif self.over_budget(cpu - self.startup, wall):
            return "timed_out", self.over_budget_message()
        elif budget.clock == "cpu" and wall - self._startup_wall > 30 + 6 * budget.seconds:
            # A run that stretches a CPU budget this far may hide CPU time: its artifact does not count.
            self._artifact_in_time = ()
            return "timed_out", f"idle: {wall:.0f} s of wall clock for a budget of {budget.seconds:g} CPU seconds"
        return None

    def _broken_disk_limit(self, pids: list[int]) -> tuple[str, str] | None:
        if time.monotonic() < self._next_disk_check:
            return None
        size, entries = _disk_usage(self.workspace)
        self._open = process_tree.open_resources(pids, self.workspace.stat().st_dev)
        self._next_disk_check = time.monotonic() + DISK_SECONDS
        if entries > MAX_ENTRIES:
            return "failed", f"left over {MAX_ENTRIES} files and folders, or folders that cannot be looked into"
        if self._open.too_many:
            return "failed", f"over the limit of {process_tree.MAX_DESCRIPTORS} open descriptors"
        limit = self.resources.disk_gb
        if size + self._open.unlinked > limit * 1e9:
            return "failed", f"over the disk limit of {limit:g} GB"
        return None


def _file_states(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and change times of a folder's files.  The owner of a file cannot set its change time."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted((e.name, (s := e.stat(follow_symlinks=False)).st_size, s.st_ctime_ns) for e in entries))
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
