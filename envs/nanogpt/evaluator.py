"""Validation loss of nanogpt: mean nats a token over fixed windows of held-out text.

Trusted: nothing of the experiment is imported here.  Every loss is audited: see `token_loss`.
"""

import numpy as np

from ideator_rl.evaluation import Audit, token_loss

CONTEXT = {"cpu": 64, "single_gpu": 1024, "paper": 1024}
"""Tokens a window."""
WINDOWS = {"cpu": 512, "single_gpu": 1024, "paper": 1024}
BATCH = {"cpu": 64, "single_gpu": 8, "paper": 8}
"""Windows a request."""
POSITIONS = {"cpu": None, "single_gpu": 64, "paper": 64}
"""Positions scored in each window; None for all.  1024 windows of 64 positions are 13 GB of logits, all of them 211."""
TOKEN = {"cpu": np.uint8, "single_gpu": np.uint16, "paper": np.uint16}
PUBLIC_TOKENS = 1 << 20
"""Read of the training data, at most."""
AUDIT = {
    # Every loss is audited: a model that knows its own loss could cheat to just above any bound.  Honest models on the
    # cpu: a gap below 1e-5; half precision on a GPU needs more room, how much is not measured yet.
    "cpu": Audit(tolerance=0.01),
    "single_gpu": Audit(tolerance=0.1),
    "paper": Audit(tolerance=0.1),
}


def evaluate(run) -> float:
    """Mean loss, nats a token."""
    tokens = windows(run.private, run.preset, run.split)
    # Scorers warm up on text of the training data: a model may know only the tokens that occur there.
    public = np.fromfile(run.public / "train.bin", TOKEN[run.preset], count=PUBLIC_TOKENS).astype(np.int32)
    return token_loss(run, tokens, BATCH[run.preset], AUDIT[run.preset], POSITIONS[run.preset], public=public)


def windows(private, preset, split="main") -> np.ndarray:
    """The windows, int32 (windows, context + 1): the same for every run, disjoint within and between splits."""
    data = np.fromfile(private / "val.bin", TOKEN[preset]).astype(np.int32)
    length, rng = CONTEXT[preset] + 1, np.random.default_rng(20260123)
    chosen = rng.choice(len(data) // length, WINDOWS[preset], replace=False)
    if split == "confirm":
        chosen = rng.choice(np.setdiff1d(np.arange(len(data) // length), chosen), WINDOWS[preset], replace=False)
    return np.stack([data[i * length : (i + 1) * length] for i in chosen])
