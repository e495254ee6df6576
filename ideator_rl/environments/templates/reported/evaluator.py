"""Trusted: reads the numbers that the example's own evaluator reported; it cannot check them.

The artifact is untrusted, so only one bounded JSON file is read.  The metric is __METRIC__; where a result has no
number of that name, it is the mean of the numbers, which is the rule of OpenEvolve.
"""

import json
import math

from ideator_rl.evaluation import ScorerFailed

METRIC = "__METRIC__"
MAX_BYTES = 1_000_000
FALLBACK = METRIC == "combined_score"
"""Whether the mean may stand for the metric: not where the user chose another name."""


def evaluate(run):
    """The metric that was reported, as a number.

    Raises:
        ScorerFailed: no result, one that is no JSON of numbers, or one that the example's evaluator calls incorrect.
    """
    result = _read(run.artifact / "result.json")
    if result.get("correct") is not True:
        raise ScorerFailed(f"the example's evaluator reported a wrong result: {_line(result.get('error'))}")
    metrics = result.get("metrics")
    if not isinstance(metrics, dict):
        raise ScorerFailed("result.json has no mapping `metrics`")
    # A bool is a number for Python, and no measurement: it stays out of the mean.
    numbers = {
        str(name)[:100]: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    run.notes["reported_by"] = _line(result.get("reported_by"))
    if METRIC in numbers:
        return numbers[METRIC]
    finite = [value for value in numbers.values() if math.isfinite(value)]
    if not FALLBACK or not finite:
        names = ", ".join(sorted(numbers)[:10]) or "no number"
        raise ScorerFailed(f"the example's evaluator returned no {METRIC}; it returned {_line(names)}")
    run.notes["reported_metric"] = "mean of the numbers"
    return sum(finite) / len(finite)


def _read(path):
    if not path.is_file() or path.is_symlink():
        raise ScorerFailed("the run left no result.json")
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        result = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise ScorerFailed(f"result.json is no JSON object of at most {MAX_BYTES} bytes")
    return result


def _line(text):
    return "".join(c for c in str(text or "no reason given") if c.isprintable())[:200]
