"""What the unchanged baseline is worth: the quality that an idea has to be better than, and the noise of one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ideator_rl.environments.noise import load_noise
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.reward import reward_rule
from ideator_rl.reward_buffer import RewardBuffer


@dataclass(frozen=True)
class Baseline:
    quality: float
    """Mean over its runs, on the scale of rewards."""
    metric: float
    """Mean over its runs, in the metric's unit."""
    spread: float | None
    """Standard deviation of the quality of a single run; None when it was run once."""


def baseline_of(buffer: RewardBuffer) -> Baseline | None:
    """The baseline by this run's own records; its spread by `env check` where that measured it.  None if unknown."""
    config, environment = buffer.config, buffer.executor.environment
    runs = {record.id: record for record in tuple(buffer.baselines) if record.status == SUCCEEDED and record.metric}
    values = [float(record.metric["value"]) for record in runs.values() if record.metric]
    noise = load_noise(environment, config.preset)
    measured = list(noise.values) if noise else []
    if not values and not measured:
        return None
    rule = reward_rule(environment, config.preset, config.reward_transform)
    metric = {"name": environment.metric.name, "direction": environment.metric.direction}

    def quality(value: float) -> float:
        run = Experiment("", SUCCEEDED, "", environment.name, config.preset, metric={**metric, "value": value})
        return float(rule.reward(run) or 0.0)

    many = measured if len(measured) > 1 else values
    spread = statistics.stdev(map(quality, many)) if len(many) > 1 else None
    level = values or measured
    return Baseline(statistics.mean(map(quality, level)), statistics.mean(level), spread)


def baseline_words(records: Sequence[Experiment], metric: str) -> str:
    """One line about the runs of the unchanged baseline.

    Raises:
        IdeatorError: none of them succeeded.
    """
    values = [record.metric["value"] for record in records if record.status == SUCCEEDED and record.metric]
    if not values:
        first = records[0]
        why = first.error["message"] if first.error else "no reason is known"
        raise IdeatorError(
            f"The baseline itself did not succeed ({first.status}): {why} No idea can be judged against it. "
            "Mend it (`ideator-rl execute ENV --baseline` runs it alone), then go on with --resume."
        )
    rest = [record.status for record in records if record.status != SUCCEEDED]
    missing = f"; of {len(records)} runs {len(rest)} did not succeed: {', '.join(rest)}" if rest else ""
    return f"baseline {metric} {', '.join(f'{value:.4f}' for value in values)}{missing}"
