"""Files and folders that appear whole or not at all, and where the library keeps its cache.

`write_atomic` is durable: data and name are on disk when it returns.  `atomic_folder` and `exclusive` are for what
several processes may try to make at the same time.

Locks are those of `flock`: the kernel releases them after any kill.  Some file systems have none (Lustre without its
mount option, NFS without its lock service).  `open_lock` then takes a file in this machine's temporary folder, which
keeps apart the processes of one user on this machine, and no others.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ideator_rl.errors import IdeatorError

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_SHARED = ("nfs", "lustre", "cifs", "smb", "gpfs", "beegfs", "ceph", "fuse.")
"""How the types of file systems of several hosts begin; SQLite's write-ahead log does not work there."""
_without_locks: set[Path] = set()
"""Folders that a log line has named."""

log = logging.getLogger(__name__)


class NoFileLocks(IdeatorError):
    """A file system on which `flock` fails."""

    def __init__(self, path: Path, error: OSError):
        super().__init__(
            f"The file system of {path.parent} has no file locks (flock: {error.strerror}). They keep runs apart. "
            "Set TMPDIR to a folder on a local disk, or have the file system mounted with flock."
        )


def try_lock(handle: int, path: Path, shared: bool = False) -> bool:
    """Lock an open file; False where another process holds it.

    Raises:
        NoFileLocks: the file system of `path` has no locks.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise (NoFileLocks(path, error) if error.errno in _NO_LOCKS else error) from error
    return True


def open_lock(path: Path) -> int:
    """Open a lock file for `try_lock` and `wait_for_lock`: at `path`, or where no locks are there, on this machine.

    Raises:
        NoFileLocks: this machine's temporary folder has none either.
        OSError: no file can be opened at `path`.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # A shared lock that is free or not says the same about the file system.
        if try_lock(handle, path, shared=True):
            fcntl.flock(handle, fcntl.LOCK_UN)
        return handle
    except NoFileLocks:
        os.close(handle)
        return _open_local_lock(path)


def wait_for_lock(handle: int) -> None:
    """Lock an open file of `open_lock`, as soon as no other process holds it."""
    fcntl.flock(handle, fcntl.LOCK_EX)


def _open_local_lock(path: Path) -> int:
    folder = Path(tempfile.gettempdir()) / f"ideator_rl-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    local = folder / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    handle = os.open(local, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if try_lock(handle, local, shared=True):
            fcntl.flock(handle, fcntl.LOCK_UN)
    except NoFileLocks:
        os.close(handle)
        raise
    if path.parent not in _without_locks:
        _without_locks.add(path.parent)
        log.warning("%s has no file locks: only processes of this machine are kept apart there.", path.parent)
    return handle


def cache_root() -> Path:
    """The folder for everything the library can make again: `$XDG_CACHE_HOME/ideator_rl`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ideator_rl"


def local_cache(name: str) -> Path:
    """A folder of the cache on a disk of this host, for databases: in `cache_root()`, or in the folder for temporary
    files where that is on a file system of several hosts.  It is not made."""
    folder = cache_root() / name
    return Path(tempfile.gettempdir()) / f"ideator_rl-{name}-{os.getuid()}" if _is_shared(folder) else folder


def _is_shared(folder: Path) -> bool:
    """Whether a folder is on a file system of several hosts, as far as the kernel's table of mounts shows."""
    types, path = _mounts(), Path(os.path.realpath(folder))
    # The longest mount point on the path is the one that holds the folder.
    return next((types[str(p)] for p in (path, *path.parents) if str(p) in types), "").startswith(_SHARED)


def _mounts() -> dict[str, str]:
    """The types of file systems by mount point; empty where the kernel's table cannot be read."""
    with suppress(OSError):
        rows = [line.split(" ") for line in kernel_lines("/proc/self/mounts")]
        return {row[1].replace("\\040", " "): row[2] for row in rows}  # the kernel writes a space as \040
    return {}


def kernel_lines(path: str | Path) -> list[str]:
    """The lines of a file in /proc.  Only a line feed ends one: names and paths in it may hold any other bytes.

    Raises:
        OSError: it cannot be read.
    """
    return [line for line in os.fsdecode(Path(path).read_bytes()).split("\n") if line]


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file that replaces an older one at once; its folder is made if it is missing.  Text becomes UTF-8.

    Raises:
        OSError: the file cannot be written; an older one is unchanged.
    """
    if path.is_dir():  # such as `.`, which has no name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
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
    """A scratch folder that becomes `target` when the block ends well, and is removed when it does not, or when the
    process ends meanwhile; only a kill leaves it.  A link at `target` is followed, and kept.

    A mount point cannot be replaced: the scratch folder is inside, and its entries are moved out one by one.

    Args:
        overwrite: remove what is already at `target`; if false, only an empty folder is replaced.

    Raises:
        OSError: `target` holds something at the end, and must not be overwritten; or it cannot be written.
    """
    target = Path(os.path.realpath(target))
    is_mount = str(target) in _mounts()
    parent = target if is_mount else target.parent
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent))
    # An interrupted command ends without leaving this block, but runs these functions.
    remove = partial(_remove_own, scratch, os.getpid())
    atexit.register(remove)
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes it private
        # It is complete, and soon the only copy: what is at `target` is removed first.
        atexit.unregister(remove)
        if is_mount:
            _move_entries(scratch, target, overwrite)
        else:
            if overwrite and target.is_dir():
                shutil.rmtree(target)
            os.replace(scratch, target)
    finally:
        atexit.unregister(remove)
        remove()


def _remove_own(folder: Path, pid: int) -> None:
    """Remove a folder, unless this process is a fork of the one that made it."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _move_entries(scratch: Path, target: Path, overwrite: bool) -> None:
    for old in [entry for entry in target.iterdir() if entry != scratch]:
        if not overwrite:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(target))
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for new in scratch.iterdir():
        new.rename(target / new.name)


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Lock `target` between processes while it is made; the others wait, and then find it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The lock is a separate file, because `target` is replaced while it is held.
    lock = open_lock(target.with_name(f".{target.name}.lock"))
    try:
        wait_for_lock(lock)
        yield
    finally:
        os.close(lock)
