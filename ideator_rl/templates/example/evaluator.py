"""Trusted: measures what an experiment left.  Runs in a process of its own; nothing of the experiment is imported here.

The model's own code answers from a sandbox: characters go out, logits come back, and the targets and the softmax stay
on this side.
"""

import numpy as np

from ideator_rl.executor.scoring import ScorerFailed

LENGTH, WINDOWS = 64, 256
"""Characters a window, and windows: fixed, so that every experiment is measured on the same text."""


def evaluate(run) -> float:
    """Mean loss of the hidden text, in nats a character.

    `run.artifact` is what the experiment left: untrusted.  Hand it to a scorer, or read plain numbers and bounded JSON;
    never load code or pickles from it.  Raise `ScorerFailed` for an answer that cannot be used (status `failed`) and
    `Implausible` for one that is not believed (`invalid`).
    """
    text = np.frombuffer((run.private / "main.bin").read_bytes(), np.uint8).astype(np.int32)
    tokens = text[: WINDOWS * (LENGTH + 1)].reshape(WINDOWS, LENGTH + 1)
    with run.open_scorer() as scorer:
        logits = scorer.logits(tokens[:, :-1])
    return float(nats(logits, tokens[:, 1:]).mean())


def nats(logits, targets):
    """Loss of each target (B, T) under logits (B, T, V), in float64."""
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise ScorerFailed("the model gave logits that are not finite")
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None].astype(np.int64), -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen
