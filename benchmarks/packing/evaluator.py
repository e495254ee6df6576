"""Trusted: reads 26 circles as bounded JSON and sums up their radii where the packing is valid."""

import json
import math

from ideator_rl.evaluation import Implausible, ScorerFailed

CIRCLES, TOLERANCE = 26, 1e-9


def evaluate(run) -> float:
    text = (run.artifact / "circles.json").read_bytes()[:65536]
    try:
        circles = [tuple(map(float, circle)) for circle in json.loads(text)]
        if [len(circle) for circle in circles] != [3] * CIRCLES or not all(map(math.isfinite, sum(circles, ()))):
            raise ValueError(f"expected {CIRCLES} finite triples of x, y and radius")
    except (ValueError, TypeError) as error:
        raise ScorerFailed(f"circles.json holds no packing: {error}") from error
    for number, (x, y, radius) in enumerate(circles):
        if radius < 0 or min(x, y, 1 - x, 1 - y) < radius - TOLERANCE:
            raise Implausible(f"circle {number} leaves the square")
        for other_x, other_y, other_radius in circles[:number]:
            if math.hypot(x - other_x, y - other_y) < radius + other_radius - TOLERANCE:
                raise Implausible(f"circle {number} overlaps another one")
    return sum(radius for _, _, radius in circles)
