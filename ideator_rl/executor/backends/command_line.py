"""Command lines of an engine: made from templates and a job's values, run with a time limit."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.backend import Job
from ideator_rl.text.display import shorten, visible
from ideator_rl.text.redaction import without_tokens

BRACE = re.compile(r"(?<!\{)\{([a-z_]+)\}")
"""The name of a value in a template; two braces are the engine's own."""


class Answer(NamedTuple):
    """What a command printed, and how it ended."""

    status: int
    output: str
    errors: str
    away: bool
    """The engine did not answer, so that the effect of the command is unknown."""

    @property
    def sentence(self) -> str:
        """What went wrong, for a person: the last lines of the output."""
        lines = (self.errors.strip() or self.output.strip() or f"exit status {self.status}").splitlines()
        return shorten(without_tokens(visible("; ".join(lines[-3:]))), 400)


def job_values(job: Job, python: str, launcher: str, logs: Path) -> dict[str, Any]:
    """What templates can name of a job.  `launcher`: words before the worker's command, as a shell splits them."""
    argv = [*shlex.split(launcher), *job.argv(python)]
    return {
        "name": job.name,
        "id": job.id,
        "cpus": job.resources.cpus,
        "gpus": job.resources.gpus,
        "memory_gb": job.memory_gb,
        "minutes": job.minutes,
        "seconds": 60 * job.minutes,
        "hardware": job.hardware,
        "hosts": ",".join(job.avoid),
        "python": python,
        "log": str(logs / f"{job.name}.log"),
        "argv": argv,
        # With `exec`, a signal for the shell that an engine starts reaches the worker.
        "worker": f"exec {shlex.join(argv)}",
    }


def render(
    template: str,
    values: dict[str, Any],
    quoted: dict[str, str] | None = None,
    quote: Callable[[Any], str] | None = None,
) -> str:
    """A template with its values in place of their names in braces.

    Args:
        quoted: values that are text of the template's language already.
        quote: how the others are quoted; by default for a shell.
    """
    texts = {name: (quote or _shell_word)(value) for name, value in values.items()} | (quoted or {})
    return BRACE.sub(lambda match: texts[match[1]], template)


def _shell_word(value: Any) -> str:
    return shlex.quote(json.dumps(value) if isinstance(value, list) else str(value))


def refuse_missing(backend: str, templates: dict[str, str]) -> None:
    """Raises: IdeatorError when a template begins with a program that this machine does not have."""
    for key, template in templates.items():
        word = template.split(None, 1)[0]
        if not re.fullmatch(r"[\w./+-]+", word):
            continue  # quotes, a variable or a value: found out when it runs
        # The shell knows its own words, such as `for`, as well as PATH.
        found = subprocess.run(["/bin/sh", "-c", 'command -v "$1"', "sh", word], stdout=subprocess.DEVNULL)
        if found.returncode:
            raise IdeatorError(
                f"The backend {backend} calls {word!r} to {key} jobs, and there is no such program here. Install it, "
                "put its folder on PATH, or give its path in backend_config."
            )


def run_line(line: str, environment: dict[str, str], timeout: float, away: str, standard_input: str = "") -> Answer:
    """Run a line for `sh`.

    Args:
        timeout: seconds.
        away: a pattern in the output of a failed command, of an engine that did not answer.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        errors="replace",
        start_new_session=True,  # an interrupt of this process does not end a submission halfway
    )
    try:
        output, errors = process.communicate(standard_input, timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        # What has left the process group may still have the pipes open.
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        return Answer(1, "", f"no answer within {timeout:g} s", True)
    status = process.returncode
    return Answer(status, output, errors, bool(status and re.search(away, output + errors)))
