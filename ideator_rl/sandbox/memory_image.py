"""A copy in memory of what scorers read: Python, packages and libraries, one for a machine, a user and a content.

A scorer that reads a disk leaves traces in the kernel's caches of it, by pages read and by names looked up, and a later
experiment could read them.  On a tmpfs a page is always there, and a name that does not exist leaves nothing.

    FOLDER/ideator_rl-UID/images/KEY/…       the image; `image.json` in it is written last
    FOLDER/ideator_rl-UID/images/KEY.lock    shared by its users, exclusive for who makes or removes it
    FOLDER/ideator_rl-UID/scorers/NAME/…     files of one scorer, locked while it lives

FOLDER is /dev/shm where that is a tmpfs from which programs can start, else for root a tmpfs of our own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.image_files import Listing, files_of
from ideator_rl.sandbox.mounts import ETC, Image, Mounts, etc_files
from ideator_rl.sandbox.sandbox import NAMESPACES, Sandbox, bwrap_path
from ideator_rl.sandbox.static_proc import write_static_proc

SHARE = 0.125
"""Of the machine's memory, at most for one image."""
FREE_SHARE = 0.5
"""Of the free room of the tmpfs, and of the memory that is available now, at most for one image."""
UNUSED_SECONDS = 900
"""An image without users is removed after this time, or as soon as another one needs its room."""
REFUSAL_SECONDS = 600
"""For so long a reason why there is no image is believed."""
_SHM, _OWN = Path("/dev/shm"), Path("/run/ideator_rl")
_FORMAT = 3
_LAUNCHER = Path(__file__).with_name("launch.py")
_MANIFEST = "image.json"

_locks: dict[str, int] = {}
"""Key → descriptor with the shared lock, for as long as this process and its children live."""


def memory_image(preload: tuple[str, ...]) -> Image | str:
    """The image for scorers of environments that preload these modules; made where it is missing.

    The first call on a machine takes seconds; later ones a few milliseconds.  The image stays for as long as this
    process or a child of it lives.

    Returns: the image, or why there is none.
    """
    if bwrap_path() is None:
        return "bubblewrap is not installed"
    try:
        base = _base()
        if isinstance(base, str):
            return base
        folder = base / "images"
        folder.mkdir(mode=0o700, exist_ok=True)
        image = _locked_image(folder, _key(preload), preload)
        remove_unused(folder)
        return image
    except OSError as error:
        return f"no image in memory: {error}"


def _locked_image(folder: Path, key: str, preload: tuple[str, ...]) -> Image | str:
    """The image with this key, with a shared lock on it; made under an exclusive lock."""
    image, refusal = folder / key, folder / f"{key}.refused"
    while True:
        lock = _locks.get(key) or _open_lock(folder / f"{key}.lock")
        fcntl.flock(lock, fcntl.LOCK_SH)
        # A remover may have unlinked the lock's file between its opening and its locking.
        if _is_current(lock, folder / f"{key}.lock"):
            if (image / _MANIFEST).is_file():
                _locks[key] = lock
                os.utime(folder / f"{key}.lock")
                return Image.load(image)
            if refusal.is_file() and time.time() - refusal.stat().st_mtime < REFUSAL_SECONDS:
                os.close(lock)
                return refusal.read_text()
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_current(lock, folder / f"{key}.lock") and not (image / _MANIFEST).is_file():
                try:
                    _make(image, preload)
                except OSError as error:
                    refusal.write_text(str(error))
        # Round again: the change from an exclusive lock to a shared one is not one step.
        _locks.pop(key, None)
        os.close(lock)


