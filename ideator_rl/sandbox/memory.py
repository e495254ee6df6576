"""How much memory this machine has, and how much is free, also where control groups allow less.

A container's limit is at the root of the hierarchy that it sees; that of a batch job or of a service is further down.
So every group from this process's own up to the root is looked at, in both versions of control groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ideator_rl.files import kernel_lines

# Files of version 1 and of version 2, and how memory.stat names the pages of files that the kernel can drop at once.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def machine_memory() -> float:
    """Bytes of memory, or less where a control group allows less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min([total, *(limit for limit, _ in group_memory())])


def available_memory() -> float:
    """Bytes that could be used now without swapping."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = float(fields["MemAvailable"].split()[0]) * 1024
    return max(0.0, min([available, *(limit - used for limit, used in group_memory())]))


def swaps() -> bool:
    """Whether the machine can move pages of a tmpfs to a disk."""
    return len(Path("/proc/swaps").read_text().splitlines()) > 1


def group_memory(process: Path = Path("/proc/self")) -> Iterator[tuple[float, float]]:
    """Of each control group above a process that has a limit: its bytes, and how many are in use."""
    for folder, (limit, used, droppable) in _groups(process):
        # No such file at the root; the word "max" where there is no limit.
        with suppress(OSError, ValueError, KeyError):
            most = float((folder / limit).read_text())
            pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield most, float((folder / used).read_text()) - float(pages[droppable])


def _groups(process: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of a process's groups up to the root, each with the names in it."""
    with suppress(OSError, ValueError):
        mounts = [line.split(" ") for line in kernel_lines(process / "mountinfo")]
        for line in kernel_lines(process / "cgroup"):
            _, controllers, group = line.split(":", 2)
            # Version 2 has one hierarchy, without a name.
            if controllers and "memory" not in controllers.split(","):
                continue
            for _, _, _, root, place, *rest in mounts:
                kind, _, options = rest[rest.index("-") + 1 :]
                if kind == ("cgroup" if controllers else "cgroup2") and (
                    not controllers or "memory" in options.split(",")
                ):
                    # A container may see the hierarchy from its own group on, with or without that group's path.
                    inner = group.removeprefix(root if root != "/" else "")
                    names = _V1 if controllers else _V2
                    below = Path(place + os.path.normpath("/" + inner))
                    yield from ((f, names) for f in (below, *below.parents) if f.is_relative_to(place))
