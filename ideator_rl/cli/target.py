"""What `status` and `cancel` are pointed at: the folder of a run, or a bucket; and who is at work there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.executor import store
from ideator_rl.experiment import RUNNING
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, bucket_at
from ideator_rl.storage.records import JOURNAL

__all__ = ["Entry", "Process", "bucket_at", "entries", "run_folder", "trainer"]
WAITING = "waiting"


@dataclass(frozen=True)
class Process:
    """A process and its start: together a name that is never used twice."""

    pid: int
    start: str

    @property
    def alive(self) -> bool:
        return process_tree.start_time(self.pid) == self.start


@dataclass(frozen=True)
class Entry:
    """One experiment of a bucket."""

    id: str
    status: str
    """That of its record; `running` or `waiting` where there is none."""
    claim: dict[str, Any] | None
    """Who runs it now; see `attempts`."""
    spec: store.Spec | None
    """None for an idea that never became a codebase."""


def run_folder(target: str) -> Path | None:
    """The folder, if the target is that of a run."""
    return Path(target) if (Path(target) / JOURNAL).is_file() else None


def entries(bucket: Bucket) -> list[Entry]:
    """Every experiment of a bucket, those that no codebase came of included."""
    return [entry_of(bucket, id) for id in bucket.names("experiments")]


def trainer(folder: Path) -> Process | None:
    """The trainer at work in a run's folder on this machine: the process that says so and holds the lock open."""
    try:
        lock = folder / ".lock"
        pid = int(lock.read_text())
        start = process_tree.start_time(pid)
        held = {os.path.realpath(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    except (OSError, ValueError):
        return None
    return Process(pid, start) if start is not None and os.path.realpath(lock) in held else None


def entry_of(bucket: Bucket, id: str) -> Entry:
    """One experiment of a bucket, by its id."""
    record, spec = store.load_record(bucket, id), store.Spec.load(bucket, id)
    if record is not None:
        return Entry(id, record.status, None, spec)
    claim = store.running_claim(bucket, id)
    return Entry(id, WAITING if claim is None else RUNNING, claim, spec)
