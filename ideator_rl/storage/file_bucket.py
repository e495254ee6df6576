"""A bucket in a folder.  Works on any POSIX file system with hard links; several processes may use it at once.

An object is written to a temporary file, fsynced, and appears by `os.link`, which has one winner.  A bucket that is
away (unmounted, renamed, out of reach) raises `BucketError` and is never taken for an empty one; only opening it
creates it.

A process that is killed while it writes leaves its temporary file.  Opening the bucket removes those of `.scratch` that
are older than a day.  Not covered: temporary files beside the objects, where the file system links within one folder
only.
"""

from __future__ import annotations

import builtins
import errno
import os
import stat
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ideator_rl.files import sync_folder
from ideator_rl.storage.bucket_protocol import MAX_OBJECT_BYTES, BucketError, check_key, damaged_object

T = TypeVar("T")
STAGED = ".staged-"
"""Prefix of temporary files beside the objects, where links between folders do not work.  No listing shows them."""
STALE_SECONDS = 86400.0
"""Age of a temporary file that no process writes any more."""


class FileBucket:
    remote = False
    requests: Mapping[str, int] = {}

    def __init__(self, root: Path):
        try:
            self.root = root.expanduser().absolute()
        except RuntimeError as error:
            raise BucketError(f"The bucket {str(root)!r} names no folder: {error} Give an absolute path.") from None
        self.url = self.root.as_uri()
        self._base = str(self.root)
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            self._links_across = self._probe_links()
        except OSError as error:
            raise BucketError(
                f"The bucket {self.url} is not writable: {error.strerror or error}. "
                "Give a folder that this user may write to, or free space on its disk."
            ) from error

    @property
    def _scratch(self) -> Path:
        return self.root / ".scratch"

    def _probe_links(self) -> bool:
        """Whether a file can be linked into another folder; some network file systems link within one folder only.

        Raises:
            BucketError: hard links do not work at all.
        """
        name = f"probe-{uuid.uuid4().hex}"
        probe, errors = self._scratch / name, list[OSError]()
        # Both folders stay: to remove one takes milliseconds.
        links = (self.root / ".ideator" / name, self._scratch / f"{name}-link")
        try:
            probe.write_bytes(b"")
            # By the clock of the file system: those of machines that share it may differ.
            self._remove_stale(probe.stat().st_mtime - STALE_SECONDS)
            links[0].parent.mkdir(exist_ok=True)
            for link in links:
                try:
                    os.link(probe, link)
                    return not errors
                except OSError as error:
                    errors.append(error)
            raise BucketError(
                f"The bucket {self.url} is on a file system without hard links: {errors[-1].strerror}. "
                "Use a folder on another disk, or an object store (s3://bucket/prefix)."
            )
        finally:
            for path in (probe, *links):
                _remove(path)

    def _remove_stale(self, before: float) -> None:
        """Remove temporary files that were last written before a time; several processes may do so at once."""
        with os.scandir(self._scratch) as entries:
            for entry in entries:
                # Suppressed: another process has removed it, or it belongs to another user.
                with suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode) and info.st_mtime < before:
                        os.unlink(entry.path)

    def _path(self, key: str) -> str:
        check_key(key)
        return f"{self._base}/{key}"

    def _stage(self, path: str, data: bytes, durable: bool) -> str:
        """Write a temporary file that can become the object at a path."""
        staged = f"{self._base}/.scratch/{uuid.uuid4().hex}"
        try:
            if not self._links_across:
                os.stat(f"{self._base}/.scratch")  # else the bucket is away, and must not be made anew
                self._make_folder(os.path.dirname(path))
                staged = f"{os.path.dirname(path)}/{STAGED}{uuid.uuid4().hex}"
            with open(staged, "xb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            _remove(staged)
            raise self._error("write", error) from error
        return staged

    def create(self, key: str, data: bytes) -> bool:
        path, staged = self._path(key), ""
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                return self._is_own(key, data)
            staged = self._stage(path, data, durable=True)
            self._make_folder(os.path.dirname(path))
            try:
                # A hard link has one winner, and the object appears with all its data.
                os.link(staged, path)
            except FileExistsError:
                # A link that leads nowhere is in the way of the object, and is never read as one.
                if os.path.islink(path) and not os.path.exists(path):
                    raise damaged_object(self.url, key, "a link that leads nowhere") from None
                return self._is_own(key, data)
            sync_folder(os.path.dirname(path))
            return True
        except OSError as error:
            self._refuse_damaged(key, error)
            raise self._error(f"create {key} in", error) from error
        finally:
            if staged:
                _remove(staged)

    def _is_own(self, key: str, data: bytes) -> bool:
        """Whether an object that exists is what its writer tries to create: the reply to an earlier try was lost."""
        path = self._path(key)
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode) or info.st_size != len(data) or self.get(key) != data:
            return False
        # The earlier try may have failed between the link and this.
        sync_folder(os.path.dirname(path))
        return True

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        staged = self._stage(path, data, durable=False)
        try:
            self._make_folder(os.path.dirname(path))
            os.replace(staged, path)
        except OSError as error:
            _remove(staged)
            self._refuse_damaged(key, error)
            raise self._error(f"put {key} in", error) from error

    def get(self, key: str) -> bytes | None:
        try:
            return self._look(f"read {key} in", _read, self._path(key))
        except _NotAnObject as error:
            raise damaged_object(self.url, key, str(error)) from None

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        objects = ((key, self.get(key)) for key in keys)
        return {key: data for key, data in objects if data is not None}

    def list(self, prefix: str) -> dict[str, str]:
        return self._look(f"list {prefix} in", _list, self._path(prefix)) or {}

    def names(self, prefix: str) -> builtins.list[str]:
        return sorted(self.list(prefix))

    def delete(self, key: str) -> None:
        try:
            os.unlink(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise self._error(f"delete {key} in", error) from error

    def _look(self, verb: str, how: Callable[[str], T], path: str) -> T | None:
        """Read a path; None only if it is missing while the bucket itself is reachable."""
        try:
            # Twice: the bucket may have been away at the first read, and back when its root is checked.
            for _ in range(2):
                try:
                    return how(path)
                except (FileNotFoundError, NotADirectoryError):
                    os.stat(f"{self._base}/.scratch")
        except OSError as error:
            raise self._error(verb, error) from error
        return None

    def _make_folder(self, folder: str) -> None:
        """Make a folder below the root, but never the root: a bucket that is away must not become an empty one."""
        if len(folder) <= len(self._base):
            os.stat(folder)
            return
        try:
            os.mkdir(folder)
        except FileExistsError:
            pass
        except FileNotFoundError:
            self._make_folder(os.path.dirname(folder))
            self._make_folder(folder)

    def _refuse_damaged(self, key: str, error: OSError) -> None:
        """Raises: DamagedObject when something that no bucket holds is in the place of an object or of its folders."""
        if error.errno not in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
            return
        # A bucket that is away also answers so, and may be back by now: what is in the way must be there to be seen.
        if not os.path.isdir(self._scratch):
            return
        path = self._path(key)
        for folder in (parent for parent in Path(path).parents if self.root in parent.parents):
            if os.path.lexists(folder) and not os.path.isdir(folder):
                raise damaged_object(self.url, key, f"{folder.name!r} on its path is no folder") from error
        if os.path.isdir(path) or (os.path.islink(path) and not os.path.exists(path)):
            raise damaged_object(self.url, key, "not a regular file") from error

    def _error(self, verb: str, error: OSError) -> BucketError:
        todo = "Check that it is there and that this user may write there."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            todo = "Free space there and resume: everything already stored is kept."
        return BucketError(f"Could not {verb} the bucket {self.url}: {error.strerror or error}. {todo}")


class _NotAnObject(Exception):
    """What is at a path was not stored by a bucket."""


def _read(path: str) -> bytes:
    try:
        # Non-blocking: a pipe would otherwise keep the reader for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ELOOP):
            raise _NotAnObject(error.strerror) from None
        raise
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise _NotAnObject("not a regular file")
        if info.st_size > MAX_OBJECT_BYTES:
            raise _NotAnObject(f"{info.st_size} bytes; at most {MAX_OBJECT_BYTES} are read")
        with open(handle, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(handle)


def _list(path: str) -> dict[str, str]:
    versions = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(STAGED):
                continue
            if entry.is_dir():
                versions[entry.name] = ""
                continue
            with suppress(FileNotFoundError):  # removed during the listing
                info = entry.stat(follow_symlinks=False)
                versions[entry.name] = f"{info.st_mtime_ns}-{info.st_size}-{info.st_ino}"
    return versions


def _remove(path: str | Path) -> None:
    with suppress(OSError):
        os.unlink(path)
