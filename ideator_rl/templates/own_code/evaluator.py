"""Trusted: measures what an experiment left.  Runs in a process of its own; nothing of the experiment is imported here.

The model's own code answers from a sandbox: tokens go out, logits come back, and the targets and the softmax stay on
this side.  Written for a language model over bytes: change `tokens` for another vocabulary, and all of it for another
metric; docs/environments.md shows other kinds.
"""

import numpy as np

from ideator_rl.executor.scoring import ScorerFailed

LENGTH, WINDOWS = 64, 256
"""Tokens a window, and windows at most: fixed, so that every experiment is measured on the same text."""


def evaluate(run) -> float:
    """Mean loss of the hidden text, in nats a token.

    `run.artifact` is what the experiment left: untrusted.  Hand it to a scorer, or read plain numbers and bounded JSON;
    never load code or pickles from it.  Raise `ScorerFailed` for an answer that cannot be used (status `failed`) and
    `Implausible` for one that is not believed (`invalid`).
    """
    rows = windows(run.private / "main")
    with run.open_scorer() as scorer:
        logits = scorer.logits(rows[:, :-1])
    return float(nats(logits, rows[:, 1:]).mean())


def windows(folder):
    """Token ids, int32 (windows, LENGTH + 1): each window's inputs and, one further, its targets."""
    text = np.frombuffer(b"".join(path.read_bytes() for path in sorted(folder.iterdir())), np.uint8)
    count = min(WINDOWS, len(text) // (LENGTH + 1))
    return text[: count * (LENGTH + 1)].reshape(count, LENGTH + 1).astype(np.int32)


def nats(logits, targets):
    """Loss of each target (B, T) under logits (B, T, V), in float64."""
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise ScorerFailed("the model gave logits that are not finite")
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None].astype(np.int64), -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen
