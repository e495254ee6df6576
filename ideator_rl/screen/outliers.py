"""Outliers: rewards so far from all others that one of them would decide a fit or a mean alone.

A run that diverges may end with a loss of a million where others have three.  It is a success with a reward, and a
least-squares fit would explain that reward and nothing else.  A reward far above the others may be a breakthrough, so
there the order is kept, and only the distance is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

INNER = 0.1, 0.9
"""Quantiles between which most rewards lie …"""
FENCE = 3.0
"""… and how many times their distance a reward may be outside; of a normal distribution, 9 standard deviations."""
ROOM = 0.25
"""Of that distance, beyond the upper fence: where high outliers are moved to, in their order."""
LEAST = 8
"""Rewards without which none is called an outlier: of fewer, a single one is a quantile."""
LARGEST = 1e50
"""Beyond this on either side every reward counts as this one, so that squares and their sums are finite."""


def pulled_in(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The values, low outliers moved to their fence, high ones to little beyond theirs, in order.  [N]

    Values of which most are equal have no fences, and stay as they are up to `LARGEST`.
    """
    values_N = np.clip(np.asarray(values, np.float64), -LARGEST, LARGEST)
    if len(values_N) < LEAST:
        return values_N
    # Values that occur, and no mean of two: an outlier must not move its own fence.
    low = float(np.quantile(values_N, INNER[0], method="higher"))
    high = float(np.quantile(values_N, INNER[1], method="lower"))
    width = FENCE * (high - low)
    if width <= 0:
        return values_N
    excess_N = np.clip(values_N - (high + width), 0.0, None)
    room = ROOM * width
    return np.clip(values_N, low - width, high + width) + room * (excess_N / (excess_N + room))
