"""Has the environment's trusted evaluator measure what an experiment left, in a process of its own.

Covered:
- the artifact is first copied out of the experiment's reach: small regular files only
- wall time, CPU time, memory and processes of evaluator and scorers together are limited from here
- a fault of the evaluator raises; a fault of the artifact is a failure of the experiment

Not covered: whether the evaluator itself measures honestly (`ideator_rl.evaluation` helps with that).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ideator_rl.environments.environment import Environment, Preset
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import FAILED, INVALID, SUCCEEDED
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.mounts import CUDA_VARIABLE
from ideator_rl.sandbox.sandbox import Sandbox
from ideator_rl.scoring import evaluate
from ideator_rl.scoring.allowance import Limits, ScorerSeconds, ScoringCost
from ideator_rl.storage.bucket import credential_variables

MAX_ARTIFACT_FILES = 64
POLL_SECONDS = 0.05
"""Between two looks at the limits."""
MAIN, CONFIRM, FINAL = "main", "confirm", "final"
"""The hidden splits: of every experiment, of those too good to be believed at once, and of reported results."""


@dataclass(frozen=True)
class Subject:
    """What is to be measured: `workdir` holds the folders `artifact` and `score`, the codebase that answers."""

    environment: Environment
    preset: Preset
    sandbox: Sandbox
    workdir: Path
    seed: int
    split: str
    limits: Limits
    visible_gpus: str = ""
    """CUDA_VISIBLE_DEVICES of the evaluator: the allotted GPUs among all of the machine."""
    audit_seeds: tuple[int, ...] = field(default_factory=lambda: (secrets.randbits(128),))
    """Of what each audit of a loss asks, for the evaluator alone: all of them must pass.  At level `none` they are in
    no file, but a scorer that runs as the evaluator's user may read its memory where the system allows it."""

    def with_another_audit(self) -> Subject:
        """For measuring it again: asks what was asked before, and something that the model has not seen.

        Without the first, a model could order another draw by ending itself, or by taking too long, where it is caught.
        Without the second, it would know before its full pass where it is audited.
        """
        return replace(self, audit_seeds=(*self.audit_seeds, secrets.randbits(128)))


@dataclass(frozen=True)
class Measurement:
    """The evaluator's answer: a status, a value where there is one, and facts for the record."""

    status: str
    message: str = ""
    value: float | None = None
    secondary: dict[str, float] = field(default_factory=dict)
    text: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    cost: ScoringCost | None = None
    """What it took; None where no scorer ran to its end."""
    over_allowance: bool = False
    """The evaluator or a scorer used more time than it may."""
    over_wall: bool = False
    """It was the evaluator, by wall seconds."""
    killed: bool = False
    """A scorer was ended by a signal that we did not send."""


def measure(subject: Subject) -> Measurement:
    """Have the evaluator measure an artifact.

    Raises:
        IdeatorError: the evaluator itself broke: ours, not the idea's.
    """
    measurement = _measure_once(subject)
    # By the machine, or by the model itself: only a second measurement tells, and there is no third.
    return _measure_once(subject.with_another_audit()) if measurement.killed else measurement


def _measure_once(subject: Subject) -> Measurement:
    workdir, environment, preset = subject.workdir, subject.environment, subject.preset
    answer, errors = workdir / "answer.json", workdir / "evaluator.log"
    config = {
        "environment": str(environment.root),
        "preset": preset.name,
        "seed": subject.seed,
        "split": subject.split,
        "audit_seeds": subject.audit_seeds,
        "artifact": str(workdir / "artifact"),
        "tree": str(workdir / "score"),
        "sandbox": subject.sandbox.to_json(),
        "limits": [asdict(scorer) for scorer in subject.limits.scorers or ()],
    }
    answer.unlink(missing_ok=True)
    _make_readable(workdir / "score")
    pid = _start_evaluator(subject, config, answer, errors)
    end = os.pidfd_open(pid)
    started = time.monotonic()
    deadline = started + subject.limits.wall
    try:
        while not process_tree.readable(end, POLL_SECONDS):
            if time.monotonic() > deadline:
                late = f"scoring took over {subject.limits.wall:.0f} s"
                return Measurement(FAILED, late, over_allowance=True, over_wall=True)
            if fault := _broken_limit(pid, subject):
                return Measurement(FAILED, fault)
    finally:
        os.close(end)
        # Scorers too, and what a scorer has left behind: this process has adopted it.
        process_tree.kill_tree(os.getpid())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0 or not answer.is_file():
        lines = errors.read_text(errors="replace").strip().splitlines()
        raise IdeatorError(f"The evaluator of {environment.name} broke: {(lines or ['no output'])[-1]}")
    return _measurement(json.loads(answer.read_text()), time.monotonic() - started)


