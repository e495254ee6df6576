"""The cost of our own code: the executor's overhead for one no-op experiment, and the shares of a run's wall clock.

usage: python benchmarks/overhead.py [RUN_FOLDER …]

Without a folder, only the first table. A folder is the output of `ideator_rl.train`, such as runs/quickstart.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.storage.run_reader import Run, read_run

TOY = Path(__file__).parent.parent / "tests" / "toy_env"
RUNS = 15
WAITING = ("experiments", "baseline")
PHASES = {"imports": "importing torch, trl", "warmup": "warm-up (SFT)", "generation": "generation", "update": "update",
          "loading": "loading the model", "saving": "saving the model"}  # fmt: skip


def main(folders: list[str]) -> None:
    print(f"machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    noop()
    for folder in folders:
        share(read_run(folder))


def noop() -> None:
    """Sequential no-op experiments: each with a codebase of its own, on a file bucket, in the best sandbox."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        buffer = RewardBuffer(BufferConfig(str(TOY), "cpu", f"file://{folder}/bucket", run_dir=folder, slots=1))
        asyncio.run(_one(buffer, 0))
        rows = [asyncio.run(_one(buffer, number)) for number in range(1, RUNS + 1)]
        level = buffer.executor.sandbox.level
        buffer.close()
    print(f"executor, one no-op experiment, {RUNS} in turn, isolation {level} (ms: median, least, most)")
    for name in ("total", "experiment itself", "overhead", "of it: until claimed", "of it: scoring", "of it: the rest"):
        values = [1000 * row[name] for row in rows]
        print(f"  {name:<22}{statistics.median(values):8.0f}{min(values):8.0f}{max(values):8.0f}")
    print()


async def _one(buffer: RewardBuffer, number: int) -> dict[str, float]:
    patch = f"train.py\n<<<<<<< SEARCH\nx = 4.0\n=======\nx = {number / 8}\n>>>>>>> REPLACE\n"
    started = time.monotonic()
    record = await buffer.score_patch(patch)
    total = time.monotonic() - started
    assert record.status == "succeeded", record.error
    seconds = record.seconds
    parts = {"total": total, "experiment itself": seconds["run"], "overhead": total - seconds["run"]}
    parts["of it: until claimed"], parts["of it: scoring"] = seconds["queue"], seconds["score"]
    parts["of it: the rest"] = parts["overhead"] - seconds["queue"] - seconds["score"]
    return parts


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
