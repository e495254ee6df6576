"""The shares of a finished run's wall clock: experiments, the phases of training, and our own code as the rest.

usage: python benchmarks/run_shares.py RUN_FOLDER …

A folder is the output of `ideator_rl.train`, such as runs/quickstart.
"""

from __future__ import annotations

import sys

from ideator_rl.experiment import Experiment
from ideator_rl.storage.run_reader import Run, read_run

WAITING = ("experiments", "baseline")
PHASES = {"imports": "importing torch, trl", "warmup": "warm-up (SFT)", "generation": "generation", "update": "update",
          "loading": "loading the model", "saving": "saving the model"}  # fmt: skip


def main(folders: list[str]) -> None:
    for folder in folders:
        share(read_run(folder))


def share(run: Run) -> None:
    """Shares of a finished run's wall clock.  Ours is the rest that no phase accounts for."""
    total = run.timings["total"]
    waited = sum(run.timings.get(name, 0.0) for name in WAITING)
    busy = min(waited, covered([span(e) for e in run.experiments.values() if "run" in e.seconds]))
    rows = {"experiments running while the trainer waits": busy}
    rows |= {label: run.timings.get(name, 0.0) for name, label in PHASES.items()}
    rows["our own code (all the rest)"] = total - sum(rows.values())
    print(f"{run.folder}: {total:.0f} s, {len(run.experiments)} records")
    for label, seconds in rows.items():
        print(f"  {label:<46}{seconds:8.1f} s{100 * seconds / total:7.1f} %")
    print()


def span(record: Experiment) -> tuple[float, float]:
    """From start to end of an experiment, scoring included, in Unix seconds."""
    return record.finished - record.seconds["run"] - record.seconds["score"], record.finished


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds covered by at least one of the spans."""
    seconds, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        seconds += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return seconds


if __name__ == "__main__":
    main(sys.argv[1:])
