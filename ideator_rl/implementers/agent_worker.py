"""Runs an agent once in a sandbox, in a process of its own, and reads what it left: the other half of `command`.

A process of its own, since a sealed run ends and collects all children of the process that starts it.  It ends with the
run that started it, and the agent's whole process tree with it.

Covered: an unprivileged user of its own; no files of the machine but the system, Python and the folders that the
settings name; no network but the endpoints; limits on time, memory, processes, and bytes and files written; no process
survives.
Not covered: the agent itself is trusted with the variables that it is handed.  It may send them to its endpoints.

usage: python -m ideator_rl.implementers.agent_worker < JOB > RESULT    both as JSON: `AgentJob` and `AgentResult`

RESULT is empty until the agent may start: a worker that ends before has run none.
"""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ideator_rl.environments.preset import Budget, Resources
from ideator_rl.executor.workdirs import new_workdir, remove_stale_workdirs
from ideator_rl.experiment import REJECTED
from ideator_rl.implementers.agent_start import STARTING
from ideator_rl.implementers.agent_tree import read_agent_tree
from ideator_rl.implementers.endpoint_proxy import EndpointProxy
from ideator_rl.patch import PatchError, Tree, write_tree
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import WORKSPACE, Sandbox, experiment_uid
from ideator_rl.sandbox.sealed_run import Command, RunResult, run
from ideator_rl.sandbox.workspace import give_to, sized_workspace
from ideator_rl.text.redaction import HIDDEN, MIN_SECRET_LENGTH

STARTUP_SECONDS = 60.0
START_FOLDER, START = "/ideator/agent", "/ideator/agent_start.py"
MAX_OUTPUT = 2000
"""Characters of the end of the agent's output in a result."""
MAX_COST_BYTES = 1_000_000
OK = "ok"
"""The status of `sealed_run.RunResult` for a command that succeeded."""


@dataclass(frozen=True)
class AgentJob:
    """What to run.  Holds no secret: variables are named, and read from this process's own."""

    parent: int
    """Pid of the process that this one must not outlive."""
    level: str
    """Of the sandbox."""
    tree: Tree
    """The codebase as the agent sees it."""
    brief_name: str
    brief: str
    """Name and text of the file that holds rules and idea."""
    command: list[str]
    seconds: float
    variables: list[str]
    endpoints: list[list[Any]]
    """Hosts and ports."""
    visible_folders: list[str]
    masked: list[str]
    """Folders that appear empty: originals of hidden data."""
    ignored: list[str]
    max_bytes: int
    cost_key: str
    cost_file: str | None
    memory_gb: float
    disk_gb: float
    processes: int


@dataclass
class AgentResult:
    """What came of it."""

    status: str
    """As of `sealed_run.RunResult`, or `rejected` for a folder that no codebase can be read from."""
    message: str = ""
    """Why it was ended or rejected; empty otherwise."""
    exit_code: int | None = None
    output: str = ""
    """The end of what the agent printed, without secrets."""
    tree: Tree = field(default_factory=dict)
    usd: float | None = None
    """What the agent reports, 0 where it never started; None where it reports nothing usable."""


def main() -> int:
    job = AgentJob(**json.load(sys.stdin))
    # A signal that raises, so that folders and mounts are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    process_tree.die_with_parent(job.parent, signal.SIGTERM)
    process_tree.become_subreaper()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    remove_stale_workdirs()
    with new_workdir() as workdir:
        result = run_agent(job, Sandbox(job.level), workdir)
    json.dump(asdict(result), sys.stdout)
    return 0


def run_agent(job: AgentJob, sandbox: Sandbox, workdir: Path) -> AgentResult:
    """Run the agent until it ends or breaks a limit, and read the codebase that it leaves."""
    resources = Resources(
        memory_gb=job.memory_gb, disk_gb=job.disk_gb, processes=job.processes, tmp_gb=job.disk_gb, artifact_gb=0.001
    )
    secrets = {name: os.environ[name] for name in job.variables if name in os.environ}
    workspace, start = workdir / "codebase", workdir / "start"
    with sized_workspace(workspace, resources):
        write_tree(job.tree, workspace)
        (workspace / job.brief_name).write_text(job.brief, encoding="utf-8", errors="replace")
        uid = experiment_uid(sandbox.level)
        give_to(uid, workspace)
        report = _prepare_start(start, uid, job, secrets)
        proxy = (
            EndpointProxy(start / "proxy", [(host, port) for host, port in job.endpoints], uid)
            if job.endpoints
            else None
        )
        try:
            result = _run(job, sandbox, workspace, start, resources)
        finally:
            if proxy is not None:
                proxy.close()
        # No process of the agent is left: from here on the folder does not change.
        agent_result = _result(job, result, workspace, secrets)
        if os.read(report, 2) != STARTING:
            agent_result.usd = 0.0
        return agent_result


