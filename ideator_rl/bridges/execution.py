"""An environment for a foreign trainer: one prompt, and the reward of what really happened for each answer.

Guarantees: one record an answer; equal codebases run once, also over restarts; a lost experiment raises, and is never
a reward of zero.  A reported metric is refused, as in our own training, unless it is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Config, Count, Flag, read_config
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.files import cache_root
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer


class LostExperiment(IdeatorError):
    """The outcome is unknown by our fault, so there is no reward."""


@dataclass(frozen=True)
class ExecutionSettings(Config):
    """What to run, and where."""

    env: str
    """Environment: a name, or the path of its folder."""
    preset: str = "cpu"
    """The environment's preset."""
    prompts: str = "short"
    """Kind of the environment's prompt."""
    bucket: str = ""
    """URL of the bucket; empty for one in the user's cache."""
    implementer: str = "direct"
    """direct: the answer holds the edits; llm: a coder writes them; rules: edits in words."""
    coder: dict[str, Any] = Field(default_factory=dict)
    """Settings of the implementer `llm`."""
    slots: Count | None = None
    """CPU slots for experiments on this machine; null for this process's share."""
    allow_reported: Flag = False
    """Accept a metric that code reports which ideas could forge."""


class ExecutionRewards:
    """The prompt of an environment, and rewards for answers to it.

    Raises:
        IdeatorError: the environment or its prompt is not usable, or its metric is reported and that is not allowed.
    """

    def __init__(self, settings: ExecutionSettings):
        self.settings = settings
        self.environment: Environment = load_environment(settings.env).at(settings.preset)
        metric = self.environment.metric
        if metric.is_reported and not settings.allow_reported:
            raise IdeatorError(
                f"The metric {metric.name} of {self.environment.name} is reported by code that runs together with the "
                "idea's, so a policy can learn to forge it. Let trusted code measure it, or set allow_reported: true."
            )
        self.prompt = self.environment.prompt(settings.preset, settings.prompts)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ExecutionRewards:
        """From one flat mapping of settings."""
        return cls(read_config(ExecutionSettings, dict(values), "The settings of the environment have"))

    @cached_property
    def buffer(self) -> RewardBuffer:
        """Opened at the first answer; equal settings share one in a process."""
        keys = self.settings
        has_name = keys.env == self.environment.name
        bucket = keys.bucket or (cache_root() / "bridges" / self.environment.name / "bucket").as_uri()
        return open_buffer(
            BufferConfig(
                self.environment.name if has_name else str(self.environment.root.resolve()),
                keys.preset,
                bucket,
                implementer=keys.implementer,
                coder=json.dumps(keys.coder) if keys.coder else "",
                slots=keys.slots,
            )
        )

    async def record(self, answer: str) -> Experiment:
        """Run the idea in an answer.

        Raises:
            LostExperiment: there is no reward.
        """
        [record] = await self.buffer.score([answer])
        if record.reward is None:
            reason = (record.error or {}).get("message", "no reason is known")
            raise LostExperiment(f"The experiment was lost, so it has no reward: {reason}")
        return record


def numbers_of(record: Experiment) -> dict[str, float]:
    """What trackers of other libraries show of a record, beside its reward."""
    numbers = {"succeeded": float(record.status == SUCCEEDED)}
    # What did not count is not shown either: it would teach how a result is forged.
    if record.status != SUCCEEDED:
        return numbers
    if record.metric is not None:
        numbers[str(record.metric["name"])] = float(record.metric["value"])
    return numbers | {name: value for name, value in record.secondary.items() if name not in numbers}
