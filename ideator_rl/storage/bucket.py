"""The bucket: an object store at a URL, and the only truth of a run.

Guarantees, whichever scheme: `create` is atomic and has exactly one winner; an object appears whole or not at all;
a listing names every object created before it.  Nothing is promised about objects that appear during a listing.
`file:` proves it by an fsynced temporary file and `os.link`; `memory:` (tests, testbeds) by a lock, in one process.
Any other scheme is refused until an adapter proves the same.

A bucket that is away (unmounted, renamed, out of reach) raises `BucketError` and is never taken for an empty one; only
opening it creates it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from ideator_rl.errors import IdeatorError
from ideator_rl.files import sync_folder

T = TypeVar("T")
MAX_OBJECT_BYTES = 512 << 20


class BucketError(IdeatorError):
    """The bucket cannot be reached, read or written."""


class DamagedObject(BucketError):
    """What is stored under a key cannot be what was written.  Waiting does not help; removing it does."""


class Bucket(Protocol):
    url: str

    def create(self, key: str, data: bytes) -> bool:
        """Store an object that must not exist yet; False if it does (then nothing is changed)."""

    def put(self, key: str, data: bytes) -> None:
        """Store or replace an object (heartbeats only)."""

    def get(self, key: str) -> bytes | None:
        """The object, or None."""

    def names(self, prefix: str) -> list[str]:
        """The sorted names directly below a folder-like prefix, objects and folders alike."""

    def mark(self, key: str) -> None:
        """Store an empty object.  It may be gone after a power failure: for what can be found in another way too."""

    def unmark(self, key: str) -> None:
        """Remove an object that `mark` stored; none is no error."""


def read_object(bucket: Bucket, key: str, parse: Callable[[bytes], T], remove: str = "") -> T | None:
    """An object as `parse` reads it; None when there is none.

    Args:
        remove: the key to remove when the object is damaged; its own by default.

    Raises:
        DamagedObject: it is no regular object, or `parse` raises, whatever it raises.
        BucketError: the bucket is out of reach.
    """
    raw = bucket.get(key)
    try:
        return None if raw is None else parse(raw)
    except Exception as error:
        # Any kind: of damaged bytes no list of errors is complete (depth, digits, encodings, missing keys, types).
        reason = " ".join(str(error).split())[:200]
        raise _damaged(bucket.url, key, f"{type(error).__name__}: {reason}", remove) from error


def _damaged(url: str, key: str, reason: str, remove: str = "") -> DamagedObject:
    return DamagedObject(
        f"The object {key} of the bucket {url} is damaged ({reason}). Remove {remove or key} there: it is made again "
        "when it is needed."
    )


def open_bucket(url: str) -> Bucket:
    """Open the bucket at a URL (`file:///path`, a plain path, or `memory://name`).

    Raises:
        BucketError: unknown scheme, or a folder that cannot be made or written.
    """
    check_url(url)
    folder = folder_of(url)
    return MemoryBucket.named(url) if folder is None else FileBucket(folder)


def check_url(url: str) -> None:
    """
    Raises:
        BucketError: no bucket can be at this URL.  Nothing is opened.
    """
    advice = "A bucket is file:///absolute/path (three slashes), a plain path, or memory://name."
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BucketError(f"The bucket {url!r} is no URL: {error}. {advice}") from None
    if parts.scheme not in ("", "file", "memory"):
        raise BucketError(
            f"The bucket {url!r} has the scheme {parts.scheme!r}; atomic create is proved for file:// and memory:// "
            "only. Use one of these."
        )
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise BucketError(f"The bucket {url!r} names a host, {parts.netloc!r}. {advice}")
    if parts.scheme == "file" and (parts.query or parts.fragment):
        raise BucketError(f"The bucket {url!r} has a ? or #, which a URL's path spells %3F and %23. {advice}")
    if (folder := folder_of(url)) is not None:
        if not str(folder).isprintable() or not url.strip():
            raise BucketError(f"The bucket {url!r} has no printable path. {advice}")
        if parts.scheme and not folder.is_absolute():
            raise BucketError(f"The bucket {url!r} has no absolute path. {advice}")
        # A forgotten name: the root of the file system is never a folder for objects.
        if not os.path.abspath(folder).strip("/"):
            raise BucketError(f"The bucket {url!r} is the root of the file system. Name a folder there. {advice}")


def folder_of(url: str) -> Path | None:
    """The folder of a file bucket; None for another scheme.  Expects a URL that `check_url` accepts."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path, errors="surrogateescape"))
    return Path(url) if not parts.scheme else None


