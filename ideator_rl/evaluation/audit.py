"""The audit of a loss: does the model predict as well from what precedes a token alone?

A fresh scorer gets beginnings of windows and answers the next token.  Beginnings come in ascending length, so that what
a scorer has seen of a window is a part of what it is sent next.  The first token of a window is the last target of the
window before: a window whose last target is asked for comes without the next one.  All other windows are audited in
turn, and all positions: each as often as any other, within one row.

How likely a leak is found: it gains at some pairs of a window and a position, a share f of all, which do not depend on
the draw.  All of n audited rows miss them with at most e^(-(n - 1) f), whether they lie at few positions of all
windows, in some windows, or anywhere.  A leak of 0.01 nats that gains 10 nats where it gains (f = 0.001) is met by 39 %
of audits with 500 rows and by 86 % of those with 2,000.  A leak at one of K positions, in all windows, is always met
where n >= K (n of one scorer, with fewer than 128 windows), else by about n / K.  One in a single of W windows may be
missed by 2 (n / K + 1) / W more, where one scorer audits all: that window is asked for its last target, or follows one
that is.

What it costs: a request for each audited position, so min(n, K) lengths, of n / K rows.  Two scorers that divide n rows
take up to twice as many requests, and each loads the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from ideator_rl.evaluation.windows import Windows
from ideator_rl.scoring.remote_scorer import Request

MAX_GAP = 10.0
"""Nats; a larger gap is recorded as this."""
FEW_WINDOWS = 128
"""Below this many, a single window is worth a leak: then two scorers audit every window between them."""


@dataclass(frozen=True)
class Audit:
    """When and how a loss is audited.

    A gap is the loss of audited tokens minus the full pass's loss of the same tokens, nats a token.  Both bounds hold
    in both directions: a model that predicts better in the audit is not the same model.
    """

    tolerance: float
    """Nats; the most that the mean gap of the rows at one length may be, or of `rows` rows at neighbouring ones.  Set
    it a few times above the honest baseline's: float32 on a CPU gives below 1e-6, half precision on a GPU some
    hundredths.  A record's `audit_gap` is rounded to a tenth of it."""
    below: float | None = None
    """Nats; a worse loss is not audited.  None, the default, audits every loss: a model that knows its own loss can
    cheat to just above any bound, and a bad idea gains by that too.  The split `final` is always audited."""
    lengths: int = 63
    """An audit asks for `rows` times as many tokens, or for more if `min_rows` needs more; with fewer than 128 windows,
    each of its two scorers does.  They are spread over all scored positions: of more positions than `lengths`, up to
    `lengths * rows` are asked, one request for each, of few rows.  Where there are fewer, these count."""
    rows: int = 8
    """Tokens whose gaps are averaged before `tolerance` is applied; fewer where there are few windows."""
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


def draw(windows: Windows, audit: Audit, seed: Sequence[int] | None = None) -> list[list[Cut]]:
    """What each scorer of an audit is asked, in order.

    Args:
        seed: out of the experiment's reach, so that it cannot compute the draw; None for the system's entropy.

    Raises:
        ValueError: these windows allow fewer rows than `audit.min_rows`.
    """
    rng, count = np.random.default_rng(seed), len(windows.tokens)
    # Where the last window reaches back over targets of the one before, no scorer may get both.
    if count < FEW_WINDOWS or windows.repeated:
        # Every second window for each scorer: no two follow one another.
        pools = [rng.permutation(np.arange(parity, count, 2)) for parity in rng.permutation(min(2, count))]
        at_once = [max(1, (len(pool) - bool(windows.repeated)) // 2) for pool in pools]
        if count < FEW_WINDOWS:
            least = -(-audit.min_rows // len(pools))
            rows = [_draw_rows(rng, windows, audit, least, most) for most in at_once]
        else:
            # As many rows as for one scorer: a model that chooses its context must not double what an audit costs.
            rows_K = _draw_rows(rng, windows, audit, audit.min_rows, 2 * min(at_once))
            half_K = (rows_K + rng.integers(2, size=len(rows_K))) // 2
            rows = [half_K, rows_K - half_K]
        return [_cuts(pool, None, windows, rows_K) for pool, rows_K in zip(pools, rows, strict=True)]
    rows_K = _draw_rows(rng, windows, audit, audit.min_rows, count // 6)
    ends = rng.choice(_without_neighbours(rng, count), rows_K[-1], replace=False)
    pool = np.setdiff1d(np.arange(count), np.concatenate([ends, ends + 1]))
    return [_cuts(rng.permutation(pool), ends, windows, rows_K)]


def _without_neighbours(rng: np.random.Generator, count: int) -> np.ndarray:
    """A third of the numbers below `count`, any of them with a like chance, no two in a row; ascending, int (P,)."""
    heights = np.concatenate([[-1.0], rng.random(count), [-1.0]])
    # The peaks of a random line: no two of them are neighbours.
    return np.flatnonzero((heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:]))


def _draw_rows(rng: np.random.Generator, windows: Windows, audit: Audit, least: int, at_once: int) -> np.ndarray:
    """How many windows are cut at each position, int (K,): at least `least` in all, at most `at_once` at one.

    Raises:
        ValueError: there are not enough.
    """
    K = len(windows.scored_K)
    total = max(least, min(audit.lengths, K) * min(audit.rows, at_once))
    rows_K, further = np.full(K, total // K), total % K
    if further:
        # Always the last position: its target begins the next window, which the full pass was sent as well.
        rows_K[-1] += 1
        rows_K[rng.choice(K - 1, further - 1, replace=False)] += 1
    if at_once < rows_K[-1]:
        raise ValueError(
            f"The audit wants {audit.min_rows} rows, and {len(windows.tokens)} windows of {windows.length} tokens "
            "allow fewer; lower min_rows or score more windows."
        )
    return rows_K


def _cuts(pool: np.ndarray, ends: np.ndarray | None, windows: Windows, rows_K: np.ndarray) -> list[Cut]:
    """Cuts of the windows of a pool, in turn, at ascending positions.

    Args:
        ends: the windows that are cut at the last position; None for those of the pool.
        rows_K: how many are cut at each position.
    """
    last, cuts = len(windows.tokens) - 1, []
    # Two requests in a row share no window, since the second is sent before the first is answered.
    in_turn = cycle(pool)
    for index in np.flatnonzero(rows_K):
        rows: Iterator[int] = iter(ends) if ends is not None and index == len(rows_K) - 1 else in_turn
        if windows.scored_K[index] < windows.repeated:
            # Scored in the window before the last one only.
            if len(pool) == 1 and last in pool:
                continue
            rows = (row for row in rows if row != last)
        cuts.append(Cut(int(index), np.fromiter(islice(rows, rows_K[index]), int)))
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
