"""Trusted: the loss of hidden text, each window audited at one length."""

import numpy as np

from ideator_rl.evaluation import Audit, token_loss

LENGTH, WINDOWS = 32, 256
AUDIT = Audit(tolerance=0.001)


def evaluate(run):
    text = np.fromfile(run.private / f"{run.split}.bin", np.uint8)
    windows = text[: WINDOWS * (LENGTH + 1)].reshape(WINDOWS, LENGTH + 1)
    public = np.fromfile(run.public / "train.bin", np.uint8)
    return token_loss(run, windows, batch=32, audit=AUDIT, public=public)
