"""The folders in the temporary directory in which supervisors run experiments.

A supervisor holds a lock on its folder's lock file for as long as it lives.  What a killed one left behind is removed
by the next supervisor of the same user: a folder whose lock nobody holds has no owner.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "ideator-run-"
LOCK = "lock"


@contextmanager
def home() -> Iterator[Path]:
    """A fresh folder that others may enter but not list; removed at the end, whatever was written there."""
    place = Path(tempfile.mkdtemp(prefix=PREFIX))
    with os.fdopen(os.open(place / LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place.chmod(0o711)  # from here on it may be swept: until now only its owner could enter
        try:
            yield place
        finally:
            _remove(place)


def sweep() -> None:
    """Remove the folders of supervisors that are gone."""
    for place in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with suppress(FileNotFoundError):  # another one sweeps too
            if not place.is_symlink() and place.stat().st_uid == os.getuid() and _is_left(place):
                _remove(place)


def _is_left(place: Path) -> bool:
    if place.stat().st_mode & 0o777 != 0o711:
        return False
    try:
        with open(place / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _remove(place: Path) -> None:
    """Remove a folder that hostile code wrote into: deeper than Python recurses, or closed to its owner."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if place.exists():
            subprocess.run([*command, str(place)], stderr=subprocess.DEVNULL, check=False)