def _make(image: Path, preload: tuple[str, ...]) -> None:
    """Copy the files to a scratch folder, try it, and give it the image's name.

    Raises:
        OSError: no room, or the modules cannot be imported.
    """
    started = time.monotonic()
    listing = files_of(preload)
    scratch = image.with_suffix(".new")
    for leftover in (image, scratch):
        shutil.rmtree(leftover, ignore_errors=True)
    remove_unused(image.parent)
    if fault := _no_room(image.parent, listing.size):
        remove_unused(image.parent, seconds=0)
        fault = _no_room(image.parent, listing.size)
        if fault:
            raise OSError(fault)
    try:
        scratch.mkdir(mode=0o755)
        _copy(listing, scratch)
        result = Image(scratch, listing.size, round(time.monotonic() - started, 2))
        if fault := _import_fault(result, preload):
            raise OSError(f"a scorer cannot start in the image: {fault}")
        (scratch / _MANIFEST).write_text(json.dumps({"size": result.size, "seconds": result.seconds}))
        scratch.rename(image)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(listing: Listing, root: Path) -> None:
    """Copy to the same paths below `root`, readable by all."""
    for folder in {os.path.dirname(path) for path in (*listing.files, *listing.links)}:
        os.makedirs(f"{root}{folder}", mode=0o755, exist_ok=True)
    others = [other for other in root.parent.iterdir() if (other / _MANIFEST).is_file()]
    for path, info in listing.files.items():
        if _linked(path, info, root, others):
            continue
        shutil.copyfile(path, f"{root}{path}")
        os.chmod(f"{root}{path}", 0o755 if info.st_mode & 0o111 else 0o644)
        # Python compares the time of a source with that noted in its compiled file.
        os.utime(f"{root}{path}", ns=(info.st_mtime_ns, info.st_mtime_ns))
    for path, target in listing.links.items():
        if not os.path.lexists(f"{root}{path}"):
            os.symlink(target, f"{root}{path}")
    for inside, host in etc_files(network=False).items():
        os.makedirs(os.path.dirname(f"{root}{inside}"), exist_ok=True)
        shutil.copyfile(host, f"{root}{inside}")
    Path(f"{root}/etc/passwd").touch()  # another file is mounted over it
    (root / "ideator").mkdir()
    shutil.copyfile(_LAUNCHER, root / "ideator" / "launch.py")
    (root / "proc").mkdir()
    write_static_proc(root / "proc")
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o755)


def _linked(path: str, info: os.stat_result, root: Path, others: list[Path]) -> bool:
    """Link to an equal file of another image, which saves its memory."""
    for other in others:
        with suppress(OSError):
            copy = os.stat(f"{other}{path}")
            if (copy.st_size, copy.st_mtime_ns) == (info.st_size, info.st_mtime_ns):
                os.link(f"{other}{path}", f"{root}{path}")
                return True
    return False


def _import_fault(image: Image, preload: tuple[str, ...]) -> str:
    """Import the modules in a sandbox that sees the image; empty where that works."""
    argv = [
        "/usr/bin/env",
        "-i",
        sys.executable,
        "-I",
        "-B",
        "-c",
        "".join(f"import {m}\n" for m in (*preload, "numpy")),
    ]
    process = Sandbox(NAMESPACES).start(
        argv,
        Mounts(image=image),
        "/tmp",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, errors = process.communicate()
    return "" if process.returncode == 0 else (errors.strip().splitlines() or ["no output"])[-1]


def _no_room(folder: Path, size: int) -> str:
    """Why an image of this size does not fit; empty where it does."""
    info = os.statvfs(folder)
    free, memory = info.f_bavail * info.f_frsize, machine_memory()
    if size > SHARE * memory:
        return f"its {size / 1e6:.0f} MB are over {SHARE:.1%} of the memory of {memory / 1e9:.1f} GB"
    if size > FREE_SHARE * free:
        return f"its {size / 1e6:.0f} MB are over half of the {free / 1e6:.0f} MB free in {folder}"
    if size > FREE_SHARE * (available := _available_memory()):
        return f"its {size / 1e6:.0f} MB are over half of the {available / 1e6:.0f} MB of memory available now"
    return ""


def remove_unused(folder: Path, seconds: float = UNUSED_SECONDS) -> None:
    """Remove images that no living process has locked for this time."""
    for path in folder.glob("*.lock"):
        with suppress(OSError), open(path, "rb") as lock:
            if time.time() - path.stat().st_mtime < seconds:
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in (path.with_suffix(""), path.with_suffix(".new")):
                shutil.rmtree(leftover, ignore_errors=True)
            path.with_suffix(".refused").unlink(missing_ok=True)
            path.unlink()


@contextmanager
def files_in_memory(image: Image | None, readonly: Mapping[Path, str]) -> Iterator[dict[Path, str]]:
    """Copies in memory of files and folders for one scorer, removed at the end; without an image the originals.

    Args:
        readonly: host path → path inside, as in `Mounts`.

    Raises:
        MemoryError: no room: a fault of the machine, not of the experiment.
    """
    if image is None:
        yield dict(readonly)
        return
    parent = image.root.parent.parent / "scorers"
    parent.mkdir(mode=0o700, exist_ok=True)
    _remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix="new-", dir=parent))
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Only now that it is locked: a folder of this name with a free lock counts as stale.
        folder = folder.rename(parent / folder.name.removeprefix("new-"))
        folder.chmod(0o755)
        try:
            copies = {_copied(source, folder / str(n)): inside for n, (source, inside) in enumerate(readonly.items())}
        except OSError as error:
            raise MemoryError(f"a scorer's files could not be copied to memory: {error}") from error
        yield copies
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _copied(source: Path, target: Path) -> Path:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def _remove_stale(parent: Path) -> None:
    """Remove the folders of scorers whose process was killed."""
    for folder in parent.iterdir():
        with suppress(OSError):
            if folder.name.startswith("new-") and time.time() - folder.stat().st_mtime < UNUSED_SECONDS:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                process_tree.kill_stuck_sandboxes(folder)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _base() -> Path | str:
    """Our folder on a tmpfs, closed to other users; or why there is none."""
    faults = []
    for parent in (_SHM, _OWN) if os.getuid() == 0 else (_SHM,):
        if parent == _OWN and _mount_type(_OWN) is None:
            _mount_own()
        base = parent / f"ideator_rl-{os.getuid()}"
        fault = _unfit(parent) or _not_ours(base)
        if not fault:
            return base
        faults.append(fault)
    return "; ".join(faults)


