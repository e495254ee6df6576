"""Runs inside the sandbox: searches every file that can be read there for pieces of text.

Reads every readable file to its end.  Finds exact bytes only: no compressed, encrypted or re-encoded copies.
The pieces come over stdin, so that no file holds them because of the search.  Standard library only: this file is
mounted without the package.

stdin: JSON, pieces as hex, each of at least 16 bytes.
stdout: JSON, `found` (piece number → paths), `files`, `bytes`, `unreadable`.
"""

import itertools
import json
import os
import stat
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

CHUNK = 1 << 24
BATCH = 256
"""Files per task of a process."""
MOST_PATHS = 5
PUBLIC = "/data"
"""Where experiments see the public folder."""
SKIPPED = ("/proc", "/sys", "/dev")
WORD = 8


class Pieces:
    """The pieces to search for.

    A copy of a piece of 2·w bytes or more contains a full w-aligned block of the data, at whatever offset it begins.
    So only aligned blocks are compared, first by their first word, then by all w bytes.
    """

    def __init__(self, pieces: list[bytes]):
        self.pieces = pieces
        self.longest = max(map(len, pieces))
        self._window = min(map(len, pieces)) // 2 // WORD * WORD
        starts = {piece[i : i + self._window] for piece in pieces for i in range(self._window)}
        self._starts, self._words = starts, {int.from_bytes(start[:WORD], sys.byteorder) for start in starts}

    def within(self, data: bytes) -> list[int]:
        """The numbers of the pieces that the data contains."""
        window = self._window
        blocks = memoryview(data)[: len(data) // window * window]
        if self._words.isdisjoint(blocks.cast("Q")[:: window // WORD]):
            return []
        if self._starts.isdisjoint(data[i : i + window] for i in range(0, len(blocks), window)):
            return []
        return [number for number, piece in enumerate(self.pieces) if piece in data]


pieces_to_find: Pieces
"""Set once in each worker process by `_begin`, read by `search`."""


def main() -> None:
    pieces = Pieces([bytes.fromhex(text) for text in json.load(sys.stdin)])
    matches: dict[int, list[str]] = {}
    files = size = unreadable = 0
    with get_context("fork").Pool(len(os.sched_getaffinity(0)), _begin, (pieces,)) as pool:
        for result in pool.imap_unordered(search, batches()):
            files, size, unreadable = files + result["files"], size + result["bytes"], unreadable + result["unreadable"]
            for number, path in result["found"]:
                matches.setdefault(number, []).append(path)
    # Other places first: pieces may be allowed in the public folder, and its files must not crowd out a leak.
    ordered = {
        number: sorted(paths, key=lambda path: (path.startswith(PUBLIC + "/"), path))
        for number, paths in sorted(matches.items())
    }
    first = {number: paths[:MOST_PATHS] for number, paths in ordered.items()}
    print(json.dumps({"found": first, "files": files, "bytes": size, "unreadable": unreadable}))


def _begin(pieces: Pieces) -> None:
    global pieces_to_find
    pieces_to_find = pieces


def search(batch: list[str]) -> dict[str, Any]:
    """Read a batch of files: pairs of piece number and path, and how much was read."""
    matches: set[tuple[int, str]] = set()
    files = size = unreadable = 0
    for path in batch:
        try:
            with open(path, "rb", buffering=0) as file:
                for data in chunks(file, pieces_to_find.longest):
                    size += len(data)
                    matches |= {(number, path) for number in pieces_to_find.within(data)}
            files += 1
        except OSError:
            unreadable += 1
    return {"found": sorted(matches), "files": files, "bytes": size, "unreadable": unreadable}


def batches() -> Iterator[list[str]]:
    names = paths()
    while batch := list(itertools.islice(names, BATCH)):
        yield batch


def paths() -> Iterator[str]:
    """Every regular file below /, once even if it has several hard links."""
    visited = set()
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in SKIPPED]
        for name in names:
            path = os.path.join(folder, name)
            try:
                info = os.lstat(path)
            except OSError:
                continue
            key = info.st_dev, info.st_ino
            if stat.S_ISREG(info.st_mode) and key not in visited:
                visited.add(key)
                yield path


def chunks(file: Any, overlap: int) -> Iterator[bytes]:
    """The file in parts of CHUNK bytes, each after the end of the one before it."""
    data = file.read(CHUNK)
    while data:
        yield data
        more = file.read(CHUNK)
        data = data[-overlap:] + more if more else b""


if __name__ == "__main__":
    main()
