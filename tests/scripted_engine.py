"""An engine for the backend `command`: jobs are processes of this machine, described by files in a folder.

usage: python scripted_engine.py FOLDER submit NAME WORKER LOG | list | cancel IDS
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """The `backend_config` that makes `command` use it."""
    engine = f"{shlex.quote(sys.executable)} -S {shlex.quote(str(PROGRAM))} {shlex.quote(str(folder))}"
    return {
        "submit": f"{engine} submit {{name}} {{worker}} {{log}}",
        "list": f"{engine} list",
        "cancel": f"{engine} cancel {{ids}}",
        "logs": str(folder / "logs"),
        "every": 0.2,
        **more,
    }


def calls(folder: Path) -> list[list[str]]:
    """All calls so far: the command and its arguments."""
    file = folder / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main(folder: Path, command: str, *arguments: str) -> int:
    folder.mkdir(exist_ok=True)
    with open(folder / "calls", "a") as file:
        file.write(json.dumps([command, *arguments]) + "\n")
    # What a test lets the next calls answer: an exit status and a text for standard error.
    if (folder / "fault").exists():
        status, _, text = (folder / "fault").read_text().partition(" ")
        print(text, file=sys.stderr)
        return int(status)
    return {"submit": submit, "list": list_jobs, "cancel": cancel}[command](folder, *arguments)


def submit(folder: Path, name: str, worker: str, log: str) -> int:
    with open(log, "ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", worker], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    with open(folder / "jobs", "a") as file:
        file.write(f"{name} {process.pid}\n")
    return 0


def list_jobs(folder: Path) -> int:
    for name, pid in _jobs(folder):
        print(f"{name}={pid}", "RUNNING" if _runs(pid) else "COMPLETED")
    return 0


def cancel(folder: Path, *ids: str) -> int:
    for _, pid in _jobs(folder):
        if str(pid) in ids and _runs(pid):
            os.killpg(pid, signal.SIGTERM)
    return 0


def _jobs(folder: Path) -> list[tuple[str, int]]:
    file = folder / "jobs"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [(name, int(pid)) for name, pid in lines]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