def _not_ours(base: Path) -> str:
    """Make the folder; returns why it cannot be trusted, empty where it can."""
    with suppress(FileExistsError):
        base.mkdir(mode=0o700)
    info = base.lstat()
    # The parent is open to all: another user may have taken the name, or put a link there.
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        return f"{base} is not a folder of this user's alone"
    return ""


def _unfit(folder: Path) -> str:
    """Why images cannot lie here; empty where they can."""
    kind = _mount_type(folder)
    if kind != "tmpfs":
        return f"{folder} is not a tmpfs" if kind is None else f"{folder} is a {kind}, not a tmpfs"
    flags = os.statvfs(folder).f_flag
    if flags & os.ST_NOEXEC or flags & os.ST_RDONLY:
        return f"{folder} is mounted {'noexec' if flags & os.ST_NOEXEC else 'read-only'}"
    return "" if os.access(folder, os.W_OK) else f"{folder} is closed to this user"


def _mount_type(folder: Path) -> str | None:
    """The kind of file system that is mounted at a folder; None for a folder that is no mount."""
    kind = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, mounted, *_ = line.split()
        kind = mounted if place == str(folder) else kind
    return kind


def _mount_own() -> None:
    """Mount a tmpfs for root's images.  `noswap` where the kernel has it: pages in swap would be slower to read."""
    _OWN.mkdir(mode=0o755, exist_ok=True)
    options = f"mode=0755,nosuid,nodev,size={int(2 * SHARE * machine_memory())}"
    for extra in (",noswap", ""):
        command = ["mount", "-t", "tmpfs", "-o", options + extra, "ideator_rl", str(_OWN)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return


def machine_memory() -> float:
    """Bytes of memory, or less where a control group allows less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, float(Path(path).read_text()))
    return total


def _available_memory() -> float:
    """Bytes that could be used now without swapping."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return float(fields["MemAvailable"].split()[0]) * 1024


def swaps() -> bool:
    """Whether the machine can move pages of a tmpfs to a disk."""
    return len(Path("/proc/swaps").read_text().splitlines()) > 1


def _key(preload: tuple[str, ...]) -> str:
    """Changes with what is installed: with the entries of the folders of packages and their times."""
    parts: list[object] = [_FORMAT, preload, sys.prefix, sys.base_prefix, sys.executable, sys.version]
    for name in ("purelib", "platlib", "stdlib"):
        folder = sysconfig.get_path(name)
        with os.scandir(folder) as entries:
            parts.append(sorted((entry.name, entry.stat(follow_symlinks=False).st_mtime_ns) for entry in entries))
    for path in (*ETC.iterdir(), _LAUNCHER, Path("/etc/ld.so.cache")):
        parts.append((str(path), path.stat().st_mtime_ns if path.exists() else 0))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_current(lock: int, path: Path) -> bool:
    """Whether the file behind a descriptor is still the one at the path."""
    try:
        return os.fstat(lock).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
