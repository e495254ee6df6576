"""An outage of a file bucket, for all processes that use it: in one step its folder and a file are exchanged.

While it lasts the bucket's path leads to a small file, under which no object can be read or created; the folder is
next to it as NAME.away.  Linux only (`renameat2` with RENAME_EXCHANGE, which ext4, xfs, btrfs, tmpfs have).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from ideator_rl.errors import IdeatorError

AT_FDCWD, RENAME_EXCHANGE = -100, 2
TEXT = "A simulated outage: the bucket is next to this file, under the same name with .away, and comes back."


class Outage:
    def __init__(self, root: Path):
        """Ends an outage that a killed process has left."""
        self.root, self._away = root, root.with_name(root.name + ".away")
        self.end()

    @property
    def on(self) -> bool:
        return self.root.is_file() and self._away.is_dir() and self.root.read_text() == TEXT

    def begin(self) -> None:
        """
        Raises:
            IdeatorError: something else has the name that is needed, or the file system cannot do it.
        """
        if self.on:
            return
        if self._away.exists():
            raise IdeatorError(f"{self._away} is in the way of a simulated outage. Move it away.")
        self._away.write_text(TEXT)
        self._exchange()

    def end(self) -> None:
        if self.on:
            self._exchange()
        if self._away.is_file() and self._away.read_text() == TEXT:
            self._away.unlink()

    def _exchange(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        root, away = os.fsencode(self.root), os.fsencode(self._away)
        if libc.renameat2(AT_FDCWD, root, AT_FDCWD, away, RENAME_EXCHANGE) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise IdeatorError(f"{self.root} and {self._away} cannot be exchanged: {reason}. Use another file system.")
