"""A copy in memory of what scorers read: Python, packages and libraries, one for a machine, a user and a content.

A scorer that reads a disk leaves traces in the kernel's caches of it, by pages read and by names looked up, and a later
experiment could read them.  On a tmpfs a page is always there, and a name that does not exist leaves nothing.

    FOLDER/ideator_rl-UID/images/KEY/…       the image; `image.json` in it is written last
    FOLDER/ideator_rl-UID/images/KEY.lock    shared by its users, exclusive for who makes or removes it
    FOLDER/ideator_rl-UID/scorers/NAME/…     files of one scorer, see `scorer_files`

FOLDER is /dev/shm where that is a tmpfs from which programs can start, else for root a tmpfs of our own.
"""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

from ideator_rl.files import kernel_lines
from ideator_rl.sandbox.image_files import Listing, files_of, path_code
from ideator_rl.sandbox.memory import available_memory, machine_memory
from ideator_rl.sandbox.mounts import ETC, SITES, Image, Mounts, etc_files, package_folders
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
WAIT_SECONDS = 300
"""For so long another process may take to make an image that this one needs."""
TRIAL_SECONDS = 300
"""For so long the modules may take to be imported from a new image."""
_SHM, _OWN = Path("/dev/shm"), Path("/run/ideator_rl")
_FORMAT = 4
_LAUNCHER = Path(__file__).with_name("launch.py")
_MANIFEST = "image.json"
_TRIAL = """
import sys
# Some libraries open others by name when they first compute: MKL the one for the machine's processor.
for kind in (numpy.float32, numpy.float64):
    square = numpy.eye(64, dtype=kind) + kind(1)
    numpy.linalg.solve(square, square @ square)
if torch := sys.modules.get("torch"):
    for kind in (torch.float32, torch.float64):
        square = torch.eye(64, dtype=kind) + 1
        torch.linalg.solve(square, square @ square)
"""

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
    image, path = folder / key, folder / f"{key}.lock"
    if key in _locks:
        if _is_current(_locks[key], path) and (image / _MANIFEST).is_file():
            os.utime(path)
            return Image.load(image)
        # Somebody removed the image in spite of the lock.
        os.close(_locks.pop(key))
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if (found := _shared(image, path, deadline)) is not None:
            return found
        # The change from a shared lock to an exclusive one is not one step, and a lock that was inherited by children
        # would stay exclusive in them: so each lock has a descriptor of its own.
        started = time.monotonic()
        if (fault := _make_locked(image, path, preload)) is not None:
            return fault
        deadline += time.monotonic() - started  # our own work is no waiting
    return f"another process has been making it for over {WAIT_SECONDS} s"


def _shared(image: Path, path: Path, deadline: float) -> Image | str | None:
    """The image, whose shared lock is then kept, or why there is none; None where it is yet to be made."""
    refusal = image.with_suffix(".refused")
    lock = _open_lock(path)
    try:
        # A remover may have unlinked the lock's file between its opening and its locking.
        if not _lock_shared(lock, deadline) or not _is_current(lock, path):
            return None
        if (image / _MANIFEST).is_file():
            os.utime(path)
            found = Image.load(image)
            # Another thread may have been faster; the lock of one is enough.
            lock = -1 if _locks.setdefault(image.name, lock) == lock else lock
            return found
        if refusal.is_file() and time.time() - refusal.stat().st_mtime < REFUSAL_SECONDS:
            return refusal.read_text() or None
        return None
    finally:
        if lock >= 0:
            os.close(lock)


