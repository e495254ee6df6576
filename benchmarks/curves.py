"""Draws a run's curves as one SVG: the successes' metric (mean, best) with the baseline, and the success rate, by step.

usage: python benchmarks/curves.py RUN_FOLDER OUT.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

from ideator_rl.storage.run_reader import read_run

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen


def main(folder: str, out: str) -> None:
    run = read_run(Path(folder))
    steps = run.by_step()
    x = [step.step + 1 for step in steps]
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "ideator_rl"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), constrained_layout=True)
    left.plot(x, [step.mean for step in steps], "o-", label="mean of successes")
    left.plot(x, [step.best for step in steps], "s-", label="best of step")
    if run.baseline is not None:
        left.axhline(run.baseline, color="grey", linestyle="--", label="baseline")
    left.set(xlabel="step", ylabel=run.metric)
    left.legend(frameon=False)
    right.plot(x, [step.success for step in steps], "o-", color="tab:green")
    right.set(xlabel="step", ylabel="success rate", ylim=(0, 1.02))
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
