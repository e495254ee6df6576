"""Trusted: measures what an experiment left.  Runs in a process of its own; nothing of the experiment is imported here.

The model's own code answers from a sandbox: tokens go out, logits come back, and the targets and the softmax stay on
this side.  Written for a language model over bytes: change `windows` for another vocabulary, and all of it for another
metric; docs/how-to/environments.md shows other kinds.
"""

import numpy as np

from ideator_rl.evaluation import Audit, token_loss

LENGTH, WINDOWS = 64, 512
"""Tokens a window, and windows at most: fixed, so that every experiment is measured on the same text."""
AUDIT = Audit(tolerance=0.01)
"""A fresh process must predict as well from the beginnings of windows: a model that looks ahead is `invalid`."""


def evaluate(run) -> float:
    """Mean loss of the hidden text, in nats a token.

    `run.artifact` is what the experiment left: untrusted.  Hand it to a scorer, or read plain numbers and bounded JSON;
    never load code or pickles from it.  Raise `ScorerFailed` for an answer that cannot be used (status `failed`) and
    `Implausible` for one that is not believed (`invalid`).
    """
    return token_loss(run, windows(run.private / run.split), batch=64, audit=AUDIT)


def windows(folder):
    """Token ids, int (windows, LENGTH + 1): each window's inputs and, one further, its targets."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)
    count = min(WINDOWS, len(text) // (LENGTH + 1))
    return text[: count * (LENGTH + 1)].reshape(count, LENGTH + 1)