def bucket_at(target: str) -> Bucket:
    """Open the existing bucket at a path or URL; none is created.

    Raises:
        BucketError: there is none.
    """
    check_url(target)
    path = folder_of(target)
    if path is not None and not any(os.path.isdir(path / name) for name in ("experiments", ".scratch")):
        raise BucketError(
            f"{target} is neither a run nor a bucket with experiments. Give the folder that a recipe names as "
            "output_dir, or the URL of a bucket."
        )
    return open_bucket(target)


class FileBucket:
    """A folder.  Works on any POSIX file system with hard links; several processes may use it at once."""

    def __init__(self, root: Path):
        try:
            self.root = root.expanduser().absolute()
        except RuntimeError as error:
            raise BucketError(f"The bucket {str(root)!r} names no folder: {error} Give an absolute path.") from None
        self.url = self.root.as_uri()
        self._base = str(self.root)
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            probe = self._scratch / f"probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise BucketError(
                f"The bucket {self.url} is not writable: {error.strerror or error}. "
                "Give a folder that this user may write to, or free space on its disk."
            ) from error

    @property
    def _scratch(self) -> Path:
        return self.root / ".scratch"

    def _path(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):
            raise BucketError(f"The bucket key {key!r} leaves the bucket; a key is a relative path without '..'.")
        return f"{self._base}/{key}"

    def _write_scratch(self, data: bytes) -> str:
        path = f"{self._base}/.scratch/{uuid.uuid4().hex}"
        try:
            with open(path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            _remove(path)
            raise self._error("write", error) from error
        return path

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:
            os.stat(path)
            return False
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise self._error(f"create {key} in", error) from error
        # A hard link has one winner, and the object appears with all its data.
        scratch = self._write_scratch(data)
        try:
            self._make_folder(os.path.dirname(path))
            os.link(scratch, path)
            sync_folder(os.path.dirname(path))
            return True
        except FileExistsError:
            # A link that leads nowhere is in the way of the object, and is never read as one.
            if os.path.islink(path) and not os.path.exists(path):
                raise _damaged(self.url, key, "a link that leads nowhere") from None
            return False
        except OSError as error:
            self._refuse_damaged(key, error)
            raise self._error(f"create {key} in", error) from error
        finally:
            _remove(scratch)

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        scratch = self._write_scratch(data)
        try:
            self._make_folder(os.path.dirname(path))
            os.replace(scratch, path)
        except OSError as error:
            _remove(scratch)
            self._refuse_damaged(key, error)
            raise self._error(f"put {key} in", error) from error

    def get(self, key: str) -> bytes | None:
        try:
            return self._look(f"read {key} in", _read, self._path(key))
        except _NotAnObject as error:
            raise _damaged(self.url, key, str(error)) from None

    def names(self, prefix: str) -> list[str]:
        return sorted(self._look(f"list {prefix} in", os.listdir, self._path(prefix)) or [])

    def mark(self, key: str) -> None:
        path = self._path(key)
        try:
            with suppress(FileNotFoundError):
                _touch(path)
                return
            self._make_folder(os.path.dirname(path))
            _touch(path)
        except OSError as error:
            raise self._error(f"mark {key} in", error) from error

    def unmark(self, key: str) -> None:
        try:
            os.unlink(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise self._error(f"unmark {key} in", error) from error

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
                raise _damaged(self.url, key, f"{folder.name!r} on its path is no folder") from error
        if os.path.isdir(path) or (os.path.islink(path) and not os.path.exists(path)):
            raise _damaged(self.url, key, "not a regular file") from error

    def _error(self, verb: str, error: OSError) -> BucketError:
        todo = "Check that it is there and that this user may write there."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            todo = "Free space there and resume: everything already stored is kept."
        return BucketError(f"Could not {verb} the bucket {self.url}: {error.strerror or error}. {todo}")


class MemoryBucket:
    """A bucket in this process: gone when it ends."""

    _open: dict[str, MemoryBucket] = {}
    _guard = threading.Lock()

    def __init__(self, url: str):
        self.url = url
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @classmethod
    def named(cls, url: str) -> MemoryBucket:
        with cls._guard:
            return cls._open.setdefault(url, cls(url))

    @classmethod
    def forget(cls, url: str) -> None:
        """Free the memory of a bucket that is no longer needed."""
        with cls._guard:
            cls._open.pop(url, None)

    def create(self, key: str, data: bytes) -> bool:
        with self._lock:
            if key in self._objects:
                return False
            self._objects[key] = data
            return True

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self._objects[key] = data

    def get(self, key: str) -> bytes | None:
        with self._lock:
            return self._objects.get(key)

    def names(self, prefix: str) -> list[str]:
        start = prefix.rstrip("/") + "/"
        with self._lock:
            return sorted({key[len(start) :].split("/", 1)[0] for key in self._objects if key.startswith(start)})

    def mark(self, key: str) -> None:
        self.put(key, b"")

    def unmark(self, key: str) -> None:
        with self._lock:
            self._objects.pop(key, None)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))


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


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
