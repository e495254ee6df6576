"""The backend `command`: jobs of any engine that has a command line, described by templates of its commands.

    submit: sbatch --parsable --no-requeue --job-name={name} --cpus-per-task={cpus} --output={log} --wrap {worker}
    list:   squeue --me -h -t all -o '%j %T'
    cancel: scancel --me --name={names}

- A template is a line for `sh`.  A value takes the place of its name in braces, quoted for the shell.
- `list` prints one job a line: its name, its state, and perhaps a reason.  One call serves all jobs.
- The name identifies a job.  The engine lists its jobs before the first one is sent, so that a scheduler that was
  killed submits nothing twice.
- A call without a clear answer is unknown, not failed: nothing is sent until the engine has listed its jobs again.
- What a worker needs of the environment is passed by names (`{exports}`): no value of a variable is in a command.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ideator_rl.config.base import read_config
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.backend import OVER, WAITING, Backend, Job, JobState, job_prefix
from ideator_rl.executor.backends.command_line import BRACE, Answer, job_values, render, run_line
from ideator_rl.executor.backends.command_settings import CommandSettings
from ideator_rl.executor.start_worker import worker_variables
from ideator_rl.files import cache_root
from ideator_rl.storage.bucket import Bucket
from ideator_rl.text.display import visible
from ideator_rl.text.redaction import without_tokens

OWN_INTERPRETER = ("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""Variables that belong to this process's interpreter, and not to another one that `python` names."""
AWAY_SECONDS = 30.0
"""After a call without an answer, the engine is left alone for this long."""
GRACE_SECONDS = 60.0
"""For this long after its submission a job may be absent from the engine's list."""
LOG_BYTES, LOG_LINES = 4096, 12
NAMES_PER_CALL = 1000
"""Of `cancel`: a command has a greatest length."""


