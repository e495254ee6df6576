"""What a sandboxed process sees of the machine, as arguments of bubblewrap.

Visible: the system and Python, read-only; the folders that the caller names; the allotted GPUs; a few small files of
/etc that are ours.  Not visible: any other file of the machine, its users, and its hosts unless it has the network.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ideator_rl.environments.preset import Resources
from ideator_rl.sandbox.static_proc import MASKED_FILES, MASKED_FOLDERS, PARAMETERS, static_proc

GPUS_VARIABLE = "IDEATOR_GPUS"
"""Of a worker: the numbers N of the device files /dev/nvidiaN that its experiment may use."""
CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"
SHM_BYTES = Resources().shm_bytes
"""Of /dev/shm and of /tmp, each, by default."""
SITES = ("site-packages", "dist-packages")
"""Names of folders of packages."""
_MADE_BY_INSTALLERS = ("bin", "__pycache__", ".lock")
"""What installers add to a folder without a record."""
ETC = Path(__file__).with_name("etc")
_DRIVER = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


@dataclass(frozen=True)
class Image:
    """A copy in memory of what scorers read of the machine; see `memory_image`."""

    root: Path
    """The folder that holds the copies, each below it at its own path."""
    size: int
    """Bytes."""
    seconds: float
    """What it took to make it."""

    @property
    def launcher(self) -> Path:
        """A copy of `launch.py`."""
        return self.root / "ideator" / "launch.py"

    @classmethod
    def load(cls, root: Path) -> Image:
        """The image in a folder.

        Raises:
            OSError: there is none.
        """
        facts = json.loads((root / "image.json").read_text())
        return cls(root, facts["size"], facts["seconds"])


@dataclass(frozen=True)
class Mounts:
    """What a sandboxed process sees in addition to the system and Python."""

    writable: Mapping[Path, str] = field(default_factory=dict)
    """Host folder → path inside."""
    readonly: Mapping[Path, str] = field(default_factory=dict)
    masked: Iterable[Path] = ()
    """Host folders that appear empty inside."""
    network: bool = False
    """See the machine's network, loopback included."""
    image: Image | None = None
    """Show the system and Python from this image in memory, not from disk."""
    processes: bool = True
    """Show /proc with the sandbox's processes; else a few files that do not change."""
    shm_bytes: int = SHM_BYTES
    tmp_bytes: int = SHM_BYTES
    """Sizes of /dev/shm and /tmp, which lie in memory.  What they hold and no process maps is in no limit on memory."""


def allotted_gpus() -> list[str]:
    """The numbers of the GPUs that this process, and experiments below it, may use."""
    return [number for number in os.environ.get(GPUS_VARIABLE, "").split(",") if number]


def gpus_inside() -> str:
    """CUDA_VISIBLE_DEVICES inside a sandbox: it shows the allotted GPUs alone, and CUDA counts what it sees from 0."""
    return ",".join(str(number) for number in range(len(allotted_gpus())))


def binds(mounts: Mounts, users: int) -> list[str]:
    """The file system, as arguments of bubblewrap.  `users`: a descriptor to read /etc/passwd from."""
    created: set[str] = {"/"}
    out: list[str] = []

    def create_parents(path: str) -> None:
        # bwrap creates missing parents with mode 0700, which an unprivileged user could not pass.
        for parent in reversed(Path(path).parents):
            if str(parent) not in created and not any(str(parent).startswith(top + "/") for top in ("/usr", "/proc")):
                created.add(str(parent))
                out.extend(["--perms", "0755", "--dir", str(parent)])

    def bind(kind: str, host: str, inside: str) -> None:
        create_parents(inside)
        created.add(inside)
        out.extend([kind, host, inside])

    # Where the system and Python are read from: the disk, or the same paths below an image in memory.
    source = str(mounts.image.root) if mounts.image else ""
    bind("--ro-bind", f"{source}/usr", "/usr")
    for top in ("/bin", "/lib", "/lib64", "/sbin"):
        if os.path.islink(top):
            out.extend(["--symlink", os.readlink(top), top])
        elif os.path.isdir(source + top):
            bind("--ro-bind", source + top, top)
    for inside, host in etc_files(mounts.network).items():
        bind("--ro-bind", source + inside if os.path.exists(source + inside) and source else host, inside)
    out.extend(["--perms", "0644", "--ro-bind-data", str(users), "/etc/passwd"])
    out.extend([*_proc(mounts), "--dev", "/dev"])
    out.extend(["--perms", "1777", "--size", str(mounts.shm_bytes), "--tmpfs", "/dev/shm"])
    out.extend(["--perms", "1777", "--size", str(mounts.tmp_bytes), "--tmpfs", "/tmp"])
    created.update({"/proc", "/dev", "/tmp"})
    out.extend(_devices())
    for python_folder in python_folders():
        # Of a folder of packages an image may have taken nothing.
        if not python_folder.startswith("/usr/") and os.path.isdir(source + python_folder):
            bind("--ro-bind", source + python_folder, python_folder)
    for alias, real in python_aliases():  # a link, not a second mount that a mask would miss
        create_parents(alias)
        out.extend(["--symlink", real, alias])
    for folder, inside in mounts.readonly.items():
        bind("--ro-bind", str(folder), inside)
    for folder, inside in mounts.writable.items():
        bind("--bind", str(folder), inside)
    # Last, over what was mounted above: the originals of hidden data may lie inside a mounted folder.
    for masked in mounts.masked:
        if Path(f"{source}{masked}").is_dir() or (source and _is_mounted(masked, mounts) and masked.is_dir()):
            out.extend(["--perms", "0755", "--size", "4096", "--tmpfs", str(masked)])
    # These two lie in memory and, where no root started it, belong to the experiment: no limit would count files there.
    return [*out, "--remount-ro", "/dev", "--remount-ro", "/"]


