"""When the checkpoints of a run were complete, by the supervisor's clock.

A run may leave `step-*.safetensors` in its artifact folder, each completed by a rename.  Its bytes are hashed at once,
and its time is that of the first look after that: what is written while it waits for its hash has no earlier time.  A
file with other bytes at the end of the run does not count, so that nothing trained later takes an earlier file's time.

Covered: links, pipes, and files larger than an artifact may be are ignored; so is all beyond `MAX_CHECKPOINTS`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAX_CHECKPOINTS = 8
COMPILED = "compiled"
"""An empty file that a run may create in its artifact folder when it has compiled: then it begins to train."""
_NAME = re.compile(r"step-[\w.-]{1,40}\.safetensors")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights that was complete before the run ended."""

    name: str
    seconds: float
    """Of the budget that were spent when its bytes had been read."""
    digest: str
    """Of these bytes."""


def is_checkpoint(name: str) -> bool:
    """Whether a file of an artifact is a checkpoint by its name."""
    return _NAME.fullmatch(name) is not None


def file_digest(path: str | Path, most: int, folder: int | None = None) -> str:
    """BLAKE2b, hex, of a regular file.  `folder`: descriptor that `path` is relative to.

    Raises:
        OSError: it cannot be read, is a link, no regular file, or over `most` bytes.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_size > most:
            raise OSError(f"{path} is no regular file of at most {most} bytes")
        digest, left = hashlib.blake2b(digest_size=32), info.st_size
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
        return digest.hexdigest()


class CheckpointWatch:
    """Notes the checkpoints of one run.  Used by the one thread that follows the run; another one hashes."""

    def __init__(self, most: int):
        """`most`: bytes of all checkpoints together."""
        self._left = most  # written and read by the thread that hashes
        self._digests: dict[str, Future[str]] = {}
        self._seconds: dict[str, float] = {}  # by name, of those that are hashed
        self._pool: ThreadPoolExecutor | None = None
        self.compiled: float | None = None
        """Seconds of the budget when the run reported, unproved, that it had compiled; None if it did not do so before
        its first checkpoint."""

    def look(self, artifact: Path, names: Iterable[str], seconds: float) -> None:
        """Note what is new among the names in the artifact folder, after so many seconds of the budget."""
        names = list(names)
        if COMPILED in names and self.compiled is None and not self._digests:
            self.compiled = seconds
        # Before new files are hashed: a hash that ends within this look counts from the next one, however fast it is.
        for name, future in self._digests.items():
            if future.done():
                self._seconds.setdefault(name, seconds)
        for name in names:
            if name in self._digests or not is_checkpoint(name) or len(self._digests) >= MAX_CHECKPOINTS:
                continue
            self._pool = self._pool or ThreadPoolExecutor(1, "checkpoints")
            self._digests[name] = self._pool.submit(self._digest, artifact, name)

    def _digest(self, artifact: Path, name: str) -> str:
        # The folder itself may have been replaced by a link to a folder of the host.
        folder = os.open(artifact, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
            digest = file_digest(name, self._left, folder)
            self._left -= size
            return digest
        finally:
            os.close(folder)

    def close(self, seconds: float) -> tuple[Checkpoint, ...]:
        """The checkpoints in the order in which they were seen; those that could not be read are left out.

        Args:
            seconds: of the budget that the run spent.
        """
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        checkpoints = []
        for name, future in self._digests.items():
            with suppress(OSError):
                checkpoints.append(Checkpoint(name, self._seconds.get(name, seconds), future.result()))
        return tuple(checkpoints)
