"""A file system of its own for the workspace of one run, in memory and of the size that the run may fill.

The kernel then refuses what goes over the limit, at once, and free room of the machine's disk is not visible inside.

Covered: where root starts the worker and the limit fits a share of the machine's memory.  The mount belongs to a mount
namespace of the worker's, so it ends with the worker, however that ends.
Not covered: workers of ordinary users, who cannot mount; their workspaces lie on the disk, and `limits` looks at them
once a second.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ideator_rl.environments.environment import Resources
from ideator_rl.sandbox.limits import MAX_ENTRIES
from ideator_rl.sandbox.memory import machine_memory

SHARE = 0.25
"""Of the machine's memory, at most for the workspaces of as many runs as fit on its cores."""
_NEW_MOUNTS = 0x2_0000  # CLONE_NEWNS
_RECURSIVE_SLAVE = 0x4000 | 0x8_0000  # MS_REC | MS_SLAVE
_NO_SETUID_NO_DEVICES = 2 | 4  # MS_NOSUID | MS_NODEV
_DETACH = 2  # MNT_DETACH

_process_with_own_mounts = 0
"""Pid of the process that last took a mount namespace: a forked one has to take another."""


@contextmanager
def sized_workspace(folder: Path, resources: Resources) -> Iterator[bool]:
    """Mount a file system of `disk_gb` at a folder that does not exist yet, until the block ends.

    Yields: whether it is mounted; if not, the folder is on disk.
    """
    folder.mkdir(parents=True)
    size = int(resources.disk_gb * 1e9)
    if not in_memory(resources):
        yield False
        return
    options = f"size={size},nr_inodes={MAX_ENTRIES + 1000},mode=0755"
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"workspace", os.fsencode(folder), b"tmpfs", _NO_SETUID_NO_DEVICES, options.encode()) == 0
    try:
        yield mounted
    finally:
        if mounted:
            libc.umount2(os.fsencode(folder), _DETACH)


def give_to(uid: int, folder: Path) -> None:
    """Make a user the owner of a folder and of all it holds."""
    if uid != os.getuid():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid)


def in_memory(resources: Resources) -> bool:
    """Whether workspaces of this size are mounted in memory by this process."""
    return not workspace_fault(resources) and _take_own_mounts()


def workspace_fault(resources: Resources) -> str:
    """Why workspaces of this size lie on the disk; empty where they can be mounted in memory."""
    if os.getuid() != 0:
        return "only root can mount"
    parallel = max(1, (os.cpu_count() or 1) // max(1, resources.cpus))
    needed, share = resources.disk_gb * 1e9 * parallel, SHARE * machine_memory()
    if needed > share:
        return f"{parallel} of {resources.disk_gb:g} GB are over a quarter of the memory, {share / 1e9:.1f} GB"
    return ""


def _take_own_mounts() -> bool:
    """Give this process a mount namespace that the machine's changes still reach."""
    global _process_with_own_mounts
    if _process_with_own_mounts != os.getpid():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_MOUNTS) != 0 or libc.mount(None, b"/", None, _RECURSIVE_SLAVE, None) != 0:
            return False
        _process_with_own_mounts = os.getpid()
    return True
