"""What a screen is worth, measured on the ideas that it drew at random: lift, coverage, and figures of each step.

hit        an outcome above the bar: better than three quarters of the last successes before its forecast
lift       share of hits among the preferred ideas, over the share among the audited ones; 1 is chance.  Hits are few,
           so a gate compares its upper end, one standard error above
coverage   share of audited successes whose reward is in the forecast's 80 % interval
preferred  ideas whose forecasts are good enough to be run; audited ideas among them count in both shares
audited    ideas drawn at random from a pool, whatever their forecasts: the sample that no forecast has biased

Forecasts were made before the outcomes, so that all figures are prequential.  A function of the journal's rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.storage.forecasts import ForecastOutcome

WINDOW, PREFERRED = 128, 256
"""The last audited and the last preferred outcomes, on which figures are computed: predictor and population change."""
LEAST_AUDITED = 16
"""Audited outcomes without which there is no lift …"""
LEAST_COVERED = 8
"""… and audited successes without which there is no coverage."""
PRIOR = 8.0
"""Preferred outcomes of no lift that are added to the measured ones: a few lucky hits open no gate."""
INTERVAL = 1.2816
"""Standard deviations from the mean to the ends of an 80 % interval."""
RECENT, BAR = 64, 0.75
"""The bar is this quantile of so many last successes."""


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
    """Mean forecast reward, p · μ, of the pool; None where nothing was fresh."""
    audited_mean: float | None
    """Mean reward of the audited outcomes."""
    lift: Lift | None
    """Up to this step; None for too few audited outcomes."""
    coverage: float | None
    is_open: bool
    """Whether forecasts chose in all its rounds."""


def bar_of(rewards: Sequence[float]) -> float | None:
    """The bar from the rewards of successes, in the order in which they became known; None without any."""
    return float(np.quantile(rewards[-RECENT:], BAR)) if rewards else None


def lift_of(outcomes: Sequence[ForecastOutcome]) -> Lift | None:
    """The lift at the end of these rows; None before enough audited ideas have an outcome."""
    known = [outcome for outcome in outcomes if outcome.status and outcome.forecast.bar is not None]
    audited = [outcome for outcome in known if outcome.forecast.audited][-WINDOW:]
    if len(audited) < LEAST_AUDITED:
        return None
    preferred = [outcome for outcome in known if outcome.forecast.preferred][-PREFERRED:]
    base = (sum(map(_is_hit, audited)) + 0.5) / (len(audited) + 1)
    hits = sum(map(_is_hit, preferred)) + PRIOR * base
    lift = hits / (len(preferred) + PRIOR) / base
    # Of the logarithm of a ratio of two shares, by the delta method.
    error = math.sqrt(1 / hits + 1 / (base * (len(audited) + 1)))
    return Lift(lift, lift * math.exp(error))


def coverage_of(outcomes: Sequence[ForecastOutcome]) -> float | None:
    """The coverage at the end of these rows; None before enough audited ideas have succeeded."""
    audited = [outcome for outcome in outcomes if outcome.status and outcome.forecast.audited][-WINDOW:]
    inside = [
        abs(outcome.reward - outcome.forecast.mean) <= INTERVAL * outcome.forecast.sd
        for outcome in audited
        if outcome.status == SUCCEEDED
        and outcome.reward is not None
        and outcome.forecast.mean is not None
        and outcome.forecast.sd is not None
    ]
    return statistics.fmean(inside) if len(inside) >= LEAST_COVERED else None


def screen_steps(outcomes: Sequence[ForecastOutcome]) -> list[ScreenStep]:
    """The figures of each step, from all rows of a journal in their order."""
    steps: list[ScreenStep] = []
    # Most rows were not run and have no outcome: lift and coverage are computed without reading them again.
    known: list[ForecastOutcome] = []
    for step, rows in groupby(outcomes, key=lambda outcome: outcome.step):
        members = list(rows)
        known += [outcome for outcome in members if outcome.status]
        forecasts = [row.forecast for row in members]
        pool = [row.success * row.mean for row in forecasts if row.success is not None and row.mean is not None]
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
                lift=lift_of(known),
                coverage=coverage_of(known),
                is_open=all(row.is_open for row in forecasts),
            )
        )
    return steps


def _is_hit(outcome: ForecastOutcome) -> bool:
    reward, bar = outcome.reward, outcome.forecast.bar
    return outcome.status == SUCCEEDED and reward is not None and bar is not None and reward > bar
