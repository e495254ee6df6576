"""What a screen is worth, measured on the ideas that it drew at random: lift, coverage, and figures of each step.

lift       expected improvement over the best reward of a preferred idea, over that of an audited one; 1 is chance.
           Ideas of neighbouring steps are compared, so that a pool that improves is no sign of a good forecast
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
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import ClassVar

import numpy as np
from scipy.special import log_ndtr

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.screen.accuracy import coverage
from ideator_rl.screen.acquisition import log_expected_improvement
from ideator_rl.screen.outliers import pulled_in
from ideator_rl.storage.forecasts import ForecastOutcome

WINDOW, MOST_STEPS = 64, 256
"""Figures are computed on the last steps with this many audited and preferred outcomes, and on so many steps at most:
predictor and pool change, and long runs must not be read again at each step."""
LEAST_AUDITED, LEAST_COMPARED = 8, 4
"""Audited outcomes, and successes in each group, without which there is no lift …"""
LEAST_COVERED = 8
"""… and audited successes without which there is no coverage."""
EXTREME = 8.0
"""Deviations from the best beyond which a mean counts as this far: further out, a normal tail is no evidence."""
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
    strata = _window(outcomes)
    if not strata:
        return None
    groups = [_Group.of(strata, side) for side in _Stratum.SIDES]
    if min(len(group.gains) for group in groups) < LEAST_COMPARED:
        return None
    # One diverged run among the audited would hide every other difference for the whole window.
    gains = pulled_in(np.concatenate([group.gains for group in groups]))
    first, second = (
        replace(group, gains=own) for group, own in zip(groups, np.split(gains, [len(groups[0].gains)]), strict=True)
    )
    # One deviation for both groups: eight outcomes of a small group do not show their own.
    sizes = [group.size * group.share for group in (first, second)]
    squares = sum(size * group.variance for size, group in zip(sizes, (first, second), strict=True))
    deviation = max(math.sqrt(squares / max(sum(sizes) - 2, 1.0)), 1e-12)
    log_lift, variance = 0.0, 0.0
    for sign, group, size in ((1, first, sizes[0]), (-1, second, sizes[1])):
        # Half a success and half a failure more, so that the logarithm is finite.
        share = (size + 0.5) / (group.size + 1)
        z = float(np.clip(group.mean / deviation, -EXTREME, EXTREME))
        log_improvement = float(log_expected_improvement(np.array([z]), np.ones(1), 0.0)[0])
        log_lift += sign * (math.log(share) + log_improvement)
        # The delta method, for a share and for the mean inside log EI, whose derivative is Φ(z) / EI.
        slope = math.exp(float(log_ndtr(z)) - log_improvement)
        variance += (1 - share) / (group.size * share) + slope**2 / size
    value, high, most = math.exp(log_lift), math.exp(log_lift + math.sqrt(variance)), MOST_LIFT
    if pools is not None:
        fresh, preferred_count = (
            sum(pools[step][side] for stratum in strata for step in stratum.steps) for side in (0, 1)
        )
        if fresh <= preferred_count:
            return None
        most = min(most, fresh / preferred_count)
    return Lift(min(value, most), min(high, most))


@dataclass(frozen=True)
class _Stratum:
    """The outcomes of consecutive steps with `LEAST_AUDITED` audited ones; an audited idea may be preferred too.

    Mantel and Haenszel's weights: in each stratum both groups count with the same weight, so that steps of a better
    pool, or with another best, favour neither.  It is largest where both groups are large.  Of single steps with few
    places, only those whose audited ideas happen to be good would have both groups.
    """

    SIDES: ClassVar = ("preferred", "audited")
    steps: list[int]
    preferred: list[ForecastOutcome]
    audited: list[ForecastOutcome]

    @property
    def weight(self) -> float:
        first, second = len(self.preferred), len(self.audited)
        return first * second / (first + second)


def _window(outcomes: Sequence[ForecastOutcome]) -> list[_Stratum]:
    """The last steps that a lift is computed on, the newest first."""
    strata: list[_Stratum] = []
    total, squares = 0.0, dict.fromkeys(_Stratum.SIDES, 0.0)
    steps = groupby(reversed(outcomes), key=lambda outcome: outcome.step)
    current = _Stratum([], [], [])
    was_open = False
    # Whole steps, back from the end: predictor and pool change.  With an open gate few ideas are audited, with a closed
    # one few are preferred; both groups must be large enough.
    for step, members in islice(steps, MOST_STEPS):
        rows = list(members)
        is_open = all(row.forecast.is_open for row in rows)
        # A moved gate ends a stratum: it changes how many of a step are in which group.
        if current.steps and is_open != was_open:
            current = _Stratum([], [], [])
        was_open = is_open
        ended = [row for row in rows if row.status and row.forecast.best is not None]
        current.steps.append(step)
        current.preferred.extend(row for row in ended if row.forecast.preferred)
        current.audited.extend(row for row in ended if row.forecast.audited)
        if len(current.audited) < LEAST_AUDITED or not current.preferred:
            continue
        strata.append(current)
        total += current.weight
        for side in _Stratum.SIDES:
            squares[side] += current.weight**2 / len(getattr(current, side))
        if total**2 / max(squares.values()) >= WINDOW:
            break
        current = _Stratum([], [], [])
    return strata


def _effective(strata: Sequence[_Stratum], side: str) -> float:
    """How many outcomes of equal weights have the variance of this group's weighted mean."""
    squares = sum(stratum.weight**2 / len(getattr(stratum, side)) for stratum in strata)
    return float(sum(stratum.weight for stratum in strata) ** 2 / squares)


