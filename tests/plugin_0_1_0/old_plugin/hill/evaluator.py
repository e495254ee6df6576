"""Trusted: the altitude at the place that a run left, as two numbers in bounded JSON."""

import json

from ideator_rl.evaluation import ScorerFailed
from ideator_rl.executor.scoring import Implausible


def evaluate(run) -> float:
    try:
        x, y = (float(number) for number in json.loads((run.artifact / "place.json").read_bytes()[:1000]))
    except (ValueError, TypeError) as error:
        raise ScorerFailed(f"place.json holds no place: {error}") from error
    if abs(x) > 40:
        raise Implausible("x is off the map")
    return max(0.0, 30.0 - (x - 3) ** 2 - (y - 4) ** 2)
