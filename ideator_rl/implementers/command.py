"""The implementer `command`: any command line, such as an agent's headless mode, edits a copy of the codebase.

The agent runs in a sandbox, in a folder that holds the codebase and a file with the rules and the idea.  The folder as
it leaves it is the patched codebase, judged as every other.

Outcomes:
- it exits with 0: its codebase is judged; an unchanged one is `unpatchable`
- it exits with `CANNOT`, or exceeds its time or another limit: `unpatchable`
- it leaves links, special files, or too much: `rejected`
- it exits with any other status, or a signal ends it: `lost`, since its endpoint or its key may be at fault

Not covered: an agent that cannot work and exits with 0 makes every idea `unpatchable`.  An agent that spends more than
`max_usd_per_idea` is not stopped meanwhile; the next ones reserve as much as the dearest has reported.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any, BinaryIO

from ideator_rl._imports import ROOT
from ideator_rl.config.base import read_config
from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, REJECTED
from ideator_rl.ideas import Idea
from ideator_rl.implementers.agent_settings import AgentSettings, split_endpoint
from ideator_rl.implementers.agent_tree import DEFAULT_IGNORED
from ideator_rl.implementers.agent_worker import OK, AgentJob, AgentResult
from ideator_rl.implementers.coder_prompt import agent_brief, agent_brief_version, hidden_paths
from ideator_rl.implementers.implementer import Implementation, ImplementerUnavailable, NotImplementable
from ideator_rl.llm.estimate import Amount, Estimate
from ideator_rl.llm.gate import gate
from ideator_rl.patch import PatchError, Tree, diff, judge
from ideator_rl.sandbox.choose import choose_sandbox
from ideator_rl.storage.ledger import Ledger, Spent

CANNOT = 65
"""Exit status by which an agent reports that an idea cannot be implemented: EX_DATAERR of sysexits.h."""
NOT_STARTED = (126, 127)
"""A shell's exit statuses for a program that is missing or cannot be started."""
UNCHECKED = ("concurrency", "max_usd_per_idea", "cost_key", "cost_file")
"""Settings that an answer does not depend on."""
BRIEF_NAMES = ("IDEA.md", "IDEA_.md", "IDEA__.md")
CLOSE_SECONDS = 20.0
"""What a worker may take to remove its folders."""
SHOWN_OUTPUT = 600
"""Characters of the agent's output in a message."""


class _NotStarted(ImplementerUnavailable):
    """The worker ended before it let the agent start."""