def _lock_shared(lock: int, deadline: float) -> bool:
    """Wait for whoever makes the image, until a deadline; returns whether the lock was taken."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def _make_locked(image: Path, path: Path, preload: tuple[str, ...]) -> str | None:
    """Make the image, unless another process does; returns why it cannot be made, else None."""
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    try:
        if _is_current(lock, path) and not (image / _MANIFEST).is_file():
            _make(image, preload)
    except OSError as error:
        refusal = image.with_suffix(".refused")
        try:
            refusal.write_text(str(error))
        except OSError:  # no room for it either
            with suppress(OSError):
                refusal.unlink()
        return str(error)
    finally:
        # Not only closed: a child that was forked meanwhile has the descriptor as well.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
    return None


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
    filecmp.clear_cache()
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
            # Equal times prove nothing: builds that can be repeated give the same to all files.
            same = (copy.st_size, copy.st_mtime_ns) == (info.st_size, info.st_mtime_ns)
            if same and filecmp.cmp(path, f"{other}{path}", shallow=False):
                os.link(f"{other}{path}", f"{root}{path}")
                return True
    return False


def _import_fault(image: Image, preload: tuple[str, ...]) -> str:
    """Import the modules in a sandbox that sees the image, and compute; empty where that works."""
    code = path_code() + "".join(f"import {module}\n" for module in (*preload, "numpy")) + _TRIAL
    process = Sandbox(NAMESPACES).start(
        ["/usr/bin/env", "-i", sys.executable, "-I", "-B", "-c", code],
        Mounts(image=image),
        "/tmp",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = process.communicate(timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"its imports took over {TRIAL_SECONDS} s"
    return "" if process.returncode == 0 else (errors.strip().splitlines() or ["no output"])[-1]


def _no_room(folder: Path, size: int) -> str:
    """Why an image of this size does not fit; empty where it does."""
    info = os.statvfs(folder)
    free, memory = info.f_bavail * info.f_frsize, machine_memory()
    if size > SHARE * memory:
        return f"its {size / 1e6:.0f} MB are over {SHARE:.1%} of the memory of {memory / 1e9:.1f} GB"
    if size > FREE_SHARE * free:
        return f"its {size / 1e6:.0f} MB are over half of the {free / 1e6:.0f} MB free in {folder}"
    if size > FREE_SHARE * (available := available_memory()):
        return f"its {size / 1e6:.0f} MB are over half of the {available / 1e6:.0f} MB of memory available now"
    return ""


def remove_unused(folder: Path, seconds: float = UNUSED_SECONDS) -> None:
    """Remove images that no living process has locked for this time."""
    for path in folder.glob("*.lock"):
        with suppress(OSError), open(path, "rb") as lock:
            if time.time() - path.stat().st_mtime < seconds:
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between its opening and its locking, another remover may have unlinked it and a maker made it anew; or the
            # image was used.
            if not _is_current(lock.fileno(), path) or time.time() - os.fstat(lock.fileno()).st_mtime < seconds:
                continue
            for leftover in (path.with_suffix(""), path.with_suffix(".new")):
                shutil.rmtree(leftover, ignore_errors=True)
            path.with_suffix(".refused").unlink(missing_ok=True)
            path.unlink()


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
    for line in kernel_lines("/proc/self/mounts"):
        _, place, mounted, *_ = line.split(" ")
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


def _key(preload: tuple[str, ...]) -> str:
    """Changes with what is installed: with the records of distributions, and with files that belong to none."""
    parts: list[object] = [_FORMAT, preload, sys.prefix, sys.base_prefix, sys.executable, sys.version]
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    folders |= {folder for folder in sys.path if folder.endswith(SITES)} | {*package_folders()}
    parts += [(folder, _installed(folder)) for folder in sorted(folders) if os.path.isdir(folder)]
    for path in (*ETC.iterdir(), _LAUNCHER, Path("/etc/ld.so.cache")):
        parts.append((str(path), path.stat().st_mtime_ns if path.exists() else 0))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _installed(folder: str) -> list[tuple[str, int]]:
    """Entry of a folder of packages → a time in ns that changes when it is installed anew."""
    times = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # The time of a folder changes with every compiled file that is put into it, so a package has none.
            time_of = entry.path
            if entry.is_dir():
                time_of = f"{entry.path}/RECORD" if entry.name.endswith(".dist-info") else ""
            if entry.name != "__pycache__":
                times.append((entry.name, os.stat(time_of).st_mtime_ns if os.path.exists(time_of) else 0))
    return sorted(times)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_current(lock: int, path: Path) -> bool:
    """Whether the file behind a descriptor is still the one at the path."""
    try:
        return os.fstat(lock).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
