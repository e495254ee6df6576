"""What a policy learns from forecasts: a reward for each sampled idea, whether it was run or not.

    reward = min(a / a*, 1)       a: acquisition of the idea, a*: that of one of the best in the pool

Where every expected improvement is too small for a float, the ranks of the ideas are in the place of a: they come from
logarithms, which still have an order.

Known and unreadable ideas have the reward 0.  All rows of a batch carry forecasts, those that were run too: measured
rewards are on another scale, and would favour or punish whatever happened to be run.

Guarantees: a pure function of the journal's rows, so that a resumed run learns from the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ideator_rl.screen.acquisition import IMPROVEMENTS
from ideator_rl.storage.forecasts import ForecastRow

BAR_SHARE = 4
"""The acquisition of the best 1 / 4 of the places is worth the full reward."""


def forecast_rewards(rows: Sequence[ForecastRow], acquisition: str, places: int) -> list[float]:
    """A reward from 0 to 1 for each row of a pool.

    Args:
        acquisition: name of the function that the rows were ranked by.
        places: ideas of the pool that are run.
    """
    worth = [_finite(row.acquisition) for row in rows]
    if acquisition in IMPROVEMENTS and not any(worth):
        return _rewards_by_rank(rows, acquisition, places)
    ranked = sorted((value for value in worth if value is not None), reverse=True)
    if not ranked:
        return [0.0] * len(rows)
    bar = ranked[_bar_place(places, len(ranked))]
    # Other acquisitions have no zero, and may be negative: the worst new idea of the pool is worth nothing.
    floor = 0.0 if acquisition in IMPROVEMENTS else ranked[-1]
    return [0.0 if value is None else _scaled(value, floor, bar) for value in worth]


def _rewards_by_rank(rows: Sequence[ForecastRow], acquisition: str, places: int) -> list[float]:
    """1 down to the rank of the bar, and from there evenly down to 0 for the last new idea."""
    # An idea without a chance to succeed is worth nothing, also where a float has no room for what others are worth.
    ranks = [None if acquisition == "success_ei" and not row.success else row.rank for row in rows]
    last = max((rank for rank in ranks if rank is not None), default=0)
    bar = _bar_place(places, last + 1)
    return [0.0 if rank is None else _scaled(-rank, -last, -bar) for rank in ranks]


def _bar_place(places: int, count: int) -> int:
    """Place of the bar among so many ideas, the best first, from 0."""
    return min(count, max(1, places // BAR_SHARE)) - 1


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
