"""The quality of the unchanged baseline, which an idea has to exceed, and the noise of a single run."""

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
    """Mean over its runs, as a reward."""
    metric: float
    """Mean over its runs, in the metric's unit."""
    spread: float | None
    """Standard deviation of the quality of a single run; None after one run."""


def baseline_of(buffer: RewardBuffer) -> Baseline | None:
    """The baseline of this run, from its own records; the spread from `env check`, if that measured it.

    None if neither has a value.
    """
    config, environment = buffer.config, buffer.executor.environment
    runs = {record.id: record for record in tuple(buffer.baselines) if record.status == SUCCEEDED and record.metric}
    values = [float(record.metric["value"]) for record in runs.values() if record.metric]
    noise = load_noise(environment, config.preset)
    checked_values = list(noise.values) if noise else []
    if not values and not checked_values:
        return None
    rule = reward_rule(environment, config.preset, config.reward_transform)
    metric = {"name": environment.metric.name, "direction": environment.metric.direction}

    def quality(value: float) -> float:
        run = Experiment("", SUCCEEDED, "", environment.name, config.preset, metric={**metric, "value": value})
        return float(rule.reward(run) or 0.0)

    # The level comes from this run if it has one; the spread from whichever measured more than one run.
    level = values or checked_values
    repeated = checked_values if len(checked_values) > 1 else values
    spread = statistics.stdev(map(quality, repeated)) if len(repeated) > 1 else None
    return Baseline(statistics.mean(map(quality, level)), statistics.mean(level), spread)


def baseline_line(records: Sequence[Experiment], metric: str) -> str:
    """One line about the runs of the unchanged baseline.

    Raises:
        IdeatorError: no run succeeded.
    """
    values = [record.metric["value"] for record in records if record.status == SUCCEEDED and record.metric]
    if not values:
        first = records[0]
        reason = first.error["message"] if first.error else "no reason is known"
        raise IdeatorError(
            f"The baseline itself did not succeed ({first.status}): {reason} No idea can be compared with it. "
            "Correct it (`ideator-rl execute ENV --baseline` runs it alone), then give the same command again."
        )
    failures = [record.status for record in records if record.status != SUCCEEDED]
    missing = f"; of {len(records)} runs {len(failures)} did not succeed: {', '.join(failures)}" if failures else ""
    return f"baseline {metric} {', '.join(f'{value:.4f}' for value in values)}{missing}"
