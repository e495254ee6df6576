"""Trusted: reads the numbers that the example's own evaluator reported; it cannot check them.

The artifact is untrusted, so only one bounded JSON file is read.  The metric is __METRIC__; where a result has no
number of that name, it is the mean of the numbers, which is the rule of OpenEvolve.
"""

import json
import math
import re

from ideator_rl.evaluation import ScorerFailed

METRIC = "__METRIC__"
MAX_BYTES = 1_000_000
MAX_SECONDARY, MAX_TEXT = 16, 2_000
NAME = re.compile(r"[^\W_][\w .+@/-]{0,59}")
"""Names that a record takes."""
FALLBACK = METRIC == "combined_score"
"""Whether the mean may stand for the metric: not where the user chose another name."""


def evaluate(run):
    """The metric that was reported, with the other numbers and texts of the same result.

    Raises:
        ScorerFailed: no result, one that is no JSON of numbers, or one that the example's evaluator calls incorrect.
    """
    result = _read(run.artifact / "result.json")
    if result.get("correct") is not True:
        raise ScorerFailed(f"the example's evaluator reported no result: {_line(result.get('error'))}")
    run.notes["reported_by"] = _line(result.get("reported_by"))
    metrics, texts = result.get("metrics"), result.get("texts")
    if not isinstance(metrics, dict):
        raise ScorerFailed("result.json has no mapping `metrics`")
    numbers = {
        name: value for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)
    }
    if METRIC in numbers:
        value = float(numbers[METRIC])
    elif METRIC in metrics or not FALLBACK or not numbers:
        names = ", ".join(sorted(map(str, numbers))[:10]) or "no number"
        raise ScorerFailed(f"the example's evaluator returned no finite {METRIC}; it returned {_line(names)}")
    else:
        # A bool is a number for Python, and no measurement: it stays out of the mean.
        measured = [value for value in numbers.values() if not isinstance(value, bool)] or [0.0]
        value, run.notes["reported_metric"] = sum(measured) / len(measured), "mean of the numbers"
    others = {name: number for name, number in numbers.items() if name not in (METRIC, "metric", "text")}
    named = [(name, number) for name, number in others.items() if NAME.fullmatch(str(name))][:MAX_SECONDARY]
    words = texts.items() if isinstance(texts, dict) else ()
    text = "\n".join(f"{_line(name)}: {words}" for name, words in words)[:MAX_TEXT]
    return {**dict(named), METRIC: value, "text": text}


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