@dataclass(frozen=True)
class _Group:
    """One group of a window, weighted by `_Stratum.weight`."""

    size: float
    """Its effective number of outcomes."""
    share: float
    """Weighted share of successes."""
    gains: np.ndarray
    """[successes] rewards, each less the best when its forecast was made."""
    weights: np.ndarray
    """[successes]"""

    @classmethod
    def of(cls, strata: Sequence[_Stratum], side: str) -> _Group:
        members = [
            (outcome, stratum.weight / len(getattr(stratum, side)))
            for stratum in strata
            for outcome in getattr(stratum, side)
        ]
        successes = [
            (outcome.reward - outcome.forecast.best, weight)
            for outcome, weight in members
            if outcome.status == SUCCEEDED and outcome.reward is not None and outcome.forecast.best is not None
        ]
        gains, weights = (np.array([pair[at] for pair in successes]) for at in (0, 1))
        total = sum(weight for _, weight in members)
        return cls(_effective(strata, side), float(weights.sum() / total), gains, weights)

    @property
    def mean(self) -> float:
        return float(np.average(self.gains, weights=self.weights))

    @property
    def variance(self) -> float:
        return float(np.average((self.gains - self.mean) ** 2, weights=self.weights))


def coverage_of(outcomes: Sequence[ForecastOutcome]) -> float | None:
    """The coverage at the end of these rows; None before enough audited ideas have succeeded."""
    # Chosen ideas have forecasts that were too good: those drawn at random alone show how far forecasts are off.
    # From the end, so that the figures of a run's every step do not read all of its earlier rows each.
    audited = islice((row for row in reversed(outcomes) if row.status and row.forecast.audited), WINDOW)
    successes = [
        (outcome.forecast.mean, outcome.forecast.sd, outcome.reward)
        for outcome in audited
        if outcome.status == SUCCEEDED
        and outcome.reward is not None
        and outcome.forecast.mean is not None
        and outcome.forecast.sd is not None
    ]
    means, deviations, rewards = ([values[at] for values in successes] for at in range(3))
    return coverage(means, deviations, rewards) if len(successes) >= LEAST_COVERED else None


def screen_steps(
    outcomes: Sequence[ForecastOutcome], failure: float = 0.0, last: int | None = None
) -> list[ScreenStep]:
    """The figures of each step, from all rows of a journal in their order.

    Args:
        failure: reward of a failure, which only the forecasts depend on.
        last: lift and coverage are wanted of so many last steps alone, and are None in the others; None for all.
    """
    count = len({outcome.step for outcome in outcomes})
    steps: list[ScreenStep] = []
    # Most rows were not run and have no outcome: lift and coverage are computed without reading them again.
    settled: list[ForecastOutcome] = []
    pools: dict[int, tuple[int, int]] = {}
    audited_count = 0
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
        audited_count += sum(outcome.forecast.audited for outcome in members)
        # Without audited ideas there is neither, however many steps are searched for them.
        is_wanted = audited_count > 0 and (last is None or len(steps) >= count - last)
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
                lift=lift_of(settled, pools) if is_wanted else None,
                coverage=coverage_of(settled) if is_wanted else None,
                is_open=all(row.is_open for row in forecasts),
            )
        )
    return steps
