"""An outage of a file bucket, for everybody who uses it: in one step its folder and a file change places.

While it lasts the bucket's path leads to a small file, under which nothing can be read or made; the folder waits beside
it as NAME.away.  Linux only (`renameat2` with RENAME_EXCHANGE, which ext4, xfs, btrfs, tmpfs have).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from ideator_rl.errors import IdeatorError

AT_FDCWD, RENAME_EXCHANGE = -100, 2
TEXT = "A simulated outage: the bucket waits beside this file, under the same name with .away, and comes back."


class Outage:
    def __init__(self, root: Path):
        """Ends an outage that a killed process has left."""
        self.root, self._other = root, root.with_name(root.name + ".away")
        self.end()

    @property
    def on(self) -> bool:
        return self.root.is_file() and self._other.is_dir() and self.root.read_text() == TEXT

    def begin(self) -> None:
        """
        Raises:
            IdeatorError: something else has the name that is needed, or the file system cannot do it.
        """
        if self.on:
            return
        if self._other.exists():
            raise IdeatorError(f"{self._other} is in the way of a simulated outage. Move it away.")
        self._other.write_text(TEXT)
        self._exchange()

    def end(self) -> None:
        if self.on:
            self._exchange()
        if self._other.is_file() and self._other.read_text() == TEXT:
            self._other.unlink()

    def _exchange(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        one, other = os.fsencode(self.root), os.fsencode(self._other)
        if libc.renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) != 0:
            why = os.strerror(ctypes.get_errno())
            raise IdeatorError(f"{self.root} and {self._other} cannot change places: {why}. Use another file system.")
