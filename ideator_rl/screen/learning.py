"""What a policy learns from forecasts: a reward for each sampled idea, whether it was run or not.

    reward = min(a / a*, 1)       a: acquisition of the idea, a*: that of one of the best in the pool

Known and unreadable ideas have the reward 0.  All rows of a batch carry forecasts, those that were run too: measured
rewards are on another scale, and would favour or punish whatever happened to be run.

Guarantees: a pure function of the journal's rows, so that a resumed run learns from the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ideator_rl.storage.forecasts import ForecastRow

BAR_SHARE = 4
"""The acquisition of the best 1 / 4 of the places is worth the full reward."""
IMPROVEMENTS = ("success_ei", "ei")
"""Acquisitions with a natural zero: no improvement."""


def forecast_rewards(rows: Sequence[ForecastRow], acquisition: str, places: int) -> list[float]:
    """A reward from 0 to 1 for each row of a pool.

    Args:
        acquisition: name of the function that the rows were ranked by.
        places: ideas of the pool that are run.
    """
    worth = [_finite(row.acquisition) for row in rows]
    ranked = sorted((value for value in worth if value is not None), reverse=True)
    if not ranked:
        return [0.0] * len(rows)
    bar = ranked[min(len(ranked), max(1, places // BAR_SHARE)) - 1]
    # Other acquisitions have no zero, and may be negative: the worst new idea of the pool is worth nothing.
    floor = 0.0 if acquisition in IMPROVEMENTS else ranked[-1]
    return [0.0 if value is None else _scaled(value, floor, bar) for value in worth]


def fresh_share(rows: Sequence[ForecastRow]) -> float:
    """Share of the samples that are new ideas which can be run; 1 without a sample."""
    return sum(row.rank is not None for row in rows) / len(rows) if rows else 1.0


def _scaled(value: float, floor: float, bar: float) -> float:
    if value <= floor:
        return 0.0
    # Where fewer ideas than the bar's place are worth anything, the bar itself is 0.
    return 1.0 if value >= bar else (value - floor) / (bar - floor)


def _finite(value: float | None) -> float | None:
    # The journal stores a number that is none as null.
    return value if value is not None and math.isfinite(value) else None
