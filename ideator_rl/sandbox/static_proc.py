"""Files in place of those in /proc that count over the whole machine, or list what others do on it.

By such a counter one sandbox could hear what another one holds or does.  Values are the machine's where they stay the
same while it runs, and plausible ones where they change, so that libraries which read them go on.

Covered: memory, processors, load, interrupts, disks, kernel parameters with their counts of files and terminals.
Not covered: the folders of processes, which a PID namespace limits to those of the sandbox.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from functools import cache
from pathlib import Path

from ideator_rl.files import atomic_folder, cache_root

FREE_SHARE = 0.5
"""Of the memory, shown as free."""
EMPTY_FOLDER = "empty"
MASKED_FILES = (
    "buddyinfo", "cpuinfo", "diskstats", "interrupts", "loadavg", "meminfo", "schedstat", "softirqs", "stat", "swaps",
    "uptime", "vmstat", "zoneinfo",
)  # fmt: skip
"""Readable by all.  Those that only root reads, such as slabinfo, are closed to an experiment already."""
MASKED_FOLDERS = ("fs", "irq", "pressure")
PARAMETERS = "sys"
_CONSTANT = (
    "fs/file-max", "fs/nr_open", "fs/pipe-max-size", "kernel/cap_last_cap", "kernel/ngroups_max", "kernel/osrelease",
    "kernel/ostype", "kernel/pid_max", "kernel/randomize_va_space", "kernel/sched_rt_period_us", "kernel/shmall",
    "kernel/shmmax", "kernel/shmmni", "kernel/threads-max", "kernel/version", "net/core/somaxconn",
    "vm/max_map_count", "vm/mmap_min_addr", "vm/overcommit_memory", "vm/overcommit_ratio", "vm/swappiness",
)  # fmt: skip
"""Kernel parameters that are set, not counted."""


def static_proc() -> Path:
    """The folder with these files, made once for what they contain.

    Raises:
        OSError: the cache folder cannot be written.
    """
    files = _files()
    key = hashlib.sha256(repr((sorted(files.items()), MASKED_FOLDERS)).encode()).hexdigest()[:16]
    target = cache_root() / "proc" / key
    if not target.is_dir():
        # Another process may win; its folder is the same.
        try:
            with atomic_folder(target, overwrite=False) as folder:
                write_static_proc(folder)
        except OSError:
            if not target.is_dir():
                raise
    return target


def write_static_proc(folder: Path) -> None:
    """Write the files, and with them a folder `self` for a sandbox that has no /proc of the kernel's."""
    for name, text in _files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in (EMPTY_FOLDER, *MASKED_FOLDERS, "self"):
        (folder / name).mkdir(exist_ok=True)
    # The loader looks here for the folder of the program, where libraries may lie relative to it.
    (folder / "self" / "exe").symlink_to(os.path.realpath(sys.executable))
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


@cache
def _files() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    files = dict.fromkeys(MASKED_FILES, "")
    files["cpuinfo"] = re.sub(r"(?m)^(cpu MHz\s*:) .*$", r"\1 2000.000", _read("/proc/cpuinfo"))
    files["meminfo"] = _meminfo(total)
    files["loadavg"] = "0.00 0.00 0.00 1/100 100\n"
    files["uptime"] = "100000.00 100000.00\n"
    files["swaps"] = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    files["vmstat"] = "".join(f"{name} 0\n" for name in ("pgpgin", "pgpgout", "pswpin", "pswpout", "pgfault"))
    numbers = " ".join(["0"] * 10)
    lines = ["cpu  " + numbers, *(f"cpu{core} {numbers}" for core in range(cores))]
    files["stat"] = "\n".join([*lines, "intr 0", "ctxt 0", "btime 1700000000", "processes 100", "procs_running 1", ""])
    for name in _CONSTANT:
        if text := _read(f"/proc/sys/{name}"):
            files[f"{PARAMETERS}/{name}"] = text
    files[f"{PARAMETERS}/kernel/hostname"] = "experiment\n"
    return files


def _meminfo(total: int) -> str:
    """Of `total` kibibytes; a library that waits for free memory finds some."""
    free = int(total * FREE_SHARE)
    values = {"MemTotal": total, "MemFree": free, "MemAvailable": free}
    values |= dict.fromkeys(
        ("Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal", "SwapFree", "Shmem", "SReclaimable"), 0
    )
    return "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in values.items())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