class CommandImplementer:
    name = "command"
    trusted = False

    def __init__(self, settings: AgentSettings, ledger: Ledger):
        self.settings, self._ledger = settings, ledger
        self._most_usd = settings.max_usd_per_idea or 0.0
        """What is reserved for an idea: the setting, or more once an agent has reported more.  Read and written by the
        event loops that implement ideas."""
        # An agent runs what a model wrote, whatever `isolation` allows for experiments.
        self._level = choose_sandbox("auto", trusted=False).level

    @classmethod
    def from_settings(cls, settings: dict[str, Any], ledger: Ledger) -> CommandImplementer:
        """
        Raises:
            IdeatorError: an unknown key, a value out of range, a variable that is not set, a cap that nothing would
                keep, or no sandbox works here.
        """
        values = read_settings(settings)
        _refuse_blind_caps(values, ledger)
        missing = [name for name in values.pass_variables or () if name not in os.environ]
        if missing:
            raise IdeatorError(
                f"The agent's settings pass on the variable {missing[0]}, which is not set here. Set it, or leave it "
                "out of pass_variables."
            )
        return cls(values, ledger)

    @staticmethod
    def estimate(settings: dict[str, Any], ideas: int, environment: Environment, preset: str) -> Estimate:
        """From nothing to `max_usd_per_idea` for each idea.

        Raises:
            IdeatorError: unusable settings.
        """
        usd = read_settings(settings).max_usd_per_idea or 0.0
        return Estimate(Amount(ideas, 0, 0, 0.0), Amount(ideas, 0, 0, ideas * usd))

    def version(self, environment: Environment) -> str:
        """A hash of the command line, of all that its sandbox allows, and of the file that it reads."""
        values = {name: value for name, value in asdict(self.settings).items() if name not in UNCHECKED}
        parts = [values, agent_brief_version()]
        return f"{self.name} {hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """The diff to the codebase that the agent leaves.

        Raises:
            NotImplementable: (unpatchable, rejected) the agent cannot implement the idea, or breaks a limit or a rule.
            ImplementerUnavailable: the agent failed.
            BudgetSpent: it could cost more than the run has left.
        """
        settings = self.settings
        job = self._job(idea, base, environment, preset)
        # One limit for all event loops of this process, and for all runs that start the same command.
        slot = gate(f"command {' '.join(settings.command)}").slot(settings.concurrency, None)
        async with slot:
            # Read in the slot: what earlier agents reported may have raised it.
            most = Spent(usd=self._most_usd)
            async with self._ledger.reserve_when_free(most) as reservation:
                try:
                    result = await _run_worker(job)
                except _NotStarted:
                    reservation.actual = Spent()
                    raise
                if result.usd is not None:
                    reservation.actual = Spent(usd=result.usd)
                    self._most_usd = max(self._most_usd, result.usd)
        usage = {"usd": most.usd if result.usd is None else result.usd, "calls": 1.0}
        _raise_failure(result, usage)
        # The hidden files, which it did not get, are as they were unless it made others in their place.
        tree = {path: base[path] for path in hidden_paths(environment, base)} | result.tree
        try:
            judge(base, tree, environment.rules)
        except PatchError as error:
            raise NotImplementable(str(error), error.kind, usage) from error
        if tree == base:
            raise NotImplementable(f"the agent changed nothing{_output(result)}", "unpatchable", usage)
        return Implementation(diff(base, tree), usage)

    def _job(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> AgentJob:
        settings, hidden = self.settings, hidden_paths(environment, base)
        return AgentJob(
            parent=os.getpid(),
            level=self._level,
            tree={path: text for path, text in base.items() if path not in hidden},
            brief_name=next(name for name in BRIEF_NAMES if name not in base),
            brief=agent_brief(idea, base, environment, preset),
            command=settings.command,
            seconds=settings.timeout_seconds,
            variables=settings.pass_variables or [],
            endpoints=[list(split_endpoint(endpoint)) for endpoint in settings.endpoints or ()],
            visible_folders=settings.visible_folders or [],
            masked=[str(folder) for folder in environment.data(preset).masked],
            ignored=list(DEFAULT_IGNORED if settings.ignore is None else settings.ignore),
            max_bytes=environment.rules.max_bytes,
            cost_key=settings.cost_key,
            cost_file=settings.cost_file,
            memory_gb=settings.memory_gb,
            disk_gb=settings.disk_gb,
            processes=settings.processes,
        )


def read_settings(settings: dict[str, Any]) -> AgentSettings:
    """
    Raises:
        ConfigError: an unknown key, or a value out of range.
    """
    return read_config(AgentSettings, settings, "The agent's settings (`coder`) have")


def _refuse_blind_caps(settings: AgentSettings, ledger: Ledger) -> None:
    """Raises: IdeatorError where the run has a cap that agents could break without limit."""
    usd = settings.max_usd_per_idea
    if usd == 0:  # the settings say that agents cost nothing
        return
    if ledger.caps.usd is not None and usd is None:
        raise IdeatorError(
            "The run has max_usd, and what an agent may cost is not known before it has ended. Add max_usd_per_idea to "
            "`coder`: the USD to reserve for each idea; 0 for an agent that costs nothing."
        )
    if ledger.caps.tokens is not None and ledger.caps.usd is None:
        raise IdeatorError(
            "The run has max_coder_tokens, and an agent reports USD, no tokens. Add max_usd, and max_usd_per_idea to "
            "`coder`; or only `max_usd_per_idea: 0` for an agent that costs nothing."
        )


async def _run_worker(job: AgentJob) -> AgentResult:
    """Run the agent in a process of its own; where this call is cancelled, that process has ended when it returns.

    Raises:
        ImplementerUnavailable: the worker failed; `_NotStarted` if no agent ran.
    """
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Files in memory instead of pipes: nothing has to be read while it runs, or closed with the event loop.
    with ExitStack() as stack:
        job_file, result_file, errors = (stack.enter_context(_memory_file()) for _ in range(3))
        job_file.write(json.dumps(asdict(job)).encode())
        job_file.seek(0)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "ideator_rl.implementers.agent_worker",
            stdin=job_file,
            stdout=result_file,
            stderr=errors,
            env=variables,
            start_new_session=True,
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), CLOSE_SECONDS)
                if process.returncode is None:
                    process.kill()
        for file in (result_file, errors):
            file.seek(0)
        result = result_file.read()
        if process.returncode != 0:
            lines = errors.read().decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"]
            raise (ImplementerUnavailable if result else _NotStarted)(
                f"The agent's worker ended with status {process.returncode}: {lines[-1]:.300}"
            )
        return AgentResult(**json.loads(result))


def _memory_file() -> BinaryIO:
    return open(os.memfd_create("agent"), "w+b")


def _raise_failure(result: AgentResult, usage: dict[str, float]) -> None:
    """Raises: NotImplementable, ImplementerUnavailable."""
    if result.status == OK:
        return
    if result.status == REJECTED:
        raise NotImplementable(result.message, "rejected", usage)
    if result.exit_code == CANNOT:
        raise NotImplementable(f"the agent cannot implement it{_output(result)}", "unpatchable", usage)
    if result.exit_code is None and result.status != LOST:
        raise NotImplementable(f"the agent was ended: {result.message}{_output(result)}", "unpatchable", usage)
    ended = f"ended with status {result.exit_code}" if result.exit_code is not None else result.message
    # A program that is not there will not be there for the next idea.
    raise ImplementerUnavailable(f"The agent {ended}{_output(result)}", permanent=result.exit_code in NOT_STARTED)


def _output(result: AgentResult) -> str:
    text = " ".join(result.output[-SHOWN_OUTPUT:].split())
    return f"; the end of its output: {text}" if text else "; it printed nothing"
