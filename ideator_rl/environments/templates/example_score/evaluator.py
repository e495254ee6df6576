"""Trusted: measures the answer that an experiment left.  Nothing of the experiment is imported here.

The artifact is untrusted: plain numbers of a known count are read from it, and every rule is checked here.
"""

import math
from itertools import combinations

from ideator_rl.evaluation import ScorerFailed

POINTS = 12
MAX_BYTES = 10_000


def evaluate(run):
    """The smallest distance between two of the points; the mean of each point's is a secondary metric.

    Raises:
        ScorerFailed: not 12 points in the unit square, one a line.
    """
    path = run.artifact / "points.txt"
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ScorerFailed(f"expected points.txt with {POINTS} lines")
    try:
        points = [tuple(map(float, line.split())) for line in path.read_text().splitlines()]
    except ValueError:
        raise ScorerFailed("points.txt holds something other than numbers") from None
    # Not a number compares with nothing, so that it is refused too.
    if len(points) != POINTS or not all(len(point) == 2 and all(0 <= x <= 1 for x in point) for point in points):
        raise ScorerFailed(f"expected {POINTS} points in the unit square, got {len(points)} lines")
    distances = [math.dist(one, two) for one, two in combinations(points, 2)]
    nearest = [min(math.dist(one, two) for two in points if two is not one) for one in points]
    return {"distance": min(distances), "mean_nearest": sum(nearest) / POINTS}
