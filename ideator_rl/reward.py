"""Rewards: the rule from a record to a reward, and what reward functions yield, declare and share.

The rule is the environment's or the recipe's, and no part of the record.  Its transforms:

inverse         1 / value, as in Si et al. (arXiv 2601.14525)
identity        the value
negative        its negation
over_baseline   improvement over the baseline's mean in standard deviations of a single run, at least 0: a gain
                within the noise is worth little, and no failure earns more than an idea that ran
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ideator_rl.environments.environment import Environment, Metric
from ideator_rl.environments.manifest import TRANSFORMS
from ideator_rl.environments.noise import Noise, needed_noise
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, SUCCEEDED, Experiment


@dataclass(frozen=True)
class RowReward:
    """The reward of one completion of a batch; streams yield it as soon as it is known."""

    row: int
    """Index of the completion in the batch."""
    reward: float | None
    """None where the experiment is `lost`, or the function does not judge this row."""
    status: str = ""
    """Of its experiment; empty from a function that runs none."""
    experiment: str = ""
    cell: str = ""
    """The kind of change: equal cells are one cluster.  Empty when unknown."""


def text_of(completion: Any) -> str:
    """A completion is text, or the messages of a conversational dataset."""
    if isinstance(completion, str):
        return completion
    return "".join(message.get("content") or "" for message in completion)


class BatchOutcomes:
    """The records of one batch, by row: entered by the reward function that runs the experiments, read by the others.

    Belongs to one event loop; only coroutines on that loop may use it.
    """

    def __init__(self, rows: int):
        loop = asyncio.get_running_loop()
        self._records: list[asyncio.Future[Experiment | None]] = [loop.create_future() for _ in range(rows)]

    def enter(self, row: int, record: Experiment) -> None:
        if not self._records[row].done():
            self._records[row].set_result(record)

    def end(self) -> None:
        """No further record will come: rows without one get None."""
        for future in self._records:
            if not future.done():
                future.set_result(None)

    async def as_completed(self) -> AsyncIterator[tuple[int, Experiment | None]]:
        """Every row with its record, as soon as it is known; None where the function that runs it has failed."""
        waiting = {asyncio.ensure_future(self._wait(row)) for row in range(len(self._records))}
        try:
            while waiting:
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    yield task.result()
        finally:
            for task in waiting:
                task.cancel()

    async def _wait(self, row: int) -> tuple[int, Experiment | None]:
        return row, await asyncio.shield(self._records[row])


@dataclass(frozen=True)
class RewardTraits:
    """What a reward function declares by attributes of these names.  All are optional: any callable with TRL's
    arguments is a reward function."""

    as_completed: Callable[..., AsyncIterator[RowReward]] | None = None
    """The stream: an async generator with the same arguments."""
    options: Mapping[str, Any] | None = None
    """The columns that it reads, each with a `check(name, value)`; None for a function that takes any."""
    runs_experiments: bool = False
    needs_experiments: bool | None = None
    """It reads the records of another function of its batch; None where that is not known."""
    takes_context: bool = False
    """It takes a `reward_context` (`reward_buffer.RewardContext`)."""


def traits_of(function: Callable[..., Any]) -> RewardTraits:
    """What a reward function declares, with defaults for the rest."""
    names = [trait.name for trait in fields(RewardTraits)]
    return RewardTraits(**{name: getattr(function, name) for name in names if hasattr(function, name)})


@dataclass(frozen=True)
class RewardRule:
    """From a record to a reward."""

    transform: str
    failure: float
    """The reward of every outcome that is the idea's own fault."""
    metric: Metric
    noise: Noise | None = None

    def reward(self, record: Experiment) -> float | None:
        """The reward of a record; None for `lost`."""
        if record.status == LOST:
            return None
        if record.status != SUCCEEDED or record.metric is None:
            return self.failure
        value = float(record.metric["value"])
        if not math.isfinite(value) or (self.transform == "inverse" and value <= 0):
            return self.failure
        return self._transformed(value)

    def _transformed(self, value: float) -> float:
        if self.transform == "inverse":
            return 1.0 / value
        if self.transform == "over_baseline":
            assert self.noise is not None
            gain = value - self.noise.mean if self.metric.direction == "max" else self.noise.mean - value
            return max(0.0, gain / self.noise.spread)
        return -value if self.transform == "negative" else value


def reward_rule(environment: Environment, preset: str, transform: str | None = None) -> RewardRule:
    """The environment's rule, or another transform in its place.

    Raises:
        IdeatorError: there is no such transform; or it needs the baseline's noise, which was not measured yet.
    """
    name = transform or environment.reward_transform
    if name not in TRANSFORMS:
        raise IdeatorError(f"reward_transform is {name!r}; expected one of {', '.join(TRANSFORMS)}.")
    noise = needed_noise(environment, preset) if name == "over_baseline" else None
    return RewardRule(name, environment.failure_reward, environment.metric, noise)
