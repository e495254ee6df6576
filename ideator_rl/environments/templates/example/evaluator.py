"""Trusted: measures what an experiment left.  Runs in a process of its own; nothing of the experiment is imported here.

The model's own code answers from a sandbox: characters go out, logits come back, and the targets and the softmax stay
on this side.
"""

import numpy as np

from ideator_rl.evaluation import Audit, token_loss

LENGTH, WINDOWS = 64, 512
"""Characters a window, and windows: fixed, so that every experiment is measured on the same text."""
AUDIT = Audit(tolerance=0.001)
"""A fresh process must predict as well from the beginnings of windows: a model that looks ahead is `invalid`."""


def evaluate(run) -> float:
    """Mean loss of the hidden text, in nats a character.

    `run.artifact` is what the experiment left: untrusted.  Hand it to a scorer, or read plain numbers and bounded JSON;
    never load code or pickles from it.  Raise `ScorerFailed` for an answer that cannot be used (status `failed`) and
    `Implausible` for one that is not believed (`invalid`).
    """
    text = np.fromfile(run.private / f"{run.split}.bin", np.uint8)
    tokens = text[: WINDOWS * (LENGTH + 1)].reshape(WINDOWS, LENGTH + 1)
    return token_loss(run, tokens, batch=128, audit=AUDIT)
