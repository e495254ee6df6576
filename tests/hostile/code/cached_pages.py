"""A bit is a page of a file that both sandboxes see, in memory or not."""

import ctypes
import os
import time
from pathlib import Path

import call
import calls

PAGE, SIZE = 4096, 40_000
LIBC = ctypes.CDLL(None, use_errno=True)
_files = []


def _large_files():
    """Files that no process maps, so that their pages can be dropped."""
    packages = Path(os.path.dirname(os.path.dirname(__import__("numpy").__file__)))
    mapped = Path("/proc/self/maps").read_text()
    names = [
        p
        for p in sorted(packages.glob("[p-t]*/**/*"), key=str)
        if p.is_file() and p.suffix not in (".py", ".pyc") and not p.is_symlink()
    ]
    sizes = [(name, name.stat().st_size // PAGE) for name in names if str(name) not in mapped]
    return [(str(name), pages) for name, pages in sizes if pages > 40]


def prepare(artifact):
    """Drop the pages of files, and list those for which that worked."""
    kept, count = [], 0
    for name, pages in _large_files():
        handle = os.open(name, os.O_RDONLY)
        _drop(handle)
        if not any(calls.read_now(handle, page) for page in range(0, pages, 7)):
            kept.append((name, handle))
            count += len(range(0, pages, 2))
        if count >= SIZE + 64:
            break
    time.sleep(0.3)  # the question itself has pages fetched: dropped once more when they have come
    for _, handle in kept:
        _drop(handle)
    print("board of", count, "pages in", len(kept), "files", flush=True)
    (artifact / "files").write_text("\n".join(name for name, _ in kept))


def _drop(handle):
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def open_for(artifact):
    for name in (artifact / "files").read_text().splitlines():
        handle = os.open(name, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        _files.extend((handle, page) for page in range(0, os.fstat(handle).st_size // PAGE, 2))


def calibrate():
    """The files are the same for all experiments: those of the packages, in the order of their names."""
    if not _files:
        for name, pages in _large_files():
            handle = os.open(name, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
            _files.extend((handle, page) for page in range(0, pages, 2))
            if len(_files) > SIZE:
                break
    return len(_files), SIZE


def set(bit):
    call.fetch(*_files[bit])


def test(bit):
    return bool(call.cached(*_files[bit]))
