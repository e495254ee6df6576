"""What a screen is worth, measured on the ideas that it drew at random: lift, coverage, and figures of each step.

lift       expected improvement over the best reward of a preferred idea, over that of an audited one; 1 is chance
coverage   share of audited successes whose reward is in the forecast's 80 % interval
preferred  ideas whose forecasts are good enough to be run; audited ideas among them count in both shares
audited    ideas drawn at random from a pool, whatever their forecasts: the sample that no forecast has biased

Improvements are too rare to be counted: of a hundred audited ideas one or two are better than the best so far.  So the
expected improvement of a group follows from its share of successes, their mean reward, and a normal distribution with
the deviation of both groups.  Counting ideas above a lower bar hardly separated a good predictor from noise.

Forecasts were made before the outcomes, so that all figures are prequential.  A function of the journal's rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from scipy.special import log_ndtr

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.screen.acquisition import log_expected_improvement
from ideator_rl.screen.outliers import pulled_in
from ideator_rl.storage.forecasts import ForecastOutcome

WINDOW = 64
"""Figures are computed on the last steps with this many audited and preferred outcomes: predictor and pool change."""
LEAST_AUDITED, LEAST_COMPARED = 8, 4
"""Audited outcomes, and successes in each group, without which there is no lift …"""
LEAST_COVERED = 8
"""… and audited successes without which there is no coverage."""
EXTREME = 8.0
"""Deviations from the best beyond which a mean counts as this far: further out, a normal tail is no evidence."""
INTERVAL = 1.2816
"""Standard deviations from the mean to the ends of an 80 % interval."""
MOST_LIFT = 20.0
"""A larger lift is given as this one: it follows from tails."""


@dataclass(frozen=True)
class Lift:
    value: float
    high: float
    """One standard error above, on the logarithmic scale."""


@dataclass(frozen=True)
class ScreenStep:
    """A step, or epoch, in which a screen was on."""

    step: int
    sampled: int
    executed: int
    audited: int
    fresh: float
    """Share of the samples that were new ideas that can be run."""
    forecast: float | None
    """Mean forecast reward of the pool, failures included; None where nothing was fresh."""
    audited_mean: float | None
    """Mean reward of the audited outcomes, failures included."""
    lift: Lift | None
    """Up to this step; None for too few audited outcomes."""
    coverage: float | None
    is_open: bool
    """Whether forecasts chose in all its rounds."""


def lift_of(outcomes: Sequence[ForecastOutcome], pools: Mapping[int, tuple[int, int]] | None = None) -> Lift | None:
    """The lift at the end of these rows; None before enough audited ideas have an outcome.

    Args:
        pools: by step, new ideas and how many of them are preferred.  The improvement of all new ideas is at least that
            of the preferred ones, so that no lift exceeds the ratio; None where nothing was left out.  Without pools
            it may: a normal distribution has longer tails than a group of the best.
    """
    steps: list[int] = []
    audited: list[ForecastOutcome] = []
    preferred: list[ForecastOutcome] = []
    # Whole steps, back from the end: in other steps, the best is another one and the pool is better or worse.  With an
    # open gate few ideas are audited, with a closed one few are preferred; both groups must be large enough.
    for step, members in groupby(reversed(outcomes), key=lambda outcome: outcome.step):
        steps.append(step)
        for outcome in members:
            if outcome.status and outcome.forecast.best is not None:
                audited += [outcome] * outcome.forecast.audited
                preferred += [outcome] * outcome.forecast.preferred
        if min(len(audited), len(preferred)) >= WINDOW:
            break
    if len(audited) < LEAST_AUDITED:
        return None
    gains = [_gains(preferred), _gains(audited)]
    if min(map(len, gains)) < LEAST_COMPARED:
        return None
    # One diverged run among the audited would hide every other difference for the whole window.
    gains = np.split(pulled_in(np.concatenate(gains)), [len(gains[0])])
    # One deviation for both groups: eight outcomes of a small group do not show their own.
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in gains)
    deviation = max(math.sqrt(squares / (len(gains[0]) + len(gains[1]) - 2)), 1e-12)
    log_lift, variance = 0.0, 0.0
    for sign, group, count in ((1, gains[0], len(preferred)), (-1, gains[1], len(audited))):
        # Half a success and half a failure more, so that the logarithm is finite.
        share = (len(group) + 0.5) / (count + 1)
        z = float(np.clip(group.mean() / deviation, -EXTREME, EXTREME))
        log_improvement = float(log_expected_improvement(np.array([z]), np.ones(1), 0.0)[0])
        log_lift += sign * (math.log(share) + log_improvement)
        # The delta method, for a share and for the mean inside log EI, whose derivative is Φ(z) / EI.
        slope = math.exp(float(log_ndtr(z)) - log_improvement)
        variance += (1 - share) / (count * share) + slope**2 / len(group)
    value, high, most = math.exp(log_lift), math.exp(log_lift + math.sqrt(variance)), MOST_LIFT
    if pools is not None:
        fresh, preferred_count = (sum(pools[step][side] for step in steps) for side in (0, 1))
        if fresh <= preferred_count:
            return None
        most = min(most, fresh / preferred_count)
    return Lift(min(value, most), min(high, most))


def coverage_of(outcomes: Sequence[ForecastOutcome]) -> float | None:
    """The coverage at the end of these rows; None before enough audited ideas have succeeded."""
    # Chosen ideas have forecasts that were too good: those drawn at random alone show how far forecasts are off.
    # From the end, so that the figures of a run's every step do not read all of its earlier rows each.
    audited = islice((row for row in reversed(outcomes) if row.status and row.forecast.audited), WINDOW)
    inside = [
        abs(outcome.reward - outcome.forecast.mean) <= INTERVAL * outcome.forecast.sd
        for outcome in audited
        if outcome.status == SUCCEEDED
        and outcome.reward is not None
        and outcome.forecast.mean is not None
        and outcome.forecast.sd is not None
    ]
    return statistics.fmean(inside) if len(inside) >= LEAST_COVERED else None


def screen_steps(outcomes: Sequence[ForecastOutcome], failure: float = 0.0) -> list[ScreenStep]:
    """The figures of each step, from all rows of a journal in their order.

    Args:
        failure: reward of a failure, which only the forecasts depend on.
    """
    steps: list[ScreenStep] = []
    # Most rows were not run and have no outcome: lift and coverage are computed without reading them again.
    settled: list[ForecastOutcome] = []
    pools: dict[int, tuple[int, int]] = {}
    for step, rows in groupby(outcomes, key=lambda outcome: outcome.step):
        members = list(rows)
        settled += [outcome for outcome in members if outcome.status]
        forecasts = [row.forecast for row in members]
        pools[step] = sum(row.rank is not None for row in forecasts), sum(row.preferred for row in forecasts)
        pool = [
            row.success * row.mean + (1 - row.success) * failure
            for row in forecasts
            if row.success is not None and row.mean is not None
        ]
        audited = [outcome.reward for outcome in members if outcome.forecast.audited and outcome.reward is not None]
        steps.append(
            ScreenStep(
                step=step,
                sampled=len(members),
                executed=sum(row.executed for row in forecasts),
                audited=sum(row.audited for row in forecasts),
                fresh=len(pool) / len(members),
                forecast=statistics.fmean(pool) if pool else None,
                audited_mean=statistics.fmean(audited) if audited else None,
                # The rows up to here: what was known when the next step began.
                lift=lift_of(settled, pools),
                coverage=coverage_of(settled),
                is_open=all(row.is_open for row in forecasts),
            )
        )
    return steps


def _gains(outcomes: Sequence[ForecastOutcome]) -> np.ndarray:
    """[successes] rewards, each less the best when its forecast was made."""
    gains = [
        outcome.reward - outcome.forecast.best
        for outcome in outcomes
        if outcome.status == SUCCEEDED and outcome.reward is not None and outcome.forecast.best is not None
    ]
    return np.array(gains)
