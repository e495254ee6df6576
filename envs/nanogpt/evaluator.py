"""Validation loss of nanogpt: mean nats a token over fixed windows of held-out text.

Trusted: nothing of the experiment is imported here.  A scorer process answers token ids with logits; targets
and log-softmax stay on this side.  A loss good enough to matter is audited: a fresh scorer, which never saw
the whole windows, gets only their beginnings, and must predict the next token as well as it did before.  A
model that looks ahead cannot.
"""

import numpy as np

from ideator_rl.executor.scoring import Implausible, ScorerFailed

CONTEXT = {"cpu": 64, "single_gpu": 1024, "paper": 1024}
"""Tokens a window."""
WINDOWS = {"cpu": 512, "single_gpu": 1024, "paper": 1024}
BATCH = {"cpu": 64, "single_gpu": 8, "paper": 8}
"""Windows a request."""
AUDIT_BELOW = {"cpu": 2.65, "single_gpu": 3.40, "paper": 3.255}
"""Nats; a worse loss than this (about the baseline's) gains nothing by cheating."""
LENGTHS, ROWS = 63, 8
"""Most distinct beginnings in an audit, and windows cut at each length."""
TOLERANCE = {"cpu": 0.01, "single_gpu": 0.1, "paper": 0.1}
"""Nats; most that the mean loss at one length may exceed that of the same tokens within the full windows.
Honest models on the cpu: below 1e-6; half precision on a GPU needs more room."""


def evaluate(run) -> float:
    """Mean loss, nats a token.

    Raises:
        ScorerFailed: the scorer's logits are not finite or not of the expected shape.
        Implausible: the audit found a model that reads what it should predict.
    """
    tokens = windows(run.private, run.preset)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    losses_WT = _losses(run, inputs, targets)
    loss = float(losses_WT.mean())
    if loss < AUDIT_BELOW[run.preset]:
        gap = _audit(run, inputs, targets, losses_WT)
        if gap > TOLERANCE[run.preset]:
            raise Implausible(f"The loss rose by {gap:.3f} nats when the model saw only what precedes the target.")
    return loss


def windows(private, preset) -> np.ndarray:
    """The windows, int32 (windows, context + 1): the same for every run, disjoint, in random order."""
    data = np.fromfile(private / "val.bin", np.uint8 if preset == "cpu" else np.uint16).astype(np.int32)
    length, rng = CONTEXT[preset] + 1, np.random.default_rng(20260123)
    chosen = rng.choice(len(data) // length, WINDOWS[preset], replace=False)
    return np.stack([data[i * length : (i + 1) * length] for i in chosen])


def _losses(run, inputs, targets) -> np.ndarray:
    step = BATCH[run.preset]
    with run.open_scorer() as scorer:
        return np.concatenate(
            [nats(scorer.logits(inputs[i : i + step]), targets[i : i + step]) for i in range(0, len(inputs), step)]
        )


def _audit(run, inputs, targets, losses_WT) -> float:
    """The most, in nats, by which one length's next token is predicted worse from the beginning alone.

    No window is sent twice, so that a scorer that remembers has nothing to look up.
    """
    rng = np.random.default_rng()
    lengths = rng.permutation(np.arange(1, CONTEXT[run.preset]))[:LENGTHS]
    rows_LR = rng.permutation(len(inputs))[: len(lengths) * ROWS].reshape(len(lengths), ROWS)
    gaps = []
    with run.open_scorer() as scorer:
        for length, rows in zip(lengths, rows_LR, strict=True):
            logits = scorer.logits(inputs[rows, :length])
            alone = nats(logits, targets[rows, :length])[:, -1]
            gaps.append(np.mean(alone - losses_WT[rows, length - 1]))
    return float(np.max(gaps))


def nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Loss of each target under logits (B, T, V), in float64.

    Raises:
        ScorerFailed: a logit is not finite, or the shape does not fit the targets.
    """
    if logits.ndim != 3 or logits.shape[:2] != targets.shape or logits.shape[2] <= targets.max():
        raise ScorerFailed(
            f"The model gave logits of shape {logits.shape} for targets of shape {targets.shape}; "
            "expected (B, T, vocab)."
        )
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise ScorerFailed("The model gave logits that are not finite; expected finite numbers.")
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None].astype(np.int64), -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen
