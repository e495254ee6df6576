"""Trusted: reads three numbers as bounded JSON and measures the height of the bowl there."""

import json

from ideator_rl.scoring.scoring import Implausible, ScorerFailed


def evaluate(run):
    text = (run.artifact / "point.json").read_bytes()[:4096]
    try:
        point = json.loads(text)
        x, y, z = (float(point[name]) for name in "xyz")
    except (ValueError, KeyError, TypeError) as error:
        raise ScorerFailed(f"point.json holds no point: {error}") from error
    if abs(x) > 100:
        raise Implausible("x is off the map")
    return 0.5 + (x - 1) ** 2 + (y + 2) ** 2 + 0.1 * (z - 3) ** 2