class CommandBackend(Backend):
    """The scheduler's thread alone calls its methods."""

    name = "command"

    def __init__(self, bucket: Bucket, slots: int | None, settings: CommandSettings):
        self.settings = settings
        self.every = settings.every
        self.most = min(slots or settings.most, settings.most)
        self.prefix = job_prefix(bucket.url)
        self._logs = Path(settings.logs or cache_root() / "jobs").expanduser().absolute()
        if missing := [name for name in settings.variables if name not in os.environ]:
            raise IdeatorError(f"The backend {self.name} is to pass {missing[0]} to workers, but it is not set here.")
        variables = worker_variables({})
        for name in OWN_INTERPRETER if settings.python else ():
            variables.pop(name, None)
        self._exports = sorted({*variables, *settings.variables})
        self._environment = {**os.environ, **variables}
        # What the engine listed last: None before the first time, and while it does not answer.
        self._listed: dict[str, JobState] | None = None
        # After a call without an answer: no call before this time, on the monotonic clock.
        self._away_until = 0.0
        # Of each name, how many jobs are over: a job that is sent again has the name of the one before.
        self._ended: Counter[str] = Counter()
        # Jobs that were sent and are not listed yet: when, and how many of that name had ended.
        self._fresh: dict[str, tuple[float, int]] = {}

    @classmethod
    def create(
        cls, bucket: Bucket, slots: int | None, isolation: str, settings: dict[str, Any] | None = None
    ) -> CommandBackend:
        """Raises: ConfigError."""
        del isolation  # part of each job
        return cls(bucket, slots, read_config(CommandSettings, settings or {}, "The backend_config of command has"))

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        # Nothing is sent to an engine that does not list its jobs: it may have them already.
        if self._listed is None and self.listing() is None:
            return {}
        states = self._states()
        answers: dict[str, str | None] = {job.name: None for job in jobs if _is_live(states, job.name)}
        room = max(0, self.most - sum(state.state != OVER for state in states.values()))
        jobs = [job for job in jobs if job.name not in answers][:room]
        for batch in [jobs] if self.settings.batch and jobs else [[job] for job in jobs]:
            answer = self._send(batch)
            if answer.away:
                break  # whether the engine has it shows in its next list
            if answer.status and not re.search(self.settings.exists, answer.output + answer.errors):
                # The next one would meet the same fault, as a rule.
                return answers | {job.name: f"The engine refused the job: {answer.sentence}" for job in batch}
            now = time.monotonic()
            self._fresh |= {job.name: (now, self._ended[job.name]) for job in batch}
            answers |= {job.name: None for job in batch}
        return answers

    def listing(self) -> dict[str, JobState] | None:
        answer = self._call(self.settings.list, {"prefix": self.prefix[:-1]})
        if answer is None or answer.status:
            self._leave_alone()
            return None
        self._listed, self._ended = {}, Counter()
        for line in answer.output.splitlines():
            name, *text = line.split(None, 1) or [""]
            if not name.startswith(self.prefix):
                continue
            state = self.settings.state("".join(text).strip())
            self._ended[name] += state.state == OVER
            # A job that is not over counts more than one before it that had the same name.
            if state.state != OVER or not _is_live(self._listed, name):
                self._listed[name] = state
        return self._states()

    def cancel(self, names: list[str]) -> None:
        """Raises: IdeatorError when the engine refuses, or does not answer."""
        braces = set(BRACE.findall(self.settings.cancel))
        size = 1 if "name" in braces else NAMES_PER_CALL
        for batch in (names[start : start + size] for start in range(0, len(names), size)):
            values = {"name": batch[0], "names": ",".join(batch)}
            quoted = {"names_spaced": " ".join(map(shlex.quote, batch))}
            answer = self._call(self.settings.cancel, values, quoted)
            if answer is None or answer.status:
                text = "it is left alone for a while, since it did not answer" if answer is None else answer.sentence
                raise IdeatorError(f"The engine did not cancel {len(batch)} jobs: {text}. Repeat the command.")

    def log_tail(self, name: str) -> str:
        path, text = self._logs / f"{name}.log", ""
        if self.settings.log:
            answer = self._call(self.settings.log, {"name": name, "log": str(path)})
            text = "" if answer is None else answer.output
        else:
            with suppress(OSError), open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_BYTES))
                text = file.read(LOG_BYTES).decode(errors="replace")
        return without_tokens(visible("\n".join(text.strip().splitlines()[-LOG_LINES:])))

    def _states(self) -> dict[str, JobState]:
        """What is listed, and what was sent a moment ago and an engine may list late."""
        states, now = dict(self._listed or {}), time.monotonic()
        for name, (sent, ended) in list(self._fresh.items()):
            if _is_live(states, name) or self._ended[name] > ended or now - sent > GRACE_SECONDS:
                del self._fresh[name]
            else:
                states[name] = JobState(WAITING)
        return states

    def _send(self, jobs: list[Job]) -> Answer:
        """Submit one job, or a batch; a second time without its hosts to avoid when the engine refuses the first."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for job in jobs if self.settings.forget else ():
            if self._ended[job.name]:
                self._call(self.settings.forget, {"name": job.name})
        python, launcher = self.settings.python or sys.executable, self.settings.launcher
        shared = {"prefix": self.prefix[:-1], "exports": ",".join(self._exports)}
        values = [
            job_values(job, python, launcher) | shared | {"log": str(self._logs / f"{job.name}.log")} for job in jobs
        ]
        if self.settings.batch:
            answer = self._call(self.settings.submit, {}, standard_input=json.dumps(values))
        else:
            job = jobs[0]
            # A job of this name that ended before it claimed anything may have found no other host.
            avoids = bool(job.avoid) and not self._ended[job.name]
            raw = {
                "gpu": self.settings.gpu if job.resources.gpus else "",
                "exclude": self.settings.exclude if avoids else "",
            }
            quoted = {name: render(text, values[0]) for name, text in raw.items()}
            text = render(self.settings.stdin, values[0], quoted, json.dumps)
            answer = self._call(self.settings.submit, values[0], quoted, text)
        if answer is None or answer.away:
            self._leave_alone()
            return answer or Answer(1, "", "", True)
        if answer.status and any(job.avoid for job in jobs):
            return self._send([replace(job, avoid=()) for job in jobs])
        return answer

    def _leave_alone(self) -> None:
        self._listed, self._away_until = None, time.monotonic() + AWAY_SECONDS

    def _call(
        self, template: str, values: dict[str, Any], quoted: dict[str, str] | None = None, standard_input: str = ""
    ) -> Answer | None:
        """Run a command of the engine; None while the engine is left alone."""
        if time.monotonic() < self._away_until:
            return None
        line = render(template, values, quoted)
        return run_line(line, self._environment, self.settings.timeout, self.settings.away, standard_input)


def _is_live(states: dict[str, JobState], name: str) -> bool:
    return name in states and states[name].state != OVER
