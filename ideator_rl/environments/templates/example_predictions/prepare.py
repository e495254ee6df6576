"""The data: points of a noisy curve, split into what experiments read and what only the evaluator reads.

Called once for each preset; the result is kept in the user's cache until this file changes.  Inputs that can be read
can be labelled by hand, so real environments use many.
"""

import numpy as np

SEED = 0  # of this environment alone: who knows it knows the hidden values
SIZES = {"train": 2_000, "main": 2_000, "confirm": 2_000}


def prepare(public, private, preset):
    """Write `train.csv` and the inputs `main.txt`, `confirm.txt` to public, their values to private."""
    rng = np.random.default_rng(SEED)
    height, waves = rng.uniform(1, 2, 3), rng.uniform(0.5, 2.5, 3)
    for name, size in SIZES.items():
        x = rng.uniform(-3, 3, size)
        y = (height * np.sin(waves * x[:, None])).sum(1) + rng.normal(0, 0.1, size)
        if name == "train":
            np.savetxt(public / "train.csv", np.c_[x, y], delimiter=",")
        else:
            np.savetxt(public / f"{name}.txt", x)
            y.tofile(private / f"{name}.values")
