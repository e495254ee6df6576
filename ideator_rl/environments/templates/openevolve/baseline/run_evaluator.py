"""Calls OpenEvolve's kind of evaluator, `evaluate(program_path)`, and leaves what it returned in the artifact.

Written by `ideator-rl env new`; protected, and shown to no model.
"""

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import random
import sys
import types

PROGRAM, EVALUATOR = "__PROGRAM__", "__EVALUATOR__"
SCORES = ("__METRIC__", "combined_score")
MAX_TEXT = 4_000


def main():
    root = os.path.dirname(os.path.abspath(__file__))
    _seed(int(os.environ["IDEATOR_SEED"]))
    version = _provide_openevolve()
    # Under its own name, so that what it pickles or starts finds it.
    evaluator = importlib.import_module(EVALUATOR.removesuffix(".py"))
    returned = evaluator.evaluate(os.path.join(root, PROGRAM))
    if inspect.isawaitable(returned):
        returned = asyncio.run(_awaited(returned))
    metrics, texts = getattr(returned, "metrics", returned), getattr(returned, "artifacts", {})
    if not isinstance(metrics, dict):
        raise TypeError(f"evaluate() returned {type(metrics).__name__}; expected a dict of metrics")
    numbers, words = {}, {str(k): str(v)[:MAX_TEXT] for k, v in dict(texts or {}).items()}
    for name, value in metrics.items():
        if isinstance(value, str):
            words[str(name)] = value[:MAX_TEXT]
            continue
        try:
            numbers[str(name)] = value if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            continue  # a nested value is no metric
    # Evaluators catch what the program raises, and return a score of 0 with the reason: that is no result.
    error = words.get("error", "") or words.get("stderr", "")
    failed = bool(error) and not any(numbers.get(name) for name in SCORES)
    result = {"correct": not failed, "error": error[-MAX_TEXT:] if failed else "", "metrics": numbers, "texts": words}
    result["reported_by"] = f"openevolve {version}"
    with open(os.path.join(os.environ["IDEATOR_ARTIFACT"], "result.json"), "w") as file:
        json.dump(result, file)


async def _awaited(result):
    return await result


def _seed(seed):
    """Seed what this process draws from; processes that the evaluator starts are not seeded."""
    random.seed(seed)
    if importlib.util.find_spec("numpy"):
        import numpy

        numpy.random.seed(seed % 2**32)


def _provide_openevolve():
    """Its version; where it is not installed, a stand-in for the one name that evaluators import from it."""
    try:
        from importlib.metadata import version

        import openevolve.evaluation_result  # noqa: F401

        return version("openevolve")
    except ImportError:
        pass

    class EvaluationResult:
        def __init__(self, metrics=None, artifacts=None):
            self.metrics, self.artifacts = metrics or {}, artifacts or {}

        @classmethod
        def from_dict(cls, metrics):
            return cls(metrics)

        def to_dict(self):
            return self.metrics

    package, module = types.ModuleType("openevolve"), types.ModuleType("openevolve.evaluation_result")
    vars(module).update(EvaluationResult=EvaluationResult)
    vars(package).update(__path__=[], evaluation_result=module)
    sys.modules |= {"openevolve": package, "openevolve.evaluation_result": module}
    return "stand-in"


if __name__ == "__main__":
    main()
