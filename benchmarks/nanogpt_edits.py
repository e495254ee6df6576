"""What each edit of nanogpt's catalogue does to the `cpu` preset: the table in envs/nanogpt/README.md.

Runs our own code only, so it needs no sandbox: one experiment at a time, in a plain subprocess, scored as the
environment's evaluator scores.  The baseline runs between the edits too, and each edit is held against the baseline
of its time: CPU seconds buy fewer steps on a busy machine.

usage: python benchmarks/nanogpt_edits.py [--seeds 5] [--values all|one] [--only EDIT …]
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from ideator_rl.catalogue import environment_catalogue
from ideator_rl.catalogue_edits import Choice
from ideator_rl.environment import load_environment
from ideator_rl.environment_data import load_trusted

ENVIRONMENT = load_environment("nanogpt")
CATALOGUE = environment_catalogue(ENVIRONMENT)
EVALUATOR = load_trusted(ENVIRONMENT.root / ENVIRONMENT.evaluator)
PRESET = "cpu"
BETWEEN = 8
"""Edits between two runs of the baseline."""


def measure(choices: list[Choice], seed: int) -> float:
    """Validation loss, nats a byte, of one run; infinite when it crashed or diverged."""
    source = CATALOGUE.apply(ENVIRONMENT.baseline(PRESET), choices)["train.py"]
    data = ENVIRONMENT.data(PRESET)
    imports = ", ".join(ENVIRONMENT.preload)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "train.py").write_text(source)
        launch = f"import runpy, {imports}; runpy.run_path('train.py', run_name='__main__')"
        variables = {
            "IDEATOR_DATA": str(data.public),
            "IDEATOR_ARTIFACT": folder,
            "IDEATOR_SEED": str(seed),
            "IDEATOR_BUDGET_SECONDS": str(ENVIRONMENT.preset(PRESET).budget.seconds),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", launch], cwd=folder, env=os.environ | variables, capture_output=True
        )
        if done.returncode:
            return float("inf")
        spec = importlib.util.spec_from_file_location("trained", Path(folder, "train.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        windows = EVALUATOR.windows(data.private, PRESET)
        logits = module.load(folder)(windows[:, :-1])
    finite = bool(torch.isfinite(torch.from_numpy(logits)).all())
    return float(EVALUATOR.nats(logits, windows[:, 1:]).mean()) if finite else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="baseline runs at the start")
    parser.add_argument("--values", choices=("all", "one"), default="all", help="values of each number")
    parser.add_argument("--only", nargs="*", default=list(CATALOGUE.edits), help="edits to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first = [measure([], seed) for seed in range(arguments.seeds)]
    spread = statistics.stdev(first)
    print(f"baseline {statistics.mean(first):.3f} ± {spread:.3f} over {len(first)} seeds", flush=True)
    choices = [
        Choice(edit.key, value)
        for edit in (CATALOGUE.edits[key] for key in arguments.only)
        for value in (
            (edit.parameter.sample if edit.parameter else (None,))[: None if arguments.values == "all" else 1]
        )
    ]
    baselines, losses = {0: statistics.mean(first)}, []
    for n, choice in enumerate(choices):
        losses.append(measure([choice], seed=0))
        print(choice.key, choice.value, f"{losses[-1]:.3f}", file=sys.stderr, flush=True)
        if (n + 1) % BETWEEN == 0 or n + 1 == len(choices):
            baselines[n + 1] = measure([], seed=n)
    print(f"later baselines {' '.join(f'{loss:.3f}' for loss in list(baselines.values())[1:])}")
    _table(choices, losses, baselines, spread)


def _table(choices: list[Choice], losses: list[float], baselines: dict[int, float], spread: float) -> None:
    """Every edit beside the baseline of its time, best first; bold beats it by more than three spreads."""
    near = np.interp(np.arange(len(choices)) + 0.5, list(baselines), list(baselines.values()))
    rows = sorted(zip(losses - near, losses, choices, strict=True), key=lambda row: row[0])
    print("\n| edit | loss | against the baseline |\n|---|---|---|")
    for change, loss, choice in rows:
        name = choice.key if choice.value is None else f"{choice.key} {choice.value}"
        shown = f"**{name}**" if change < -3 * spread else name
        print(f"| {shown} | {loss:.3f} | {change:+.3f} |")


if __name__ == "__main__":
    main()
