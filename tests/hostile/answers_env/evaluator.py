"""Trusted: draws continuations of patterns such as `cfil`, and grades them."""

import numpy as np

from ideator_rl.evaluation import graded

PROMPTS = 128


def evaluate(run):
    rng = np.random.default_rng(7)
    starts, steps = rng.integers(0, 27, PROMPTS), rng.integers(1, 4, PROMPTS)
    patterns = [[int((start + step * i) % 27) for i in range(6)] for start, step in zip(starts, steps, strict=True)]
    return graded(
        run,
        [pattern[:4] for pattern in patterns],
        lambda number, answer: float(answer == patterns[number][4:]),
        max_tokens=2,
        seed=int(run.split == "confirm"),
    )
