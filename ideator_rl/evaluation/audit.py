"""The audit of a loss: does the model predict as well from what precedes a token alone?

A fresh scorer gets beginnings of windows and answers the next token.  Beginnings come in ascending length, so that what
a scorer has seen of a window is a part of what it is sent next.  The first token of a window is the last target of the
window before: a window whose last target is asked for comes without the next one.  All other windows are audited in
turn, so that a leak on a few windows, or on every second one, is met.

How likely a leak is found: one that gains on a share f of the positions is met by at least one of n audited ones with
1 - (1 - f)^n.  A leak of 0.01 nats that gains 10 nats where it gains (f = 0.001) is met by 39 % of audits with 500
rows and by 87 % of those with 2,000; one that is spread over all positions is met by any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ideator_rl.evaluation.windows import Windows
from ideator_rl.scoring.remote_scorer import Request

MAX_GAP = 10.0
"""Nats; a larger gap is recorded as this."""
FEW_WINDOWS = 128
"""Below this many, one window is worth a leak of its own: then two scorers audit every window between them."""


@dataclass(frozen=True)
class Audit:
    """When and how a loss is audited.

    A gap is the loss of audited tokens minus the full pass's loss of the same tokens, nats a token.  Both bounds hold
    in both directions: a model that predicts better in the audit is not the same model.
    """

    tolerance: float
    """Nats; the most that the mean gap of the rows at one length may be.  Set it a few times above the honest
    baseline's: float32 on a CPU gives below 1e-6, half precision on a GPU some hundredths.  A record's `audit_gap` is
    rounded to a tenth of it."""
    below: float | None = None
    """Nats; a worse loss is not audited.  None, the default, audits every loss: a model that knows its own loss can
    cheat to just above any bound, and a bad idea gains by that too.  The split `final` is always audited."""
    lengths: int = 63
    """Most distinct lengths of beginnings, unless `min_rows` needs more."""
    rows: int = 8
    """Windows cut at each length."""
    mean: float | None = None
    """Nats; the most that the mean gap of all rows may be.  None for `tolerance`."""
    min_rows: int = 0
    """Tokens audited at least, over all lengths."""


@dataclass(frozen=True)
class Cut:
    """Rows of which the model sees the beginning up to one scored position, and predicts the next token."""

    index: int
    """Into `Windows.scored_K`."""
    rows: np.ndarray
    """int (R,)."""

    def requests(self, windows: Windows, tokens: int) -> list[Request]:
        """At most so many token ids each, but one row at least."""
        position = int(windows.scored_K[self.index])
        step = max(1, tokens // (position + 1))
        return [
            Request(windows.tokens[self.rows[i : i + step], : position + 1], [position])
            for i in range(0, len(self.rows), step)
        ]

    def targets(self, windows: Windows) -> np.ndarray:
        """int (R, 1)."""
        return windows.tokens[self.rows, windows.scored_K[self.index] + 1][:, None]


def draw(windows: Windows, audit: Audit) -> list[list[Cut]]:
    """What each scorer of an audit is asked, in order.

    Raises:
        ValueError: these windows allow fewer rows than `audit.min_rows`.
    """
    # No seed: an experiment could compute what a seeded draw will be.
    rng, count = np.random.default_rng(), len(windows.tokens)
    if count < FEW_WINDOWS:
        # Every second window for each scorer: no two follow one another.
        pools = [rng.permutation(np.arange(parity, count, 2)) for parity in rng.permutation(min(2, count))]
        least = -(-audit.min_rows // len(pools))
        shapes = [_shape(windows, audit, least, max(1, len(pool) // 2)) for pool in pools]
        return [_draw_cuts(rng, pool, None, windows, shape) for pool, shape in zip(pools, shapes, strict=True)]
    L, R = _shape(windows, audit, audit.min_rows, count // 6)
    # The last window may reach back over targets of the one before: only one of the two is sent.
    left_out = [count - 1 - rng.integers(2)] if windows.repeated else []
    ends = rng.choice(np.setdiff1d(_without_neighbours(rng, count), left_out), R, replace=False)
    pool = np.setdiff1d(np.arange(count), np.concatenate([ends, ends + 1, left_out]))
    return [_draw_cuts(rng, rng.permutation(pool), ends, windows, (L, R))]


def _without_neighbours(rng: np.random.Generator, count: int) -> np.ndarray:
    """A third of the numbers below `count`, any of them with a like chance, no two in a row; ascending, int (P,)."""
    heights = np.concatenate([[-1.0], rng.random(count), [-1.0]])
    # The peaks of a random line: no two of them are neighbours.
    return np.flatnonzero((heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:]))


def _shape(windows: Windows, audit: Audit, least: int, at_once: int) -> tuple[int, int]:
    """Lengths L, and windows R cut at each: at least so many rows in all, of at most so many windows at once.

    Raises:
        ValueError: there are not enough.
    """
    K = len(windows.scored_K)
    R = min(audit.rows, at_once)
    L = min(max(audit.lengths, -(-least // R)), K)
    R = max(R, -(-least // L))
    if at_once < R:
        raise ValueError(
            f"The audit wants {audit.min_rows} rows, and {len(windows.tokens)} windows of {windows.length} tokens "
            "allow fewer; lower min_rows or score more windows."
        )
    return L, R


def _draw_cuts(
    rng: np.random.Generator, pool: np.ndarray, ends: np.ndarray | None, windows: Windows, shape: tuple[int, int]
) -> list[Cut]:
    """Cuts at random positions of the windows of a pool, in turn, and last at the last position.

    Args:
        ends: the windows that are cut there, int (R,); None for those of the pool.
    """
    (L, R), K, last = shape, len(windows.scored_K), len(windows.tokens) - 1
    # Always the last position: its target begins the next window, which the full pass was sent as well.
    indices_L = np.append(np.sort(rng.choice(K - 1, L - 1, replace=False)), K - 1) if L > 1 else np.array([K - 1])
    cuts = []
    for number, index in enumerate(indices_L):
        # Two requests in a row share no window, since the second is sent before the first is answered.
        rows = pool[np.arange(number * R, (number + 1) * R) % len(pool)]
        if ends is not None and number == L - 1:
            rows = ends
        if windows.scored_K[index] < windows.repeated:
            rows = rows[rows != last]
        if len(rows):
            cuts.append(Cut(int(index), rows))
    return cuts


@dataclass(frozen=True)
class Gaps:
    """What an audit found, nats."""

    mean: float
    worst: float
    """The mean gap of one length that is furthest from 0; of neighbouring ones where one has too few rows."""
    rows: int

    @classmethod
    def of(cls, gaps_LR: list[np.ndarray], rows: int) -> Gaps:
        """From the gaps of each length's rows, averaged over at least `rows` of them."""
        flat = np.concatenate(gaps_LR)
        groups: list[np.ndarray] = []
        pending = np.empty(0)
        # From the longest on: the last position is in a group of its own where it has enough rows.
        for gaps_R in reversed(gaps_LR):
            pending = np.concatenate([pending, gaps_R])
            if len(pending) >= rows:
                groups.append(pending)
                pending = np.empty(0)
        if len(pending):
            groups.append(np.concatenate([groups.pop(), pending]) if groups else pending)
        means = [float(group.mean()) for group in groups]
        # A gap that is not a number counts as the worst.
        worst = max(means, key=lambda gap: math.inf if math.isnan(gap) else abs(gap))
        return cls(float(flat.mean()), worst, len(flat))

    def exceeded(self, audit: Audit) -> str:
        """The sentence for the record if a bound is exceeded; empty if none is."""
        bounds = ((self.mean, audit.tolerance if audit.mean is None else audit.mean), (self.worst, audit.tolerance))
        for gap, bound in bounds:
            if not abs(gap) <= bound:  # a gap that is not a number fails too
                size = abs(rounded(gap, bound) or MAX_GAP)
                change = "fell" if gap < 0 else "rose"
                amount = f"{size:g}" if size < MAX_GAP else f"over {MAX_GAP:g}"
                return f"The loss {change} by {amount} nats when the model saw only what precedes the target."
        return ""

    def notes(self, audit: Audit) -> dict[str, float | int | None]:
        """For the record."""
        mean = rounded(self.mean, audit.tolerance if audit.mean is None else audit.mean)
        return {"audit_gap": rounded(self.worst, audit.tolerance), "audit_mean": mean, "audit_rows": self.rows}


def rounded(gap: float, tolerance: float) -> float | None:
    """The gap to a tenth of the tolerance: the model has seen hidden tokens and can choose all further digits."""
    if not math.isfinite(gap):
        return None
    # A gap of no meaning, such as 1e32, would have room for digits before the point.
    gap = max(-MAX_GAP, min(gap, MAX_GAP))
    return round(gap, max(0, 1 - math.floor(math.log10(tolerance))) if tolerance > 0 else 4)
