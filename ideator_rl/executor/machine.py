"""Faults of the machine that would look like faults of an experiment: a full disk, and files that somebody removed.

Looked for before a run, and again where a run or its measurement failed: what the machine lacked meanwhile, an idea
cannot be blamed for.

Not covered: space that was short for a moment and is free again when the run has ended.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ideator_rl.environments.data import Data
from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError

MIN_FREE_INODES = 1_000
MAX_ENTRIES = 200_000
"""Of a run that are looked at for what they take."""
MAX_DATA_FILES = 10_000
"""Files of an environment's data that are compared."""


class MachineFault(IdeatorError):
    """The attempt failed for a reason of the machine's, not of the idea's."""


class MachineCheck:
    """Compares the machine now with what it was when this object was made."""

    def __init__(self, scratch: Path, resources: Resources, data: Data, workspace_in_memory: bool = False):
        """
        Args:
            scratch: the folder of one run; its device is to have the space that the run may use.
            workspace_in_memory: the run fills a file system of its own, and only its artifact is copied to the device.

        Raises:
            MachineFault: there is too little space, or no such folder.
        """
        self._scratch, self._data = scratch, data
        size = resources.disk_gb * 1e9
        self._needed = min(size, resources.artifact_bytes) if workspace_in_memory else size
        self._identity = _identity(scratch)
        self._data_before = _data_state(data)
        if fault := self._shortage(used=0, inodes=0):
            raise MachineFault(fault)

    def raise_fault(self) -> None:
        """Raises: MachineFault when the machine has lost something since."""
        if fault := self._fault():
            raise MachineFault(f"The attempt failed, and not by the experiment alone: {fault}")

    def _fault(self) -> str:
        if self._identity is None or _identity(self._scratch) != self._identity:
            return f"The folder it ran in, {self._scratch}, was removed."
        if _data_state(self._data) != self._data_before:
            return f"The prepared data in {self._data.public.parent} changed or was removed meanwhile."
        return self._shortage(*_used(self._scratch))

    def _shortage(self, used: int, inodes: int) -> str:
        """What the scratch folder's device lacks; empty when it has enough.

        Args:
            used: bytes that the run itself takes there, which it may.
            inodes: the same, in files and folders.
        """
        try:
            device = os.statvfs(self._scratch)
        except OSError as error:
            return f"The folder {self._scratch} cannot be used: {error.strerror}."
        free = device.f_bavail * device.f_frsize + used
        advice = "Free space there, or set TMPDIR to a folder on another disk."
        if free < self._needed:
            return (
                f"{self._scratch.parent} has {free / 1e9:.2g} GB free, and experiments of this preset may use "
                f"{self._needed / 1e9:.2g} GB. {advice}"
            )
        # Some file systems have no fixed number of them, and report none at all.
        if device.f_files and device.f_favail + inodes < MIN_FREE_INODES:
            return f"{self._scratch.parent} has room for {device.f_favail} more files only. {advice}"
        return ""


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        info = folder.lstat()
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _used(folder: Path) -> tuple[int, int]:
    """Bytes on the device, and number of files and folders, below a folder.  Hostile code wrote there."""
    size, count, queue = 0, 0, [str(folder)]
    while queue and count < MAX_ENTRIES:
        with suppress(OSError), os.scandir(queue.pop()) as entries:
            for entry in entries:
                count += 1
                size += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    queue.append(entry.path)
    return size, count


def _data_state(data: Data) -> list[tuple[str, int, int]]:
    """Path, size and change time of the prepared files."""
    state: list[tuple[str, int, int]] = []
    for root in (data.public, data.private):
        for current, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(current, name)
                try:
                    info = os.lstat(path)
                except OSError:
                    continue
                state.append((path, info.st_size, info.st_mtime_ns))
                if len(state) > MAX_DATA_FILES:
                    return state
        state.append((str(root), root.is_dir(), 0))
    return state
