"""Files and folders that appear whole or not at all, and where the library keeps its cache.

`write_atomic` is durable: data and name are on disk when it returns.  `atomic_folder` and `exclusive` are for what
several processes may try to make at the same time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_root() -> Path:
    """The folder for everything the library can make again: `$XDG_CACHE_HOME/ideator_rl`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ideator_rl"


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file that replaces an older one at once; its folder is made if it is missing.  Text becomes UTF-8.

    Raises:
        OSError: the file cannot be written; an older one is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with open(scratch, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path | str) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_folder(target: Path, overwrite: bool = True) -> Iterator[Path]:
    """A scratch folder that becomes `target` when the block ends well, and is removed when it does not.

    Args:
        overwrite: remove a folder that is already at `target`; if false, only an empty one is replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes it private
        if overwrite and target.is_dir():
            shutil.rmtree(target)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Lock `target` between processes while it is made; the others wait, and then find it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The lock is a separate file, because `target` is replaced while it is held.
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