def _prepare_start(folder: Path, uid: int, job: AgentJob, secrets: dict[str, str]) -> int:
    """Make the folder through which the launcher gets the variables, reports, and reaches the proxy.

    Returns: the open pipe of its report, which is empty where the launcher did not come to start the agent.
    """
    folder.mkdir(mode=0o755)
    for name in ("variables", "report"):
        os.mkfifo(folder / name, 0o600)
        if uid != os.getuid():
            os.chown(folder / name, uid, uid)
    message = json.dumps({"variables": secrets, "endpoints": job.endpoints})

    def send_variables() -> None:
        # Opening it waits for the launcher.  Where the sandbox never starts, the thread ends with this process.
        with open(folder / "variables", "w", encoding="utf-8") as pipe:
            (folder / "report").unlink()
            print(flush=True)  # from here on the agent may start: a blank line before the result
            pipe.write(message)

    report = os.open(folder / "report", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    threading.Thread(target=send_variables, daemon=True).start()
    return report


def _run(job: AgentJob, sandbox: Sandbox, workspace: Path, start: Path, resources: Resources) -> RunResult:
    variables = {
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp/home",
        "USER": "experiment",
        "LANG": "C.UTF-8",
        "IDEATOR_IDEA": f"{WORKSPACE}/{job.brief_name}",
    }
    # By its path and not as `python FILE`, which an experiment's launcher would import in the codebase's folder.
    argv = (sys.executable, "-I", "-B", START, START_FOLDER, *job.command)
    readonly = {Path(__file__).with_name("agent_start.py"): START, start: START_FOLDER}
    readonly |= {Path(folder): folder for folder in job.visible_folders}
    mounts = Mounts(
        {workspace: WORKSPACE},
        readonly,
        [Path(folder) for folder in job.masked],
        shm_bytes=resources.shm_bytes,
        tmp_bytes=resources.tmp_bytes,
    )
    return run(sandbox, Command(argv, (), variables), mounts, Budget("wall", job.seconds, STARTUP_SECONDS), resources)


def _result(job: AgentJob, run: RunResult, workspace: Path, secrets: Mapping[str, str]) -> AgentResult:
    # Longest first: one secret may be the beginning of another.
    by_length = sorted(secrets.items(), key=lambda item: -len(item[1]))
    hidden = {value: name for name, value in by_length if len(value) >= MIN_SECRET_LENGTH}
    log = _without(hidden, run.log)
    # The message about a program that failed quotes its output, with its secrets; that about a limit does not.
    message = "" if run.exit_code else run.message
    result = AgentResult(run.status, message, run.exit_code, log[-MAX_OUTPUT:])
    result.usd = _reported_usd(job, log, workspace)
    if run.status != OK:
        return result
    for name in filter(None, (job.brief_name, job.cost_file)):
        _remove(workspace / name)
    try:
        result.tree = read_agent_tree(workspace, job.tree, tuple(job.ignored), job.max_bytes)
        for path, text in result.tree.items():
            # A patch is published: what the agent was handed must not be in it, nor in the name of a file.
            if name := next((name for value, name in hidden.items() if value in text or value in path), ""):
                raise PatchError(f"{path}: holds the value of the variable {name}, which the agent was handed")
    except PatchError as error:
        result.status, result.message, result.tree = REJECTED, _without(hidden, str(error)), {}
    return result


def _without(secrets: Iterable[str], text: str) -> str:
    for value in secrets:
        text = text.replace(value, HIDDEN)
    return text


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        return  # it is then judged as a part of the codebase
    path.unlink(missing_ok=True)


def _reported_usd(job: AgentJob, log: str, workspace: Path) -> float | None:
    """The cost in the agent's file, or in the last line of its output that is a JSON object with the key."""
    texts = reversed(log.splitlines())
    if job.cost_file is not None:
        texts = iter([_file_text(workspace / job.cost_file)])
    for text in texts:
        if not text.lstrip().startswith("{"):
            continue
        try:
            value: Any = json.loads(text)
            for key in job.cost_key.split("."):
                value = value[key]
            # A whole number of hundreds of digits is none that a float holds.
            usd = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue
        if math.isfinite(usd) and usd >= 0:
            return usd
    return None


def _file_text(file: Path) -> str:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with open(handle, "rb") as stream:
        is_file = stat.S_ISREG(os.fstat(handle).st_mode)
        return stream.read(MAX_COST_BYTES).decode("utf-8", "replace").strip() if is_file else ""


if __name__ == "__main__":
    sys.exit(main())
