"""Recordings of calls: JSON lines, one an answered call, to repeat or resume a run without paying again.

Guaranteed: a line is on disk before its reply is returned; several processes may append to one file; API keys, the
server's address and `extra_body` are never written.  A line that a kill cut off is skipped; of two lines with the same
key the first counts.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import parse_json
from ideator_rl.errors import IdeatorError
from ideator_rl.files import open_lock, wait_for_lock
from ideator_rl.llm.reply import Reply


class RecordingError(IdeatorError):
    """A recording cannot be read or written."""


class Recording:
    """The replies in a file when it was opened, and those that this object has added."""

    def __init__(self, path: Path):
        self.path = path
        self._replies: dict[str, Reply] = {}
        self._load()

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def add(self, key: str, request: dict[str, Any], reply: Reply) -> None:
        """Append a reply.

        Raises:
            RecordingError: the line is not completely on disk.
        """
        row = {"key": key, "request": request, "reply": asdict(reply)}
        data = (json.dumps(row) + "\n").encode()
        try:
            # Not the file that is written: where its file system has no locks, the lock is elsewhere.
            lock = open_lock(self.path)
            try:
                wait_for_lock(lock)
                _append(self.path, data)
            finally:
                os.close(lock)
        except OSError as error:
            raise self._unusable(error) from error
        self._replies.setdefault(key, reply)

    def _load(self) -> None:
        damaged = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b") as file:
                file.seek(0)
                for line in file:
                    try:
                        row = parse_json(line, "it", finite=False)
                        self._replies.setdefault(row["key"], Reply(**row["reply"]))
                    except (ValueError, LookupError, TypeError):
                        damaged += bool(line.strip())
        except OSError as error:
            raise self._unusable(error) from error
        if damaged:
            logging.getLogger(__name__).warning("%s: %d damaged lines were skipped", self.path, damaged)

    def _unusable(self, error: OSError) -> RecordingError:
        return RecordingError(
            f"The recording {self.path} cannot be used: {error}. Free space on its disk, or check that this user may "
            "read and write it."
        )


def _append(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        # A killed process may have left half a line; a newline keeps this one apart from it.
        if (size := os.fstat(handle).st_size) and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        if os.write(handle, data) != len(data):
            raise OSError("only a part of a line could be written")
        os.fsync(handle)
    finally:
        os.close(handle)


class Replay(Recording):
    """A recording that is only read."""

    def _load(self) -> None:
        if not self.path.is_file():
            raise RecordingError(f"The recording {self.path} to replay does not exist. `record` writes one.")
        super()._load()
