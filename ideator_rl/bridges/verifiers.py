"""Environments of this library for `verifiers` (from 0.4 on): a taskset whose reward is an executed idea.

Imported by the top-level package `ideator_rl_env`, which is the id that verifiers and prime-rl take:

    vf-eval ideator-rl-env --env.taskset.env ./my_env

The harness asks the model once and needs Python alone, in whatever runtime the agent has; experiments run in this
library's own sandbox, on the machine that scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from uuid import uuid4

import verifiers.v1 as vf
from pydantic import Field

from ideator_rl.bridges.execution import ExecutionRewards, numbers_of

ASK = """
import os, sys, urllib.request
url, file = sys.argv[1:]
with open(file, "rb") as stream:
    data = stream.read()
os.remove(file)
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["IDEATOR_ASK_KEY"]}
request = urllib.request.Request(url + "/chat/completions", data, headers)
urllib.request.urlopen(request, timeout=3600).read()
"""
"""One question to the endpoint of the rollout, which records the answer."""


class IdeatorTasksetConfig(vf.TasksetConfig):
    """Which of our environments, and how its ideas are run: `bridges.execution.ExecutionSettings`."""

    env: str = ""
    preset: str = "cpu"
    prompts: str = "short"
    bucket: str = ""
    implementer: str = "direct"
    coder: dict[str, Any] = Field(default_factory=dict)
    slots: int | None = None
    allow_reported: bool = False
    rows: int = Field(1, ge=1)
    """Equal tasks; a trainer that samples tasks without replacement needs as many as it asks for."""

    @property
    def settings(self) -> dict[str, Any]:
        names = ("env", "preset", "prompts", "bucket", "implementer", "coder", "slots", "allow_reported")
        return {name: getattr(self, name) for name in names}


class IdeaData(vf.TaskData):
    """A task's data with the settings, so that a task can be scored in any process."""

    settings: dict[str, Any]


class IdeaTask(vf.Task[IdeaData]):
    """Write one idea with its code; the reward is that of the executed experiment."""

    @vf.reward
    async def execution(self, trace: vf.Trace) -> float:
        """
        Raises:
            LostExperiment: by our fault; the rollout then fails, instead of being trained on.
        """
        record = await _rewards(_key(self.data.settings)).record(trace.last_reply or "")
        trace.record_metrics(numbers_of(record))
        assert record.reward is not None
        return record.reward


class IdeatorTaskset(vf.Taskset[IdeaTask, IdeatorTasksetConfig]):
    def load(self) -> Iterator[IdeaTask]:
        rewards = _rewards(_key(self.config.settings))
        for number in range(self.config.rows):
            name = f"{rewards.environment.name}-{number}"
            data = IdeaData(id=name, name=name, prompt=rewards.prompt, settings=self.config.settings)
            yield IdeaTask(data, self.config.task)


class IdeaHarnessConfig(vf.HarnessConfig):
    """Nothing to set."""


class IdeaHarness(vf.Harness[IdeaHarnessConfig]):
    """Asks the model once; a program of the standard library, so that nothing is installed in the runtime."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
        tool_interception_url: str | None = None,
    ) -> vf.ProgramResult:
        system, prompt = self.resolve_text_prompt(data)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt or ""})
        # A file, since the kernel takes at most 128 KiB for one argument or variable.
        question = f"question-{uuid4().hex}.json"
        await runtime.write(question, json.dumps({"model": ctx.model, "messages": messages}).encode())
        # The key is in no command line, which all users of a machine can read.
        command = ["python3", "-c", ASK, endpoint, question]
        return await runtime.run(command, {"IDEATOR_ASK_KEY": secret})


class IdeatorEnvConfig(vf.EnvConfig):
    """One agent, on this machine unless set otherwise: it runs no code of the model."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class IdeatorEnv(vf.Env[IdeatorEnvConfig]):
    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        await agents.agent.run(task)


def load_environment(env: str, **settings: Any) -> vf.Env:
    """One of our environments as one of verifiers.

    Args:
        env: its name, or the path of its folder.
        settings: other fields of `IdeatorTasksetConfig`.
    """
    taskset = IdeatorTasksetConfig(id="ideator-rl-env", env=env, **settings)
    return IdeatorEnv(IdeatorEnvConfig(taskset=taskset))


def _key(settings: dict[str, Any]) -> str:
    """Settings as a key of a cache."""
    return json.dumps(settings, sort_keys=True)


@lru_cache(maxsize=64)
def _rewards(settings: str) -> ExecutionRewards:
    """One for equal settings in a process: they share a buffer, and so its slots."""
    return ExecutionRewards.of(json.loads(settings))
