"""Runs inside the sandbox: looks for pieces of text in every file that can be read there.

Every readable file is read to its end.  Finds exact bytes only: not what is compressed, encrypted or encoded otherwise.
The pieces come over stdin, so that no file holds them for the sake of the search.  Standard library only: this file is
mounted alone.

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
"""Files that a process takes at once."""
MOST_PATHS = 5
SKIPPED = ("/proc", "/sys", "/dev")
WORD = 8


class Pieces:
    """What is looked for.

    A piece of 2·w bytes or more holds a whole w-aligned block of any bytes it stands in, so that only the aligned
    blocks are looked at, and of each only its first word, until one is the beginning of a block of some piece.
    """

    def __init__(self, pieces: list[bytes]):
        self.pieces = pieces
        self.longest = max(map(len, pieces))
        self._window = min(map(len, pieces)) // 2 // WORD * WORD
        starts = {piece[i : i + self._window] for piece in pieces for i in range(self._window)}
        self._starts, self._words = starts, {int.from_bytes(start[:WORD], sys.byteorder) for start in starts}

    def within(self, data: bytes) -> list[int]:
        """The numbers of the pieces that stand in the data."""
        window = self._window
        blocks = memoryview(data)[: len(data) // window * window]
        if self._words.isdisjoint(blocks.cast("Q")[:: window // WORD]):
            return []
        if self._starts.isdisjoint(data[i : i + window] for i in range(0, len(blocks), window)):
            return []
        return [number for number, piece in enumerate(self.pieces) if piece in data]


wanted: Pieces
"""Of a process that searches."""


def main() -> None:
    pieces = Pieces([bytes.fromhex(text) for text in json.load(sys.stdin)])
    found: dict[int, list[str]] = {}
    files = size = unreadable = 0
    with get_context("fork").Pool(len(os.sched_getaffinity(0)), _begin, (pieces,)) as pool:
        for answer in pool.imap_unordered(search, batches()):
            files, size, unreadable = files + answer["files"], size + answer["bytes"], unreadable + answer["unreadable"]
            for number, path in answer["found"]:
                found.setdefault(number, []).append(path)
    first = {number: sorted(places)[:MOST_PATHS] for number, places in sorted(found.items())}
    print(json.dumps({"found": first, "files": files, "bytes": size, "unreadable": unreadable}))


def _begin(pieces: Pieces) -> None:
    global wanted
    wanted = pieces


def search(batch: list[str]) -> dict[str, Any]:
    """Read a batch of files: which pieces stand in which, and how much was read."""
    found: set[tuple[int, str]] = set()
    files = size = unreadable = 0
    for path in batch:
        try:
            with open(path, "rb", buffering=0) as file:
                for data in chunks(file, wanted.longest):
                    size += len(data)
                    found |= {(number, path) for number in wanted.within(data)}
            files += 1
        except OSError:
            unreadable += 1
    return {"found": sorted(found), "files": files, "bytes": size, "unreadable": unreadable}


def batches() -> Iterator[list[str]]:
    names = paths()
    while batch := list(itertools.islice(names, BATCH)):
        yield batch


def paths() -> Iterator[str]:
    """Every regular file below /, each once however many names it has."""
    seen = set()
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in SKIPPED]
        for name in names:
            path = os.path.join(folder, name)
            try:
                info = os.lstat(path)
            except OSError:
                continue
            key = info.st_dev, info.st_ino
            if stat.S_ISREG(info.st_mode) and key not in seen:
                seen.add(key)
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
