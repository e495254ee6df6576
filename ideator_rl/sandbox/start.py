"""Starts a Python script in a sandbox: `cold` by a new interpreter, or `forked` from a server that has the imports.

Both run `launch.run_script` inside the same sandbox, as the same user, under the same filter and limits.

- A forked start saves the interpreter and the imports.  bubblewrap builds the sandbox around a process that only holds
  it, and the fork server (`fork_server`) brings a copy of itself inside.
- Where a forked start is refused, the start is cold, and the reason goes to the log of the process that asked for the
  experiment.
- A sandbox at level `none` has nothing to join: its starts are cold.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

from ideator_rl.sandbox.forked import LAUNCHER, ForkedProcess, ForkRefused, report_refusal
from ideator_rl.sandbox.mounts import package_folders
from ideator_rl.sandbox.program import COLD, Inside, Process, Script
from ideator_rl.sandbox.sandbox import NONE, Sandbox


def start_script(sandbox: Sandbox, script: Script, inside: Inside) -> Process:
    """Start a script in a sandbox."""
    # What reads memory instead of the disk cannot be forked by a server that reads the disk, and only root's server can
    # read memory: an ordinary user has no mounts outside a sandbox.
    can_fork = os.getuid() == 0 or inside.mounts.image is None
    if sandbox.forks is not None and sandbox.level != NONE and can_fork:
        try:
            return ForkedProcess(sandbox, script, inside)
        except (ForkRefused, OSError) as refusal:
            report_refusal(sandbox.forks, str(refusal))
    read, write = os.pipe()
    launcher = sandbox.visible_path(LAUNCHER, "/ideator/launch.py")
    modules, folders = ",".join(script.preload), os.pathsep.join(script.folders)
    argv = [sys.executable, "-I", "-B", "-u", launcher, str(write), str(inside.guard), str(script.ranks)]
    argv += [os.pathsep.join(package_folders()), modules, folders]
    image = inside.mounts.image
    # What reads memory instead of the disk has the launcher in memory too.
    source = LAUNCHER if image is None else image.launcher
    mounts = replace(inside.mounts, readonly={**inside.mounts.readonly, source: "/ideator/launch.py"})
    inside = replace(inside, mounts=mounts, descriptors=(write, *inside.descriptors))
    try:
        return ColdProcess(sandbox, [*argv, script.path, *script.arguments], script.variables, inside, read)
    except BaseException:
        os.close(read)
        raise
    finally:
        # Only the launcher has the writing end now: when it closes it, no code of the experiment can send the mark.
        os.close(write)


class ColdProcess:
    """A program that was started as a new process."""

    how = COLD

    def __init__(
        self,
        sandbox: Sandbox,
        argv: list[str],
        variables: Mapping[str, str],
        inside: Inside,
        ready: int,
    ):
        self.ready, self.started = ready, time.monotonic()
        output = subprocess.DEVNULL if inside.output is None else inside.output
        self._process = sandbox.start(
            ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items()), *argv],
            inside.mounts,
            inside.cwd,
            no_child_signal=inside.no_child_signal,
            silent=inside.silent,
            cpu_seconds=inside.cpu_seconds,
            file_bytes=inside.file_bytes,
            pass_fds=inside.descriptors,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        self.pid = self._process.pid
        self.end = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        status = self._process.poll()
        return 128 - status if status is not None and status < 0 else status

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self.end)
        os.close(self.ready)