def etc_files(network: bool) -> dict[str, str]:
    """Path inside → file of the host.  Users and hosts are ours: an experiment does not see those of the machine."""
    ours = {f"/etc/{path.name}": str(path) for path in ETC.iterdir()}
    of_host = ["/etc/ld.so.cache", "/etc/localtime"]
    if network:
        of_host += ["/etc/hosts", "/etc/resolv.conf", "/etc/ssl", "/etc/pki", "/etc/ca-certificates"]
    return ours | {path: os.path.realpath(path) for path in of_host if os.path.exists(path)}


def _proc(mounts: Mounts) -> list[str]:
    """The kernel's /proc without what counts over the machine; or, in its place, only the files that replace it."""
    replaced = mounts.image.root / "proc" if mounts.image else static_proc()
    if not mounts.processes:
        return ["--ro-bind", str(replaced), "/proc"]
    out = ["--proc", "/proc"]
    names = [name for name in (*MASKED_FILES, *MASKED_FOLDERS, PARAMETERS) if os.path.exists(f"/proc/{name}")]
    for name in names:
        out += ["--ro-bind", str(replaced / name), f"/proc/{name}"]
    return out


def _is_mounted(path: Path, mounts: Mounts) -> bool:
    """Whether a folder lies below one that the caller mounts."""
    places = (*mounts.readonly.values(), *mounts.writable.values())
    return any(str(path) == place or str(path).startswith(place + "/") for place in places)


def _devices() -> list[str]:
    """The driver and the allotted GPUs, and what CUDA reads of them in /sys."""
    gpus = [f"/dev/nvidia{number}" for number in allotted_gpus()]
    if not gpus:
        return []
    paths = [path for path in (*gpus, *(f"/dev/{name}" for name in _DRIVER)) if os.path.exists(path)]
    return ["--ro-bind", "/sys", "/sys", *(argument for path in paths for argument in ("--dev-bind", path, path))]


@cache
def python_folders() -> tuple[str, ...]:
    """The folders Python needs: its prefixes and installed packages, and nothing of the project's checkout."""
    return _topmost([*_own_folders(), *package_folders()])


@cache
def package_folders() -> tuple[str, ...]:
    """Folders of installed packages outside Python's own, in the order of `sys.path`.

    This Python finds them by PYTHONPATH (modules of a cluster), in the user's site, or by a .pth file; one that is
    started with -I does not.  A folder of source code is none of them: private data may lie next to the code.
    """
    own = ("/usr", *_own_folders())
    folders = dict.fromkeys(os.path.realpath(folder) for folder in sys.path if folder)
    return tuple(f for f in folders if not any(f == o or f.startswith(o + "/") for o in own) and _has_packages(f))


def _has_packages(folder: str) -> bool:
    """Whether a folder is one that installers fill: by its name, or because their records name all that is in it.

    Never one that holds a home.  A project that packages were installed into may hold keys, private data and a bucket.
    """
    home = os.path.realpath(os.path.expanduser("~"))
    if Path(home).is_relative_to(folder) or not os.path.isdir(folder):
        return False
    if folder.endswith(SITES):
        return True
    installed = set(_MADE_BY_INSTALLERS)
    for record in Path(folder).glob("*.dist-info/RECORD"):
        installed.add(record.parent.name)
        for line in record.read_text(errors="replace").splitlines():
            installed.add(line.removeprefix('"').replace("../", "").partition(",")[0].partition("/")[0])
    return len(installed) > len(_MADE_BY_INSTALLERS) and installed.issuperset(os.listdir(folder))


def _own_folders() -> tuple[str, ...]:
    return _topmost([sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])


def _topmost(folders: Iterable[str]) -> tuple[str, ...]:
    real = {os.path.realpath(p) for p in folders}
    return tuple(sorted(p for p in real if not any(p != q and p.startswith(q + "/") for q in real)))


@cache
def python_aliases() -> tuple[tuple[str, str], ...]:
    """Prefixes that are reached through a link: (the path as Python has it, the real one)."""
    return tuple((p, os.path.realpath(p)) for p in sorted({sys.prefix, sys.base_prefix}) if p != os.path.realpath(p))
