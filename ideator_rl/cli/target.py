"""The target of `status`, `cancel` and `rerun`: the folder of a run, or a bucket; and the processes at work there."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.config.reader import read_text
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import bucket_at
from ideator_rl.storage.run_folder import MARK, lost_journal
from ideator_rl.storage.run_reader import JOURNAL, NoRun

__all__ = ["Process", "bucket_at", "find_trainer", "run_folder"]
WAITING = "waiting"


@dataclass(frozen=True)
class Process:
    """A process id with the start time of the process: no two processes share both."""

    pid: int
    start: str

    @property
    def alive(self) -> bool:
        return process_tree.start_time(self.pid) == self.start

    def signal(self, number: int) -> None:
        """Send a signal, if the process is alive."""
        with suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, number)


def run_folder(target: str) -> Path | None:
    """The folder if the target is one of a run, else None.

    Raises:
        NoRun: the folder is one of a run that has lost its journal.
    """
    folder = Path(target)
    if os.path.isfile(folder / JOURNAL):
        return folder
    if os.path.isfile(folder / MARK) and (note := lost_journal(folder)):
        raise NoRun(note)
    return None


def find_trainer(folder: Path) -> Process | None:
    """The trainer of a run on this machine: the process whose id is in the lock file, and that has that file open."""
    # The id alone is not enough: after a crash another process may get the same one.
    try:
        lock = folder / ".lock"
        pid = int(read_text(lock))
        start = process_tree.start_time(pid)
        open_files = {os.path.realpath(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    except (OSError, ValueError):
        return None
    return Process(pid, start) if start is not None and os.path.realpath(lock) in open_files else None
