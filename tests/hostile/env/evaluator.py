"""Trusted: the loss of hidden text, each window audited at one length."""

import numpy as np

from ideator_rl.evaluation import Audit, token_loss

LENGTH, WINDOWS = 32, 256
AUDIT = Audit(tolerance=0.001)


def evaluate(run):
    text = np.fromfile(run.private / f"{run.split}.bin", np.uint8)
    return token_loss(run, text[: WINDOWS * (LENGTH + 1)].reshape(WINDOWS, LENGTH + 1), batch=32, audit=AUDIT)
