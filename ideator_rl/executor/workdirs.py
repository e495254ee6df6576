"""Working directories: the temporary folders in which workers run experiments.

A worker locks the lock file of its folder for as long as it lives.  A folder whose lock is free was left by a killed
worker; the next worker of the same user removes it.  A folder gets its name only when its lock is taken.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ideator_rl.files import try_lock
from ideator_rl.sandbox import process_tree

PREFIX, OPENING_PREFIX = "ideator-run-", ".ideator-opening-"
LOCK = "lock"
OPEN_MODE = 0o711
"""Other users may enter but not list."""
OPENING_SECONDS = 3600.0
"""A folder with the second prefix is older only when its worker was killed before it took the lock."""

log = logging.getLogger(__name__)


@contextmanager
def new_workdir() -> Iterator[Path]:
    """A fresh folder that other users may enter but not list; removed at the end, whatever was written there."""
    opening = Path(tempfile.mkdtemp(prefix=OPENING_PREFIX))
    with os.fdopen(os.open(opening / LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)) as lock:
        try_lock(lock.fileno(), opening / LOCK)
        opening.chmod(OPEN_MODE)
        folder = opening.rename(opening.with_name(PREFIX + opening.name.removeprefix(OPENING_PREFIX)))
        try:
            yield folder
        finally:
            remove_folder(folder)


def remove_stale_workdirs() -> None:
    """Remove the folders of workers that are gone, as far as they can be removed; raises nothing."""
    scratch = Path(tempfile.gettempdir())
    for folder in (*scratch.glob(PREFIX + "*"), *scratch.glob(OPENING_PREFIX + "*")):
        try:
            if not folder.is_symlink() and folder.stat().st_uid == os.getuid() and _is_stale(folder):
                process_tree.kill_stuck_sandboxes(folder)
                remove_folder(folder)
        except FileNotFoundError:  # another worker removes it too
            continue
        except Exception as error:
            # Every new worker comes here: what is left of an earlier one must not keep it from its own experiment.
            log.warning("The folder %s of a worker that is gone could not be removed: %r", folder, error)


def _is_stale(folder: Path) -> bool:
    if folder.name.startswith(OPENING_PREFIX) and time.time() - folder.stat().st_mtime < OPENING_SECONDS:
        return False
    try:
        with open(folder / LOCK) as lock:
            return try_lock(lock.fileno(), folder / LOCK)
    except FileNotFoundError:
        return True


def remove_folder(folder: Path) -> None:
    """Remove a folder that hostile code wrote into: deeper than Python recurses, or closed to its owner."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if folder.exists():
            subprocess.run([*command, str(folder)], stderr=subprocess.DEVNULL, check=False)
