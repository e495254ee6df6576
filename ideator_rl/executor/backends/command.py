"""The backend `command`: jobs of any engine that has a command line, described by templates of its commands.

    submit: sbatch --parsable --no-requeue --job-name={name} --cpus-per-task={cpus} --output={log} --wrap {worker}
    list:   squeue --me -h -t all -o '%j=%A %T %r'
    cancel: scancel {ids}

- A template is a line for `sh`.  A value takes the place of its name in braces, quoted for the shell.
- `list` prints one job a line: its name, perhaps `=` and the engine's id, its state, and perhaps a reason.
- The name identifies a job.  The engine lists its jobs before the first one is sent, so that a scheduler that was
  killed submits nothing twice.
- A call without a clear answer is unknown, not failed: nothing is sent until the engine has listed its jobs again.
- What a worker needs of the environment is passed by names (`{exports}`): no value of a variable is in a command.
"""

from __future__ import annotations

import json
import logging
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
from ideator_rl.executor.backends.command_line import BRACE, Answer, job_values, refuse_missing, render, run_line
from ideator_rl.executor.backends.command_settings import CommandSettings
from ideator_rl.executor.start_worker import worker_variables
from ideator_rl.files import cache_root
from ideator_rl.storage.bucket import Bucket, credential_variables
from ideator_rl.text.display import visible
from ideator_rl.text.redaction import end_of, without_tokens

OWN_INTERPRETER = ("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""Variables that belong to this process's interpreter, and not to another one that `python` names."""
AWAY_SECONDS = 30.0
"""After a call without an answer, the engine is left alone for this long."""
GRACE_SECONDS = 60.0
"""For this long after its submission a job may be absent from the engine's list."""
LEFT_ALONE = Answer(1, "", "it did not answer a moment ago", True)
LOG_BYTES, LOG_LINES = 4096, 12
NAMES_PER_CALL = 1000  # a command has a greatest length


log = logging.getLogger(__name__)


class CommandBackend(Backend):
    name = "command"

    def __init__(self, bucket: Bucket, slots: int | None, settings: CommandSettings):
        self.settings = settings
        self.every = settings.every
        self.most = min(slots or settings.most, settings.most)
        self.prefix = job_prefix(bucket.url)
        self._logs = Path(settings.logs or cache_root() / "jobs").expanduser().absolute()
        if missing := [name for name in settings.variables if name not in os.environ]:
            raise IdeatorError(f"The backend {self.name} is to pass {missing[0]} to workers, but it is not set here.")
        variables = worker_variables(credential_variables() if bucket.remote else {})
        for name in OWN_INTERPRETER if settings.python else ():
            variables.pop(name, None)
        self._exports = sorted({*variables, *settings.variables})
        self._environment = {**os.environ, **variables}
        refuse_missing(self.name, {key: getattr(settings, key) for key in ("list", "submit", "cancel")})
        # What the engine listed last: None before the first time, and while it does not answer.
        self._listed: dict[str, JobState] | None = None
        # The engine's own ids of jobs that are not over, by name; as of the last listing.
        self._ids: dict[str, list[str]] = {}
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
            self._fresh |= {job.name: (time.monotonic(), self._ended[job.name]) for job in batch}
            answers |= {job.name: None for job in batch}
        return answers

    def listing(self) -> dict[str, JobState] | None:
        answer = self._call(render(self.settings.list, {"prefix": self.prefix[:-1]}))
        if answer.status:
            if answer is not LEFT_ALONE:
                self._leave_alone()
                log.warning("The backend %s waits, since its engine does not list jobs: %s", self.name, answer.sentence)
            return None
        self._listed, self._ids, self._ended = {}, {}, Counter()
        for line in answer.output.splitlines():
            word, *text = line.split(None, 1) or [""]
            name, _, engine_id = word.partition("=")
            if not name.startswith(self.prefix):
                continue
            state = self.settings.state("".join(text).strip())
            # Of several jobs of one name, the one that is not over counts.
            if state.state != OVER:
                self._ids.setdefault(name, []).append(engine_id)
                self._listed[name] = state
            else:
                self._ended[name] += 1
                self._listed.setdefault(name, state)
        return self._states()

    def cancel(self, names: list[str]) -> None:
        """Raises: IdeatorError when the engine refuses, or does not answer."""
        used = set(BRACE.findall(self.settings.cancel))
        if "ids" in used and not all(name in self._ids for name in names):
            self.listing()
            names = [name for name in names if name in self._ids]
        size = 1 if "name" in used else NAMES_PER_CALL
        for batch in (names[start : start + size] for start in range(0, len(names), size)):
            ids = [id for name in batch for id in self._ids.get(name, [])]
            words = {"name": batch[0], "names": shlex.join(batch), "ids": shlex.join(ids)}
            answer = self._call(render(self.settings.cancel, {}, words))
            if answer.status:
                raise IdeatorError(f"The engine did not cancel {len(batch)} jobs: {answer.sentence}.")

    def log_tail(self, name: str) -> str:
        path, text = self._logs / f"{name}.log", ""
        if self.settings.log:
            text = self._call(render(self.settings.log, {"name": name, "log": str(path)})).output
        else:
            with suppress(OSError), open(path, "rb") as file:
                start = max(0, path.stat().st_size - LOG_BYTES)
                file.seek(start)
                text = file.read(LOG_BYTES).decode(errors="replace")
                # The cut may go through a secret.
                text = end_of(text, len(text) - 1) if start else text
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
        for name in [job.name for job in jobs if self.settings.forget and self._ended[job.name]]:
            self._call(render(self.settings.forget, {"name": name}))
        shared = {"prefix": self.prefix[:-1], "exports": ",".join(self._exports)}
        python = self.settings.python or sys.executable
        values = [job_values(job, python, self.settings.launcher, self._logs) | shared for job in jobs]
        if self.settings.batch:
            answer = self._call(self.settings.submit, json.dumps(values))
        else:
            # A job of this name that ended before it claimed anything may have found no other host.
            avoids = bool(jobs[0].avoid) and not self._ended[jobs[0].name]
            answer = self._call(*self.settings.submission(values[0], avoids))
        if answer.status and not answer.away and any(job.avoid for job in jobs):
            return self._send([replace(job, avoid=()) for job in jobs])
        return answer

    def _leave_alone(self) -> None:
        self._listed, self._away_until = None, time.monotonic() + AWAY_SECONDS

    def _call(self, line: str, standard_input: str = "") -> Answer:
        """Run a command of the engine, unless it is left alone."""
        if time.monotonic() < self._away_until:
            return LEFT_ALONE
        answer = run_line(line, self._environment, self.settings.timeout, self.settings.away, standard_input)
        if answer.away:
            self._leave_alone()
        return answer


def _is_live(states: dict[str, JobState], name: str) -> bool:
    return name in states and states[name].state != OVER
