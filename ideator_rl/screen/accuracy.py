"""How good forecasts were, once the outcomes are known: for a gate, a report, and studies of finished runs.

All figures are *prequential* where the forecasts are: made before the outcome that they are compared with.  A figure
that needs more data than there are is None, never a number that looks like one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

import numpy as np
from scipy.stats import kendalltau, norm, t

BINS = 10
"""Of a reliability diagram."""
LEVEL = 0.8
"""Probability of the interval whose coverage is measured."""
SHARE = 1 / 6
"""Share of a pool that counts as its best by forecast."""


@dataclass(frozen=True)
class Bin:
    """Ideas whose forecast chance of success lies between two bounds."""

    low: float
    high: float
    count: int
    forecast: float
    """Mean forecast chance."""
    observed: float
    """Share that succeeded."""


def reliability(chances: Sequence[float], successes: Sequence[bool], bins: int = BINS) -> list[Bin]:
    """Forecast chance against observed share, by equal ranges of the chance; ranges without an idea are left out.

    Args:
        chances: [N], each from 0 to 1.
        successes: [N]
    """
    chance, success = np.asarray(chances, float), np.asarray(successes, float)
    # A chance of exactly 1 belongs to the last range.
    index = np.minimum((chance * bins).astype(int), bins - 1)
    return [
        Bin(k / bins, (k + 1) / bins, int(own.sum()), float(chance[own].mean()), float(success[own].mean()))
        for k in range(bins)
        if (own := index == k).any()
    ]


def pair_counts(forecasts: Sequence[float], outcomes: Sequence[float]) -> tuple[float, int]:
    """Pairs that the forecast orders as the outcome does, and pairs whose outcomes differ.

    A pair with equal forecasts counts as half.

    Args:
        forecasts, outcomes: [N]
    """
    forecast, outcome = np.asarray(forecasts, float), np.asarray(outcomes, float)
    compared, with_order = _unequal_pairs(outcome), _unequal_pairs(forecast)
    if not compared or not with_order:
        return compared / 2, compared
    # Kendall's tau-b is the number of pairs in order minus that of pairs in reverse, over this root.
    tau = kendalltau(forecast, outcome).statistic
    surplus = round(tau * sqrt(compared) * sqrt(with_order))
    return (compared + surplus) / 2, compared


def _unequal_pairs(values: np.ndarray) -> int:
    """How many pairs of these values differ."""
    counts = np.unique(values, return_counts=True)[1].astype(object)  # integers of any size
    return int(len(values) * (len(values) - 1) // 2 - sum(count * (count - 1) // 2 for count in counts))


def pair_accuracy(pools: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Share of pairs within a pool that the forecast orders as the outcome does; 0.5 is chance.

    Args:
        pools: forecasts [n] and outcomes [n] of each pool; pairs across pools are not compared.

    Returns:
        None without a pair of different outcomes.
    """
    counts = [pair_counts(forecasts, outcomes) for forecasts, outcomes in pools]
    pairs = sum(count for _, count in counts)
    return sum(right for right, _ in counts) / pairs if pairs else None


def coverage(
    means: Sequence[float], deviations: Sequence[float], outcomes: Sequence[float], level: float = LEVEL
) -> float | None:
    """Share of outcomes inside the central interval of their normal forecast; None without an outcome.

    Args:
        means, deviations, outcomes: [N], in one unit.
        level: probability of the interval, which a calibrated forecast covers.
    """
    if not len(outcomes):
        return None
    distance = np.abs(np.asarray(outcomes, float) - np.asarray(means, float))
    inside = distance <= interval_width(level) * np.asarray(deviations, float)
    return float(inside.mean())


def interval_width(level: float = LEVEL) -> float:
    """Half the width of the central interval of a normal distribution, in standard deviations."""
    return float(norm.ppf((1 + level) / 2))


def gains(rewards: Sequence[float | None], best: float | None) -> list[float]:
    """By how much each outcome improves on the best so far; 0 for a failure.

    Args:
        rewards: [N] of successes; None for a failure.
        best: best reward before; None for none, and then nothing counts as a gain.
    """
    if best is None:
        return [0.0] * len(rewards)
    return [0.0 if reward is None else max(0.0, reward - best) for reward in rewards]


def kept(ranking: Sequence[float], values: Sequence[float], share: float = SHARE) -> float:
    """Sum of the values in the best-ranked share of a pool.

    The share of a small pool is no whole number of ideas: the last idea counts in part, so that a random ranking keeps
    exactly `share` of the sum on average.  Ideas of equal rank share their weight.

    Args:
        ranking: [n], larger is better.
        values: [n], what each idea is worth, such as its gain.
        share: from 0 to 1.
    """
    rank, value = np.asarray(ranking, float), np.asarray(values, float)
    room, total = share * len(value), 0.0
    for level in sorted(set(rank.tolist()), reverse=True):
        # Ideas of equal rank are in no order: each counts with the part that still has room.
        own = value[rank == level]
        taken = min(room, len(own))
        total += taken * float(own.mean())
        room -= taken
        if room <= 0:
            break
    return total


def kept_share(pools: Sequence[tuple[Sequence[float], Sequence[float]]], share: float = SHARE) -> float | None:
    """Share of all value that lies in the best-ranked share of each pool; `share` itself is chance.

    Args:
        pools: ranking [n] and values [n] of each pool, values at least 0.

    Returns:
        None where no idea is worth anything.
    """
    total = sum(float(np.sum(values)) for _, values in pools)
    return sum(kept(ranking, values, share) for ranking, values in pools) / total if total else None


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean of these values; None for fewer than two."""
    if len(values) < 2:
        return None
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return mean(values) - half, mean(values) + half
