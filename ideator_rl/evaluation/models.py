"""The loss of a language model, where the experiment gains from a low loss.

Covered:
- the model's code gets token ids and returns logits; targets and softmax are the evaluator's
- a model that looks ahead within what it is sent, or remembers what it was sent before, is caught by an audit: a fresh
  process, which never saw a whole window, gets beginnings of windows, each window once, and must predict the next token
  as well as the full pass did at that position
- the windows and lengths of the audit come from the operating system's entropy, not from a seed

Not covered: a leak that gains less than the audit's tolerance on average, and one that the tokens themselves carry.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from ideator_rl.evaluation.losses import nats
from ideator_rl.scoring.scoring import Implausible, Request, ScoringRun

MAX_GAP = 10.0
"""Nats; a larger gap is recorded as this."""


@dataclass(frozen=True)
class Audit:
    """When and how a loss is audited."""

    tolerance: float
    """Nats; the most that the mean loss of `rows` next tokens at one length may exceed that of the full pass.  Set it a
    few times above the honest baseline's gap: float32 on a CPU gives below 1e-6, half precision on a GPU some
    hundredths.  A record's `audit_gap` is rounded to a tenth of it."""
    below: float | None = None
    """Nats; a worse loss is not audited.  None, the default, audits every loss: a model that knows its own loss can
    cheat to just above any bound, and a bad idea gains by that too."""
    lengths: int = 63
    """Most distinct lengths of beginnings."""
    rows: int = 8
    """Windows cut at each length."""


def token_loss(
    run: ScoringRun,
    tokens: np.ndarray,
    batch: int,
    audit: Audit,
    positions: int | None = None,
    seed: int = 0,
    public: np.ndarray | None = None,
) -> float:
    """Mean loss, nats a token, of windows of hidden text.

    Args:
        tokens: int (W, T + 1), windows that do not overlap; each position's target is the next token.
        batch: windows a request.
        positions: score only that many positions of each window, the same in all of them and in every experiment
            with this `seed`, so that losses stay paired; None scores all T.
        public: token ids that are not hidden, int (N,): the scorers warm up on windows of them.  None draws ids from
            the whole vocabulary, which a model that knows only the ids of its training data cannot answer.

    Raises:
        ScorerFailed: the model cannot be loaded or run, or its logits are not finite or of another shape.
        Implausible: the audit found that it predicts worse from what precedes alone.
    """
    tokens = np.asarray(tokens, np.int32)
    length = tokens.shape[1] - 1
    scored_K = np.arange(length)
    if positions is not None and positions < length:
        scored_K = np.sort(np.random.default_rng(seed).choice(length, positions, replace=False))
    losses_WK = _full_pass(run, tokens, batch, scored_K, public)
    loss = float(losses_WK.mean())
    run.notes.update({"tokens": losses_WK.size, "of_tokens": len(tokens) * length})
    if audit.below is None or loss < audit.below:
        gap = _audit(run, tokens, losses_WK, scored_K, audit, public)
        if not gap <= audit.tolerance:  # a gap that is not a number fails too
            rise = f"{gap:.2f}" if gap < MAX_GAP else f"over {MAX_GAP:g}"
            raise Implausible(f"The loss rose by {rise} nats when the model saw only what precedes the target.")
    return loss


def _full_pass(
    run: ScoringRun, tokens: np.ndarray, batch: int, scored_K: np.ndarray, public: np.ndarray | None
) -> np.ndarray:
    inputs, targets = tokens[:, :-1], tokens[:, 1:][:, scored_K]
    positions = None if len(scored_K) == inputs.shape[1] else scored_K
    starts = range(0, len(inputs), batch)
    with run.open_scorer(public=public) as scorer:
        scorer.load()
        started = time.monotonic()
        answers = scorer.stream([Request(inputs[i : i + batch], positions) for i in starts])
        losses = [nats(answer, targets[i : i + batch]) for i, answer in zip(starts, answers, strict=True)]
        run.notes.update(
            {
                "bytes": scorer.received,
                "seconds_loading": scorer.seconds_loading,
                "seconds_scoring": time.monotonic() - started,
            }
        )
    return np.concatenate(losses)


def _audit(
    run: ScoringRun,
    tokens: np.ndarray,
    losses_WK: np.ndarray,
    scored_K: np.ndarray,
    audit: Audit,
    public: np.ndarray | None,
) -> float:
    """The most, in nats, by which one length's next token is predicted worse from the beginning alone."""
    # No seed: an experiment could compute what a seeded draw will be.
    started, rng = time.monotonic(), np.random.default_rng()
    indices_L = rng.permutation(len(scored_K))[: min(audit.lengths, len(tokens) // audit.rows)]
    # No window is sent twice, so that a scorer that remembers has nothing to look up.
    rows_LR = rng.permutation(len(tokens))[: len(indices_L) * audit.rows].reshape(len(indices_L), audit.rows)
    requests = [
        Request(tokens[rows, : scored_K[index] + 1], [int(scored_K[index])])
        for index, rows in zip(indices_L, rows_LR, strict=True)
    ]
    gaps = []
    with run.open_scorer(public=public) as scorer:
        for index, rows, answer in zip(indices_L, rows_LR, scorer.stream(requests), strict=True):
            audited_R = nats(answer, tokens[rows, scored_K[index] + 1][:, None])[:, 0]
            gaps.append(float(np.mean(audited_R - losses_WK[rows, index])))
    gap = max(gaps, default=0.0)
    run.notes.update({"audit_gap": _rounded(gap, audit.tolerance), "seconds_audit": time.monotonic() - started})
    return gap


def _rounded(gap: float, tolerance: float) -> float | None:
    """The gap to a tenth of the tolerance: the model has seen hidden tokens and can choose all further digits."""
    if not math.isfinite(gap):
        return None
    # A gap of no meaning, such as 1e32, would have room for digits before the point.
    gap = max(-MAX_GAP, min(gap, MAX_GAP))
    return round(gap, max(0, 1 - math.floor(math.log10(tolerance))) if tolerance > 0 else 4)
