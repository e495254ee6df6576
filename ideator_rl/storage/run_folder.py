"""The folder of a run: one process at a time, never two runs in one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import read_json
from ideator_rl.errors import IdeatorError
from ideator_rl.files import open_lock, try_lock, write_atomic
from ideator_rl.storage.journal_reader import JOURNAL

MARK = "recipe.yaml"
"""The resolved recipe; a folder with this file holds a run."""
LEADERBOARD = "leaderboard.json"
"""What `ideator-rl leaderboard` measured last."""


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
        f"The run's journal {journal} {state}: which ideas led to which results is lost. A resumed run "
        "begins a new one; results in the bucket are found again and not paid for twice. Restore it to keep it."
    )


def saved_leaderboard(folder: Path) -> dict[str, Any] | None:
    """What `ideator-rl leaderboard` wrote into a run's folder; None without a file that has its form."""
    numbers = ("mean", "deviation", "p", "seconds_to_target", "seconds_without_compilation")
    try:
        facts = read_json(folder / LEADERBOARD)
        texts = [facts["metric"], facts["hardware"], *(entry["label"] for entry in facts["entries"])]
        values = [entry[name] for entry in facts["entries"] for name in numbers]
        lists = [entry["values"] for entry in facts["entries"]]
        fits = all(isinstance(text, str) for text in texts) and all(isinstance(items, list) for items in lists)
        fits = fits and all(value is None or isinstance(value, int | float) for value in [facts["target"], *values])
        return facts if fits else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_recipe(folder: Path, text: str) -> None:
    """Save the resolved recipe: a resumed run is compared with it."""
    write_atomic(folder / MARK, text)


class Start:
    """Guards the start of a run: until `begun` is called, an error leaves the folder as if nothing had been started.

    Mended, the same command then works without --resume.  The bucket stays, since its results are paid for.
    """

    def __init__(self, folder: Path, written: Collection[str] = ()):
        """
        Args:
            written: names in the folder that a start writes, beside recipe and journal.
        """
        names = (MARK, JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm", *written)
        # What was there before the start stays.
        self._new = [path for name in names if not (path := folder / name).exists()]
        self._begun = False

    def __enter__(self) -> Start:
        return self

    def begun(self) -> None:
        """Something that --resume continues is in the folder."""
        self._begun = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An interrupted start is continued with --resume; one that was refused is mended and started again.
        if kind is None or self._begun or not issubclass(kind, Exception):
            return
        for path in self._new:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


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
            pid = lock.read_bytes()[:32].decode("ascii", "replace").strip()
            raise RunFolderError(
                f"Another run (process {pid or 'unknown'}) is at work in {folder}. "
                "Wait for it, end it with `ideator-rl cancel`, or give another --output_dir."
            )
        if (folder / MARK).exists() and not resume:
            raise RunFolderError(
                f"The folder {folder} already holds a run. Continue it with --resume, or give another --output_dir."
            )
        # Where the file system has no locks, `handle` is of another file: `find_trainer` looks for a process that has
        # this one open.
        with open(lock, "w", encoding="ascii") as named:
            named.write(str(os.getpid()))
            named.flush()
            yield
    finally:
        os.close(handle)
