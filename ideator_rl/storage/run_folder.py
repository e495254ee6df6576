"""The folder of a run: one process at a time, never two runs in one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from ideator_rl.errors import IdeatorError
from ideator_rl.files import write_atomic

MARK = "recipe.yaml"
"""The resolved recipe; a folder with this file holds a run."""


class RunFolderError(IdeatorError):
    """The output folder is taken."""


def keep_recipe(folder: Path, text: str) -> None:
    """Save the resolved recipe: a resumed run is compared with it."""
    write_atomic(folder / MARK, text)


def take(folder: Path, resume: bool) -> IO[str]:
    """Lock a run's folder for this process; keep the handle for as long as the run lasts.

    Raises:
        RunFolderError: another process has locked it, or it holds a run and `resume` is false.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a+")  # noqa: SIM115 - held for the whole run
    except OSError as error:
        raise RunFolderError(
            f"The output folder {folder} cannot be used: {error.strerror or error}. Give another --output_dir."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        raise RunFolderError(
            f"Another run (process {handle.read().strip() or 'unknown'}) is at work in {folder}. "
            "Wait for it, end it with `ideator-rl cancel`, or give another --output_dir."
        ) from None
    if (folder / MARK).exists() and not resume:
        raise RunFolderError(
            f"The folder {folder} already holds a run. Continue it with --resume, or give another --output_dir."
        )
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle
