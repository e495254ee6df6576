"""The folder of a run: one process at a time, never two runs in one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.files import open_lock, try_lock, write_atomic
from ideator_rl.storage.journal_reader import JOURNAL

MARK = "recipe.yaml"
"""The resolved recipe; a folder with this file holds a run."""


class RunFolderError(IdeatorError):
    """The output folder is taken."""


def lost_journal(folder: Path) -> str | None:
    """A sentence where a run to resume has no journal any more, although it had begun; else None."""
    journal = folder / JOURNAL
    if journal.is_file() and journal.stat().st_size:
        return None
    # A run that was killed before its first experiment has none of these.
    names = ("ledger.json", "rollouts", "timings.json", "bucket/experiments", "checkpoint-*")
    if not any(path for name in names for path in folder.glob(name)):
        return None
    state = "is empty" if journal.exists() else "is gone"
    return (
        f"The run's journal {journal} {state}: which ideas led to which results is lost, and a new journal begins. "
        "Results in the bucket are found again and not paid for twice. To keep the old journal, stop and restore it."
    )


def keep_recipe(folder: Path, text: str) -> None:
    """Save the resolved recipe: a resumed run is compared with it."""
    write_atomic(folder / MARK, text)


@contextmanager
def take(folder: Path, resume: bool) -> Iterator[None]:
    """Lock a run's folder for this process until the block ends.

    Raises:
        RunFolderError: another process has locked it, or it holds a run and `resume` is false.
        NoFileLocks: neither its file system nor this machine's temporary folder has locks.
    """
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open_lock(lock)
    except OSError as error:
        raise RunFolderError(
            f"The output folder {folder} cannot be used: {error.strerror or error}. Give another --output_dir."
        ) from error
    try:
        if not try_lock(handle, lock):
            pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            raise RunFolderError(
                f"Another run (process {pid or 'unknown'}) is at work in {folder}. "
                "Wait for it, end it with `ideator-rl cancel`, or give another --output_dir."
            )
        if (folder / MARK).exists() and not resume:
            raise RunFolderError(
                f"The folder {folder} already holds a run. Continue it with --resume, or give another --output_dir."
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
