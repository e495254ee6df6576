"""The settings of the backends that start jobs through an engine's commands, and what an engine's states mean."""

from __future__ import annotations

import json
import re
from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Config, Count, Flag, Names, Positive
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.executor.backends.backend import (
    JOB_CANCELLED,
    JOB_FAILED,
    JOB_PREEMPTED,
    JOB_TIMEOUT,
    NODE_FAIL,
    OVER,
    RUNNING,
    WAITING,
    JobState,
)
from ideator_rl.executor.backends.command_line import BRACE, render

_JOB = ("name", "id", "cpus", "gpus", "memory_gb", "minutes", "seconds", "hardware", "hosts", "python", "worker",
        "argv", "prefix", "log", "exports", "gpu", "exclude")  # fmt: skip
_VALUES = {
    "submit": _JOB,
    "stdin": _JOB,
    "gpu": _JOB[:-2],
    "exclude": _JOB[:-2],
    "list": ("prefix",),
    "cancel": ("name", "names", "ids"),
    "forget": ("name",),
    "log": ("name", "log"),
}
"""What each template may name in braces."""
_REASONS = {
    "": r"(?i)^(complete|succe|done|finished|over)",
    JOB_PREEMPTED: r"(?i)preempt|evict|spot",
    NODE_FAIL: r"(?i)node.?(fail|lost|down)|boot.?fail",
    JOB_TIMEOUT: r"(?i)time.?out|deadline|time.?limit",
    JOB_CANCELLED: r"(?i)cancel|stopp|terminat|delet",
    JOB_FAILED: "",
}
"""Why a job is over: the first whose pattern fits its state and what follows that."""


@dataclass(frozen=True)
class EngineSettings(Config):
    """What every backend has that starts jobs through an engine's commands."""

    python: str = ""
    """The interpreter on the nodes, which has this package; by default the path of this one."""
    launcher: str = ""
    """Words before the worker's command, such as `apptainer exec --nv /shared/worker.sif`."""
    variables: Names = field(default_factory=list)
    """Names of environment variables that workers are to have, such as AWS_ACCESS_KEY_ID."""
    logs: str = ""
    """A folder for the jobs' logs that all nodes can write to; by default `jobs` in the cache folder."""
    every: Positive = 30
    """Seconds between two listings."""
    most: Count = 64
    """Jobs at the engine at once, at most; `--slots` can lower it."""
    timeout: Positive = 60
    """Seconds for a command of the engine."""


@dataclass(frozen=True, kw_only=True)
class CommandSettings(EngineSettings):
    submit: str
    """Submits one job; with `batch`, all jobs of a JSON list on standard input."""
    list: str
    """Prints a line for each job: its name, perhaps `=` and the engine's id, its state, and perhaps a reason."""
    cancel: str
    """Ends the jobs of all {names} or {ids}; with {name}, one call for each."""
    over: str = r"(?i)complete(d|$)|succe|fail|cancel|time.?out|preempted|memory|deadline|error|stopped|dele|\bover\b"
    """Pattern of the states of jobs that have ended."""
    running: str = r"(?i)running|completing"
    """Pattern of the states of jobs that run; all others wait."""
    exists: str = r"(?i)already.?exists"
    """Pattern in the output of a failed submission: the engine has a job of this name."""
    away: str = (
        r"(?i)unable to contact|connect(ion)? (fail|refused|reset|timed)|timed? out|unreachable|could not resolve"
        r"|unavailable|too ?many ?requests|throttl|rate.?limit"
    )
    """Pattern in the output of a failed call: the engine did not answer, and no job is to blame."""
    stdin: str = ""
    """The standard input of `submit`; values in it are JSON, which is also YAML."""
    gpu: str = ""
    """What takes the place of {gpu} for a job that needs GPUs."""
    exclude: str = ""
    """What takes the place of {exclude} for a job that is to avoid {hosts}."""
    forget: str = ""
    """Removes a job that is over, for engines that refuse its name before that."""
    log: str = ""
    """Prints the last lines of a job's log; by default the file {log} is read."""
    batch: Flag = False
    """`submit` takes all jobs in one call."""

    def __post_init__(self) -> None:
        for key, names in _VALUES.items():
            for name in BRACE.findall(getattr(self, key)):
                if name not in names:
                    raise ValueError(f"in {key} the unknown value {{{name}}}. {did_you_mean(name, names)}")
        for key in ("submit", "list", "cancel"):
            if not getattr(self, key).strip():
                raise ValueError(f"an empty {key!r}. Expected the engine's command.")
        used = BRACE.findall(self.submit + self.stdin)
        if not self.batch and not ("name" in used and {"worker", "argv"} & set(used)):
            raise ValueError("a submit without {name} or without {worker}. Expected both, in submit or in stdin.")
        for key in ("over", "running", "exists", "away"):
            try:
                re.compile(getattr(self, key))
            except re.error as error:
                raise ValueError(f"{key}: {getattr(self, key)!r}. Expected a regular expression: {error}.") from None

    def submission(self, values: dict[str, Any], avoids: bool) -> tuple[str, str]:
        """The line that submits a job, and its standard input.  `avoids`: whether hosts are left out."""
        parts = {"gpu": self.gpu if values["gpus"] else "", "exclude": self.exclude if avoids else ""}
        words = {name: render(text, values) for name, text in parts.items()}
        return render(self.submit, values, words), render(self.stdin, values, words, json.dumps)

    def state(self, text: str) -> JobState:
        """The state of a job, from what its engine's list shows after its name."""
        word, *rest = text.split(None, 1) or [""]
        if re.search(self.over, word):
            reasons = (reason for reason, pattern in _REASONS.items() if re.search(pattern, text))
            return JobState(OVER, next(reasons))
        return JobState(RUNNING) if re.search(self.running, word) else JobState(WAITING, "".join(rest))
