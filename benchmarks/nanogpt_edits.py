"""What each edit of nanogpt's catalogue does to the `cpu` preset: the table in envs/nanogpt/README.md.

Runs our own code only, so it needs no sandbox: one experiment at a time, in a plain subprocess, scored as the
environment's evaluator scores.  The baseline runs between the edits too: that shows how the machine drifts.

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

import torch

from ideator_rl.catalogue import environment_catalogue
from ideator_rl.catalogue_edits import Choice
from ideator_rl.environment import load_environment
from ideator_rl.environment_data import load_trusted

ENVIRONMENT = load_environment("nanogpt")
CATALOGUE = environment_catalogue(ENVIRONMENT)
EVALUATOR = load_trusted(ENVIRONMENT.root / ENVIRONMENT.evaluator)
PRESET = "cpu"
BETWEEN = 12
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
    baseline = [measure([], seed) for seed in range(arguments.seeds)]
    mean, spread = statistics.mean(baseline), statistics.stdev(baseline)
    print(f"baseline {mean:.3f} ± {spread:.3f}: {' '.join(f'{loss:.3f}' for loss in baseline)}", flush=True)
    count = 0
    for key in arguments.only:
        parameter = CATALOGUE.edits[key].parameter
        values = parameter.sample if parameter else (None,)
        for value in values if arguments.values == "all" else values[:1]:
            loss = measure([Choice(key, value)], seed=0)
            print(f"{key} {'' if value is None else value}\t{loss:.3f}", flush=True)
            count += 1
            if count % BETWEEN == 0:
                print(f"(baseline)\t{measure([], count):.3f}", flush=True)


if __name__ == "__main__":
    main()
