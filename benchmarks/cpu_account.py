"""CPU time of this process and of everything started below it, detached and killed processes included.

Exact in a control group of its own, which root can make where cpuacct (version 1) or version 2 is mounted.  Elsewhere
the sum of `getrusage`, which misses processes that another process adopted or that were not waited for.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

EXACT, ROUGH = "control group", "getrusage"


class CpuAccount:
    def __init__(self, group: Path | None):
        self._group = group
        self.source = EXACT if group else ROUGH

    def seconds(self) -> float:
        """CPU seconds since the account was opened."""
        if self._group is None:
            usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            return sum(usage.ru_utime + usage.ru_stime for usage in usages)
        return _read(self._group)


@contextmanager
def cpu_account() -> Iterator[CpuAccount]:
    """Count from here on, for this process and all that it starts."""
    for mount in _mounts():
        group = mount / f"ideator-benchmark-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            _read(group)
        except OSError:
            _remove(mount, group)
            continue
        try:
            yield CpuAccount(group)
        finally:
            _remove(mount, group)
        return
    yield CpuAccount(None)


def _mounts() -> list[Path]:
    """Where control groups that count CPU time are mounted."""
    mounts = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, folder, kind, options = line.split()[:4]
        if kind == "cgroup2" or (kind == "cgroup" and "cpuacct" in options.split(",")):
            mounts.append(Path(folder))
    return mounts


def _read(group: Path) -> float:
    with suppress(FileNotFoundError):
        return int((group / "cpuacct.usage").read_text()) / 1e9
    fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(fields["usage_usec"]) / 1e6


def _remove(mount: Path, group: Path) -> None:
    """Leave the group and remove it; a detached process may take a moment to end."""
    with suppress(OSError):
        (mount / "cgroup.procs").write_text(str(os.getpid()))
    for _ in range(50):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)
