"""A bucket in this process, for tests and testbeds: gone when the process ends."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Mapping, Sequence


class MemoryBucket:
    remote = False
    requests: Mapping[str, int] = {}
    _open: dict[str, MemoryBucket] = {}
    _guard = threading.Lock()

    def __init__(self, url: str):
        self.url = url
        # Any thread reads and writes these three, under the lock.  `_folders` holds, for each folder that is not empty,
        # its children and their versions: a listing must not read every key of the bucket.
        self._lock = threading.Lock()
        self._objects: dict[str, bytes] = {}
        self._folders: dict[str, dict[str, str]] = {}
        self._writes = 0

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
            if key not in self._objects:
                self._store(key, data)
            return self._objects[key] == data

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self._store(key, data)

    def _store(self, key: str, data: bytes) -> None:
        self._objects[key] = data
        self._writes += 1
        folder, _, name = key.rpartition("/")
        version = str(self._writes)
        # Folders above one that exists already exist as well.
        while folder not in self._folders:
            self._folders[folder] = {name: version}
            if not folder:
                return
            (folder, _, name), version = folder.rpartition("/"), ""
        self._folders[folder][name] = version

    def get(self, key: str) -> bytes | None:
        with self._lock:
            return self._objects.get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        with self._lock:
            return {key: self._objects[key] for key in keys if key in self._objects}

    def list(self, prefix: str) -> dict[str, str]:
        with self._lock:
            return dict(self._folders.get(prefix.rstrip("/"), {}))

    def names(self, prefix: str) -> builtins.list[str]:
        return sorted(self.list(prefix))

    def delete(self, key: str) -> None:
        with self._lock:
            if self._objects.pop(key, None) is None:
                return
            # A folder exists only as long as an object lies below it.
            folder, _, name = key.rpartition("/")
            del self._folders[folder][name]
            while folder and not self._folders[folder]:
                del self._folders[folder]
                folder, _, name = folder.rpartition("/")
                del self._folders[folder][name]
