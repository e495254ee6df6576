"""The loss of a language model, where the experiment gains from a low loss.

Covered:
- the model's code gets token ids and returns logits; targets and softmax are the evaluator's
- a model that looks ahead within what it is sent, or remembers what it was sent before, is caught by an audit: a fresh
  process, which never saw a whole window, gets beginnings of windows and must predict the next token as the full pass
  did at that position
- the windows and lengths of the audit come from the operating system's entropy, drawn outside of the experiment's
  reach; a repeated measurement asks the same, and audits once more
- the model chooses how many tokens it sees at once, but not which tokens count

Not covered: a leak that gains less than the audit's tolerance on average, and one that the tokens themselves carry; a
model that spends more on what it takes for the audit, to hide a leak.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ideator_rl.evaluation.audit import Audit, Gaps, draw
from ideator_rl.evaluation.losses import loss_device, nats, registered
from ideator_rl.evaluation.windows import Windows, windows_of
from ideator_rl.scoring.remote_scorer import BEGIN, STEP, Request
from ideator_rl.scoring.scoring import Implausible, Scorer, ScorerFailed, ScoringRun

CONTEXT = 1024
"""Tokens a window, where neither the model nor the evaluator sets them."""
ALWAYS_AUDITED = "final"
"""The split of reported results."""


def token_loss(
    run: ScoringRun,
    tokens: np.ndarray,
    batch: int,
    audit: Audit,
    positions: int | None = None,
    seed: int = 0,
    public: np.ndarray | None = None,
    *,
    vocab: int | None = None,
    context: int = CONTEXT,
) -> float:
    """Mean loss, nats a token, of a hidden text.

    Args:
        tokens: int (N,), a text, cut into windows by `windows_of`: of as many tokens as the model carries as its
            `context`, or of `context`.  Or int (W, T + 1): windows, which do not overlap but for one token.
        batch: windows of `context` tokens a request; fewer where an answer would not fit in a slot, or windows are
            longer.
        positions: score only that many positions of each window, the same in all of them and in every experiment
            with this `seed`, so that losses stay paired; None scores all.
        public: token ids that are not hidden, int (N,): the scorers warm up on windows of them.  None draws ids from
            the whole vocabulary, which a model that knows only the ids of its training data cannot answer.
        vocab: classes that count, all targets among them.  A model may then carry a larger `vocab`; the logits from
            here on are left out.  None for the preset's, exactly.
        context: tokens a window of a model that carries no `context`.

    Raises:
        ScorerFailed: the model cannot be loaded or run, or its logits are not finite or of another shape.
        Implausible: the audit found that it predicts otherwise from what precedes alone.
    """
    pass_ = _Pass(run, np.asarray(tokens, np.int32), batch, positions, seed, public, vocab, context)
    windows, losses_WK = pass_.full()
    counted_WK = windows.counted_WK()
    loss = float(losses_WK[counted_WK].mean())
    of_tokens = len(windows.tokens) * windows.length - windows.repeated
    run.notes.update({"tokens": int(counted_WK.sum()), "of_tokens": of_tokens, "context": windows.length})
    if audit.below is None or loss < audit.below or run.split == ALWAYS_AUDITED:
        started, first = time.monotonic(), len(run.spent)
        # A measurement that is repeated audits more than once: each audit must pass.
        for audit_seed in run.audit_seeds:
            # The scorers of a further audit have the limits of the first one's, and replace them in the cost.
            del run.spent[first:]
            # With the scorers so far, so that the audits of two texts in one measurement differ.
            gaps = pass_.gaps(windows, losses_WK, audit, None if audit_seed is None else [audit_seed, first])
            run.notes.update(gaps.notes(audit) | {"seconds_audit": time.monotonic() - started})
            if exceeded := gaps.exceeded(audit):
                raise Implausible(exceeded)
    return loss


def step_loss(
    run: ScoringRun,
    tokens: np.ndarray,
    batch: int,
    count: int | None = None,
    seed: int = 0,
    public: np.ndarray | None = None,
    *,
    vocab: int | None = None,
    context: int = CONTEXT,
) -> float:
    """Mean loss, nats a token, where each token is sent only once the logits for it are here.

    As the paper validates: slow, and nothing is left to audit, since the model has no token ahead of time.  A model
    that carries `steps` may keep a cache of keys and values; another one computes the whole beginning for each token.
    A few targets are not scored: the last one of a window where the next window begins with it and was sent before.
    There are fewer than `batch` of them.

    Args:
        tokens, batch, public, vocab, context: as `token_loss`.
        count: windows to score, drawn by `seed`; None for all.

    Raises:
        ScorerFailed: as `token_loss`.
    """
    pass_ = _Pass(run, np.asarray(tokens, np.int32), batch, None, 0, public, vocab, context)
    windows, losses_WK = pass_.stepwise(count, seed)
    counted_WK = windows.counted_WK() & ~np.isnan(losses_WK)
    run.notes.update({"tokens": int(counted_WK.sum()), "context": windows.length})
    return float(losses_WK[counted_WK].mean())


class _Pass:
    """One measurement's arguments; each method starts scorers of its own."""

    def __init__(
        self, run: ScoringRun, tokens: np.ndarray, batch: int, positions: int | None, seed: int,
        public: np.ndarray | None, vocab: int | None, context: int,
    ):  # fmt: skip
        self._run, self._tokens, self._batch, self._positions, self._seed = run, tokens, batch, positions, seed
        self._vocab, self._context = vocab, context
        self._opening: dict[str, Any] = {"public": public} | ({} if vocab is None else {"least": vocab})

    def full(self) -> tuple[Windows, np.ndarray]:
        """The windows, and the loss of each scored position, float64 (W, K)."""
        with self._run.open_scorer(**self._opening) as scorer:
            scorer.load()
            windows = self._windows(scorer)
            started = time.monotonic()
            losses_WK = np.empty((len(windows.tokens), len(windows.scored_K)))
            targets_WK = windows.tokens[:, 1:][:, windows.scored_K]
            # As many tokens a request, whatever the windows' length.
            batch = max(1, self._batch * self._context // windows.length) if self._tokens.ndim == 1 else self._batch
            parts = windows.requests(batch, scorer.positions_in_slot)
            with registered(scorer.memory, loss_device()) as direct:
                answers = scorer.stream([request for _, _, request in parts])
                for (rows, indices, _), answer in zip(parts, answers, strict=True):
                    losses_WK[rows, indices] = nats(answer, targets_WK[rows, indices], self._vocab)
            self._run.notes.update(
                {
                    "bytes": scorer.received,
                    "device": loss_device() + (", direct" if direct else ""),
                    "seconds_loading": scorer.seconds_loading,
                    "seconds_scoring": time.monotonic() - started,
                }
            )
        return windows, losses_WK

    def stepwise(self, count: int | None, seed: int) -> tuple[Windows, np.ndarray]:
        """The windows, and the loss of each position, float64 (W, T); NaN for what is not scored.

        These are windows that were not drawn, and targets that were sent before they were asked for.
        """
        with self._run.open_scorer(**self._opening) as scorer:
            scorer.load()
            windows = self._windows(scorer)
            rows = np.arange(len(windows.tokens))
            if count is not None and count < len(rows):
                rows = np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))
            losses_WT = np.full((len(windows.tokens), windows.length), np.nan)
            scorer.warm_up([(min(self._batch, len(rows)), 4)], stepwise=True)
            started = time.monotonic()
            # A window's first token is the last target of the one before, which comes in the batch before.  The last
            # window may reach back over more targets: it is in the last batch, and the one before is not.
            batches = max(-(-len(rows) // self._batch), min(len(rows), 2) if windows.repeated else 1)
            for number in range(batches):
                chosen = rows[(len(rows) + number) % batches :: batches]
                tokens = windows.tokens[chosen]
                requests = [Request(tokens[:, i : i + 1], None, STEP if i else BEGIN) for i in range(windows.length)]
                for i, answer in enumerate(scorer.stream(requests, ahead=False)):
                    losses_WT[chosen, i] = nats(answer, tokens[:, i + 1 : i + 2], self._vocab)[:, 0]
            # Of the last batch, the windows after it came before, or with it where it is the only one.
            followed = chosen[np.isin(chosen + 1, rows)]
            # Windows that an evaluator cut itself may have gaps between them.
            continued = windows.tokens[followed, -1] == windows.tokens[followed + 1, 0]
            losses_WT[followed[continued], -1] = np.nan
            self._run.notes.update({"seconds_scoring": time.monotonic() - started})
        return windows, losses_WT

    def gaps(self, windows: Windows, losses_WK: np.ndarray, audit: Audit, seed: Sequence[int] | None) -> Gaps:
        """How much worse each audited token is predicted from the beginning of its window alone."""
        gaps_LR = []
        for cuts in draw(windows, audit, seed):
            with self._run.open_scorer(**self._opening) as scorer:
                scorer.load()
                if self._tokens.ndim == 1 and self._windows(scorer).length != windows.length:
                    raise ScorerFailed("the model carried another context when it was loaded again")
                ahead = all(not np.intersect1d(a.rows, b.rows).size for a, b in zip(cuts, cuts[1:], strict=False))
                # No more tokens at once than in the full pass, which may hold them all with their logits.
                parts = [cut.requests(windows, self._batch * self._context) for cut in cuts]
                answers = scorer.stream([request for requests in parts for request in requests], ahead)
                for cut, requests in zip(cuts, parts, strict=True):
                    targets_R = cut.targets(windows)
                    step = len(requests[0].tokens)
                    audited = [
                        nats(next(answers), targets_R[i : i + step], self._vocab)[:, 0]
                        for i in range(0, len(targets_R), step)
                    ]
                    gaps_LR.append(np.concatenate(audited) - losses_WK[cut.rows, cut.index])
        return Gaps.of(gaps_LR, audit.rows)

    def _windows(self, scorer: Scorer) -> Windows:
        """The windows as a loaded model wants them."""
        if self._tokens.ndim == 1:
            tokens_WT = windows_of(self._tokens, scorer.context or self._context)
        else:
            tokens_WT = self._tokens
        length = tokens_WT.shape[1] - 1
        scored_K = np.arange(length)
        if self._positions is not None and self._positions < length:
            chosen = np.random.default_rng(self._seed).choice(length, self._positions, replace=False)
            scored_K = np.sort(chosen)
        repeated = len(tokens_WT) * length - (len(self._tokens) - 1) if self._tokens.ndim == 1 else 0
        return Windows(tokens_WT, scored_K, repeated)
