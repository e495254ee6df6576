"""Which files of the machine a scorer needs: Python, its standard library, some packages, and system libraries.

Covered:
- the packages that the environment preloads, numpy, what these require, and a few that honest code often imports
- the shared libraries that all of these load, and the four commands that start a sandboxed process
Not covered: data that a package downloads or reads from outside its own folder.

Folders of tests, headers and static libraries are left out, but for modules that the imports load from them.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from ideator_rl.sandbox.launch import add_packages
from ideator_rl.sandbox.mounts import SITES, Mounts, package_folders
from ideator_rl.sandbox.sandbox import NAMESPACES, Sandbox

COMMON = ("einops", "pyyaml", "safetensors", "tqdm")
"""Distributions that are taken along where they are installed."""
IMPORT_SECONDS = 300
_COMMANDS = ("env", "setpriv", "prlimit", "sh", "dash", "bash")
_LEFT_OUT = {"test", "tests", "include", "cmake", "idlelib", "tkinter", "turtledemo", "ensurepip"}
"""Folders in a package or in the standard library."""
_LEFT_OUT_SUFFIXES = (".a", ".h", ".hpp", ".cuh", ".lib", ".pdb")
_SHARED_LIBRARY = re.compile(r"\.so(\.\d+)*$")
_TAG = str(sys.implementation.cache_tag)

_LOADED = """
import importlib, json
for name in sys.argv[1].split(","):
    importlib.import_module(name)
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())} - {None}
lines = open("/proc/self/maps", errors="surrogateescape", newline="\\n")
mapped = {line.split(maxsplit=5)[5].strip() for line in lines if line.count("/")}
print(json.dumps([sorted(files), sorted(mapped), sys.path]))
"""


class Listing:
    """Files and links of the machine, at their real folders."""

    def __init__(self) -> None:
        self.files: dict[str, os.stat_result] = {}
        self.links: dict[str, str] = {}
        """Path → target."""

    def add(self, path: str | Path) -> None:
        """Add a file, each link on the way to it, and what they point to.  A missing file is passed over."""
        text = os.path.abspath(path)
        for step in (*reversed(Path(text).parents), Path(text)):
            if step.is_symlink():
                self._add_link(step)
        real = os.path.realpath(text)
        if real not in self.files and os.path.isfile(real):
            self.files[real] = os.stat(real)

    def _add_link(self, link: Path) -> None:
        place = os.path.join(os.path.realpath(link.parent), link.name)
        if place not in self.links:
            self.links[place] = os.readlink(link)
            # A chain of links: libpython.so → libpython.so.1 → libpython.so.1.0
            self.add(os.path.join(os.path.dirname(place), self.links[place]))

    @property
    def size(self) -> int:
        """Bytes in memory, in whole pages."""
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(-(-info.st_size // page) * page for info in self.files.values())


def path_code() -> str:
    """Code that lets a Python which was started with -I import from `package_folders`."""
    return f"import sys\n{inspect.getsource(add_packages)}\nadd_packages({os.pathsep.join(package_folders())!r})\n"


def files_of(preload: Iterable[str]) -> Listing:
    """The files that a scorer needs whose environment preloads these modules.

    Raises:
        OSError: the modules cannot be imported in a sandbox.
    """
    modules, mapped, path = _import_all([*preload, "numpy"])
    listing = Listing()
    for name in _COMMANDS:
        listing.add(shutil.which(name, path="/usr/bin:/bin") or "")
    for file in (sys.executable, f"{sys.prefix}/pyvenv.cfg", f"{sys.prefix}/lib64/.", *mapped):
        listing.add(file)
    loaded = set(modules)
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        for file in _walk(folder, loaded):
            listing.add(file)
    sites = [folder for folder in path if folder.endswith(SITES) or folder in package_folders()]
    for file in _package_files(sites, modules, loaded):
        listing.add(file)
    _add_libraries(listing)
    for name in ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8"):
        for file in _walk(name, loaded):
            listing.add(file)
    return listing


def _import_all(modules: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Files of loaded modules, mapped files and `sys.path` after these imports, in a sandbox on disk."""
    argv = [sys.executable, "-I", "-B", "-c", path_code() + _LOADED, ",".join(modules)]
    process = Sandbox(NAMESPACES).start(
        argv, Mounts(), "/tmp", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        output, errors = process.communicate(timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise OSError(f"importing {', '.join(modules)} took over {IMPORT_SECONDS} s") from None
    if process.returncode != 0:
        raise OSError((errors.strip().splitlines() or ["no output"])[-1])
    files, mapped, path = json.loads(output.strip().splitlines()[-1])
    return files, mapped, path


def _package_files(sites: list[str], modules: list[str], loaded: set[str]) -> Iterator[str]:
    """The files of all distributions needed, and of packages that no distribution lists."""
    available = {_normal(d.name): d for d in reversed([*distributions(path=sites)]) if d.name}
    records = {name: _record(distribution) for name, distribution in available.items()}
    owners = {file: name for name, files in records.items() for file in files}
    needed = [name for name in COMMON if name in available]
    for module in modules:
        site = next((site for site in sites if module.startswith(site + "/")), None)
        if module in owners:
            needed.append(owners[module])
        elif site is not None:
            top = f"{site}/{module[len(site) + 1 :].partition('/')[0]}"
            yield from _walk(top, loaded) if os.path.isdir(top) else [top]
    # What these require, and so on.
    done: set[str] = set()
    while needed:
        name = needed.pop()
        # The library itself has nothing to look for in a scorer.
        if name in done or name not in available or name == "ideator-rl":
            continue
        done.add(name)
        requirements = [line for line in available[name].requires or [] if "extra ==" not in line]
        needed += [_normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requirements]
        root = str(available[name].locate_file(""))
        for file in records[name]:
            if file in loaded or _is_needed(file.removeprefix(root if file.startswith(f"{root}/") else sys.prefix)):
                yield file


def _record(distribution: Distribution) -> list[str]:
    """Absolute paths of a distribution's files, below its folder of packages or below Python's prefix."""
    root = str(distribution.locate_file(""))
    lines = (distribution.read_text("RECORD") or "").splitlines()
    names = [line.rsplit(",", 2)[0].strip('"') for line in lines]
    files = [os.path.normpath(f"{root}/{name}") for name in names if name and not name.startswith("/")]
    # Some put shared libraries into lib/ of the prefix.  No scorer starts a program of bin/.
    files = [
        f for f in files if f.startswith((f"{root}/", f"{sys.prefix}/")) and not f.startswith(f"{sys.prefix}/bin/")
    ]
    # Installers may compile without listing the result.
    compiled = [_compiled(file) for file in files if file.endswith(".py")]
    return list(dict.fromkeys([*files, *compiled]))


def _compiled(source: str) -> str:
    folder, name = os.path.split(source)
    return f"{folder}/__pycache__/{name[:-3]}.{_TAG}.pyc"


def _walk(folder: str, loaded: set[str]) -> Iterator[str]:
    """Files below a folder of modules that are needed or loaded; packages of a folder in it are another matter."""
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SITES]
        for name in names:
            file = f"{top}/{name}"
            if file in loaded or _is_needed(file[len(folder) :]):
                yield file


def _is_needed(file: str) -> bool:
    """Judge a path below a package or below the standard library."""
    *folders, name = file.split("/")
    if name.endswith(".pyc") and not name.endswith(f".{_TAG}.pyc"):
        return False
    if name.endswith(_LEFT_OUT_SUFFIXES) or name.startswith("_tkinter."):
        return False
    if folders[-1:] == ["bin"] and name.startswith(("test_", "protoc")):  # torch's own, 40 MB
        return False
    return not _LEFT_OUT.intersection(folders)


def _add_libraries(listing: Listing) -> None:
    """Add the shared libraries that the listed files load, and those that the C library opens by name."""
    binaries = [file for file in listing.files if _SHARED_LIBRARY.search(file) or "/bin/" in file]
    ldd = shutil.which("ldd")
    for first in range(0, len(binaries) if ldd else 0, 200):
        command = [str(ldd), *binaries[first : first + 200]]
        output = subprocess.run(command, capture_output=True, text=True, env={}, check=False).stdout
        for match in re.finditer(r"(?:=>|^\t)\s*(/\S+) \(0x", output, re.MULTILINE):
            listing.add(match[1])
    libc = next((file for file in listing.files if os.path.basename(file) == "libc.so.6"), None)
    if libc is not None:
        for name in ("libgcc_s.so.1", "libnss_files.so.2", "libresolv.so.2", "libpthread.so.0", "librt.so.1"):
            listing.add(os.path.join(os.path.dirname(libc), name))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
