"""Runs ShinkaEvolve's kind of evaluator, `evaluate.py --program_path P --results_dir R`, and leaves what it wrote.

Written by `ideator-rl env new`; protected, and shown to no model.
"""

import importlib.util
import json
import math
import os
import random
import runpy
import sys
import tempfile
import time
import types

PROGRAM, EVALUATOR = "__PROGRAM__", "__EVALUATOR__"
MAX_TEXT = 4_000


def main():
    root = os.path.dirname(os.path.abspath(__file__))
    _seed(int(os.environ["IDEATOR_SEED"]))
    version = _provide_shinka()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(root, EVALUATOR)
        sys.argv = [path, "--program_path", os.path.join(root, PROGRAM), "--results_dir", folder]
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            if end.code not in (None, 0) and not os.path.exists(os.path.join(folder, "correct.json")):
                raise
        metrics, verdict = _read(folder, "metrics.json"), _read(folder, "correct.json")
    # `private` is what Shinka shows to no model: it stays out.
    flat = {name: value for name, value in metrics.items() if name not in ("public", "private")}
    flat |= metrics["public"] if isinstance(metrics.get("public"), dict) else {}
    numbers, texts = {}, {}
    for name, value in flat.items():
        if isinstance(value, str):
            texts[str(name)] = value[:MAX_TEXT]
        elif isinstance(value, int | float):
            numbers[str(name)] = value
    result = {"correct": verdict.get("correct") is True, "error": str(verdict.get("error") or "")[:MAX_TEXT]}
    result |= {"metrics": numbers, "texts": texts, "reported_by": f"shinka {version}"}
    with open(os.path.join(os.environ["IDEATOR_ARTIFACT"], "result.json"), "w") as file:
        json.dump(result, file)


def _read(folder, name):
    with open(os.path.join(folder, name)) as file:
        return json.load(file)


def _seed(seed):
    """Seed what this process draws from; processes that the evaluator starts are not seeded."""
    random.seed(seed)
    if importlib.util.find_spec("numpy"):
        import numpy

        numpy.random.seed(seed % 2**32)


def _provide_shinka():
    """Its version; where it is not installed, a stand-in for the one function that evaluators import from it."""
    try:
        from importlib.metadata import version

        import shinka.core  # noqa: F401

        return version("shinka-evolve")
    except ImportError:
        pass
    package, core = types.ModuleType("shinka"), types.ModuleType("shinka.core")
    vars(core).update(run_shinka_eval=_run_shinka_eval)
    vars(package).update(__path__=[], core=core)
    sys.modules |= {"shinka": package, "shinka.core": core}
    return "stand-in"


def _run_shinka_eval(
    program_path, results_dir, experiment_fn_name, num_runs,
    get_experiment_kwargs=None, aggregate_metrics_fn=None, validate_fn=None, default_metrics_on_error=None,
    **others,
):  # fmt: skip
    """Run a function of the program so many times, one after the other; write metrics.json and correct.json.

    Early stopping and plots are left to the package itself: their options are refused, or ignored where they change
    no number.
    """
    if others.get("early_stop_method") is not None:
        raise NotImplementedError("early stopping needs the package itself: pip install shinka-evolve")
    error, seconds, outputs, invalid = "", [], [], []
    try:
        spec = importlib.util.spec_from_file_location("program", program_path)
        assert spec is not None and spec.loader is not None, program_path
        program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        function = getattr(program, experiment_fn_name)
        for number in range(num_runs):
            keywords = get_experiment_kwargs(number) if get_experiment_kwargs else {"seed": number + 1}
            begun = time.perf_counter()
            outputs.append(function(**keywords))
            seconds.append(time.perf_counter() - begun)
            valid, reason = validate_fn(outputs[-1]) if validate_fn else (True, None)
            if not valid:
                invalid.append(reason or "no reason given")
        metrics = dict(aggregate_metrics_fn(outputs)) if aggregate_metrics_fn else {"combined_score": 0.0}
        metrics.pop("extra_data", None)
        score = metrics.get("combined_score", 0.0)
        error = f"Validation failed: {invalid[0]}" if invalid else ""
        if not error and not math.isfinite(score):
            error = f"combined_score is {score}"
    except Exception as fault:  # whatever the program does wrong is its result
        error, metrics = f"{type(fault).__name__}: {fault}", dict(default_metrics_on_error or {"combined_score": 0.0})
    metrics["execution_time_mean"] = sum(seconds) / len(seconds) if seconds else 0.0
    os.makedirs(results_dir, exist_ok=True)
    verdict = {"correct": not error, "error": error or None}
    for name, content in (("metrics.json", metrics), ("correct.json", verdict)):
        with open(os.path.join(results_dir, name), "w") as file:
            json.dump(content, file, default=_plain)
    return metrics, not error, error or None


def _plain(value):
    """A number of numpy's as one of Python's; anything else as text."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else str(value)


if __name__ == "__main__":
    main()
