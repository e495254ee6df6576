"""The journal of calls: JSON lines, one an answered call, from which a run is repeated or resumed without paying.

A line is on disk before its reply is handed out.  Several processes may append to one file.  Keys of an API, the
server's address and `extra_body` are never written.  A line that a kill cut off is skipped; of two with one key the
first holds.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.llm.reply import Reply


class RecordingError(IdeatorError):
    """A recording cannot be read or written."""


class Recording:
    """What a file held when it was opened, and what was added since by this object."""

    def __init__(self, path: Path):
        self.path = path
        self._replies: dict[str, Reply] = {}
        self._load()

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def add(self, key: str, request: dict[str, Any], reply: Reply) -> None:
        """Raises: RecordingError when the line is not wholly on disk."""
        row = {"key": key, "request": request, "reply": asdict(reply)}
        data = (json.dumps(row) + "\n").encode()
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if (size := os.fstat(handle).st_size) and os.pread(handle, 1, size - 1) != b"\n":
                    data = b"\n" + data
                if os.write(handle, data) != len(data):
                    raise OSError("only a part of a line could be written")
                os.fsync(handle)
            finally:
                os.close(handle)
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
                        row = json.loads(line)
                        self._replies.setdefault(row["key"], Reply(**row["reply"]))
                    except (ValueError, KeyError, TypeError):
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


class Replay(Recording):
    """A recording that is only read."""

    def _load(self) -> None:
        if not self.path.is_file():
            raise RecordingError(f"The recording {self.path} to replay is not there. `record` writes one.")
        super()._load()
