"""The sum of radii of a list of centres: each circle reaches the border, or half the way to its nearest neighbour."""

import math

from ideator_rl.evaluation import ScorerFailed

CIRCLES = 26


def measured(tree, settings, replicate) -> float:
    """
    Raises:
        ScorerFailed: the list has another number of centres, or one outside of the square.
    """
    centres = [tuple(map(float, line.split())) for line in tree["centres.txt"].splitlines()]
    if len(centres) != CIRCLES or not all(len(c) == 2 and min(c) >= 0 and max(c) <= 1 for c in centres):
        raise ScorerFailed(f"expected {CIRCLES} centres in the unit square")
    return sum(
        min(x, y, 1 - x, 1 - y, min(math.dist((x, y), other) for j, other in enumerate(centres) if j != i) / 2)
        for i, (x, y) in enumerate(centres)
    )


def evaluate(run) -> float:
    """The metric of a run's artifact."""
    return measured({"centres.txt": (run.artifact / "centres.txt").read_text()}, run.settings, 0)