def _start_evaluator(subject: Subject, config: dict[str, Any], answer: Path, errors: Path) -> int:
    """Start the evaluator; returns its pid.  Its errors go to a file."""
    with open(errors, "wb") as stderr:
        if subject.sandbox.forks is None:
            command = [sys.executable, "-P", "-m", "ideator_rl.scoring.evaluate", str(answer)]
            variables = {name: text for name, text in os.environ.items() if name not in credential_variables()}
            variables[CUDA_VARIABLE] = subject.visible_gpus
            # By a pipe: at level `none` a scorer could read a file, and the audit's seeds in it.
            process = subprocess.Popen(
                command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr
            )
            assert process.stdin is not None
            # An evaluator that has ended before it read this broke: its status shows it.
            with suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(f"{json.dumps(config)}\n".encode())
            return process.pid
        # This process has the evaluator's imports (see `executor.zygote`).  Its other threads wait or talk to the
        # bucket, which the evaluator does not use: no lock that they may hold is one that it takes.
        worker = os.getpid()
        pid = os.fork()
        if pid == 0:
            process_tree.die_with_parent(worker)
            os.dup2(stderr.fileno(), 2)
            for name in credential_variables():
                del os.environ[name]
            os.environ[CUDA_VARIABLE] = subject.visible_gpus
            os._exit(evaluate.run(config, subject.sandbox, answer))
        return pid


def _measurement(answer: dict[str, Any], wall: float) -> Measurement:
    value, notes = answer.get("metric"), answer.get("scoring", {})
    more = {"secondary": answer.get("secondary", {}), "text": answer.get("text", ""), "notes": notes}
    for status in (FAILED, INVALID):
        if status in answer:
            over = answer.get("over_allowance", False)
            killed = answer.get("killed", False)
            return Measurement(status, answer[status], value, over_allowance=over, killed=killed, **more)
    cost = ScoringCost(tuple(ScorerSeconds(**seconds) for seconds in answer.get("scorers", ())), wall)
    return Measurement(SUCCEEDED, "", float(answer["metric"]), cost=cost, **more)


def _broken_limit(pid: int, subject: Subject) -> str | None:
    """What the scoring exceeds now, over all its processes: memory, or their number.

    CPU seconds of scorers are limited by the evaluator (see `allowance`), which knows when each is loaded.
    """
    memory = subject.preset.resources.memory_gb
    pids = process_tree.descendants(pid)
    used = process_tree.usage(pids)
    # The plain sum counts shared pages for each process: the exact figure is slow, and needed only above the limit.
    if used.resident > memory * 1e9 and process_tree.proportional_memory(pids) > memory * 1e9:
        return f"scoring took over {memory:g} GB of memory"
    if used.tasks > subject.preset.resources.processes:
        return f"scoring took over {subject.preset.resources.processes} processes and threads"
    return None


def collect(source: Path, target: Path, most: int) -> str | None:
    """Copy an artifact out of the experiment's reach: regular files only.

    No process of the experiment is alive any more; links and special files may still be there and are refused.

    Args:
        most: bytes in all.

    Returns: what is wrong with the artifact; None when it was copied.
    """
    target.mkdir()
    try:
        return _collect(source, target, most)
    except OSError as error:
        return f"its artifact cannot be read: {error.strerror}"


def _collect(source: Path, target: Path, most: int) -> str | None:
    # The folder itself may have been replaced by a link to a folder of the host.
    names = sorted(os.listdir(source)) if source.is_dir() and not source.is_symlink() else []
    if not names:
        return "it left nothing in the artifact folder (IDEATOR_ARTIFACT)"
    if len(names) > MAX_ARTIFACT_FILES:
        return f"it left {len(names)} files as artifact; at most {MAX_ARTIFACT_FILES} are taken"
    total = 0
    for name in names:
        info = (source / name).lstat()
        total += info.st_size
        if not stat.S_ISREG(info.st_mode):
            return f"its artifact holds {name!r}, which is not a regular file"
        if total > most:
            return f"its artifact is over {most >> 20} MiB"
        # Again without following links, though no process is left that could have put one in the place of the file.
        handle = os.open(source / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as reader, open(target / name, "xb") as writer:
            shutil.copyfileobj(reader, writer)
    _make_readable(target)
    return None


def _make_readable(folder: Path) -> None:
    """Open a folder to the user that scorers run as."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
