"""The evaluator of OpenEvolve's example, for both peers; run by the interpreter of a peer's environment.

`evaluate(program_path)` is what OpenEvolve calls.  As a script, `--program_path PROGRAM --results_dir FOLDER` is what
Shinka calls; a score of 0 is then an incorrect program.  Both call the example's own `evaluate`, whose file the
environment variable PEERS_EVALUATOR names, and append one line of JSON to the file that PEERS_LOG names: the time of
the end in seconds since 1970, and the score.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from pathlib import Path
from typing import Any


def evaluate(program_path: str) -> dict[str, Any]:
    """The metrics of the example's evaluator, unchanged."""
    spec = importlib.util.spec_from_file_location("example_evaluator", os.environ["PEERS_EVALUATOR"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    metrics: dict[str, Any] = module.evaluate(program_path)
    line = json.dumps({"time": time.time(), "score": float(metrics["combined_score"])}) + "\n"
    # One write of a short line in append mode: evaluations of several processes do not mix.
    with open(os.environ["PEERS_LOG"], "a") as file:
        file.write(line)
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program_path", required=True)
    parser.add_argument("--results_dir", type=Path, required=True)
    # Shinka may pass further options.
    args, _ = parser.parse_known_args()
    score = float(evaluate(args.program_path)["combined_score"])
    args.results_dir.mkdir(parents=True, exist_ok=True)
    is_correct = score > 0
    correct = {"correct": is_correct, "error": None if is_correct else "no valid packing"}
    metrics = {"combined_score": score, "public": {}, "private": {}}
    for name, content in (("correct", correct), ("metrics", metrics)):
        (args.results_dir / f"{name}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
