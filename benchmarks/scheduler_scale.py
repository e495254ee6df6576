"""How long a scheduler looks at a bucket with many experiments that have ended, and with many that wait.

usage: python benchmarks/scheduler_scale.py [--sizes 1000 10000 100000] [--waiting 100 1000 10000] [--against CHECKOUT]

A file bucket is filled with finished experiments as 0.1.0 stored them, and a scheduler is started on it whose backend
has no free slot.  Each checkout (`--against`: one that has its own .venv) looks at a bucket of its own:

first    `Scheduler.discover` when the scheduler starts: which of them have a record?
idle     `Scheduler.discover` afterwards, 40 times with 0.05 s between them: median and most
new      until `Scheduler.discover` returns an experiment that was just put there
tick     `Scheduler.tick` with as many experiments waiting as --waiting lists: median of 20
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TOY = ROOT / "tests" / "toy_env"
IDLE_LOOKS, IDLE_REST, TICKS = 40, 0.05, 20


class FullBackend:
    """Has no room, and runs nothing."""

    starts = True

    def submit(self, id: str, resources: object) -> bool:
        return False

    def active(self, id: str) -> bool:
        return False

    def end_descriptors(self) -> list[int]:
        return []


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--waiting", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--against", type=Path, help="a checkout with a .venv of its own, such as 0.1.0")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "VALUE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        kind, value = args.measure
        figures = measure_discover(value) if kind == "discover" else measure_tick(int(value))
        print(json.dumps(figures))
        return 0
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; ms\n")
    checkouts = {"this": ROOT} | ({"other": args.against.resolve()} if args.against else {})
    print(f"{'finished':>9}  {'':<6}{'first':>10}{'idle':>10}{'most':>10}{'new':>10}")
    for size in args.sizes:
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory(prefix="ideator-scale-") as folder:
                fill(Path(folder), size)
                figures = run_in(checkout, "discover", folder)
            print(f"{size:9}  {name:<6}" + "".join(f"{figures[key]:10.2f}" for key in ("first", "idle", "most", "new")))
    print(f"\n{'waiting':>9}  {'':<6}{'tick':>10}")
    for count in args.waiting:
        for name, checkout in checkouts.items():
            print(f"{count:9}  {name:<6}{run_in(checkout, 'tick', str(count))['tick']:10.2f}", flush=True)
    return 0


def run_in(checkout: Path, kind: str, value: str) -> dict[str, float]:
    """The figures that the interpreter of a checkout measures."""
    interpreter = checkout / ".venv" / "bin" / "python"
    command = [str(interpreter if interpreter.exists() else sys.executable), __file__, "--measure", kind, value]
    variables = os.environ | {"PYTHONPATH": str(checkout)}
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables, cwd=checkout)
    figures: dict[str, float] = json.loads(answer.stdout)
    return figures


def fill(folder: Path, size: int) -> None:
    """Write finished experiments, with records of two kilobytes."""
    for number in range(size):
        id = hashlib.sha256(str(number).encode()).hexdigest()[:32]
        experiment = folder / "experiments" / id
        experiment.mkdir(parents=True)
        (experiment / "spec.json").write_text(json.dumps(specification(id)))
        record = {"id": id, "status": "succeeded", "idea": "", "environment": "toy", "preset": "cpu", "log": "." * 2000}
        (experiment / "result.json").write_text(json.dumps(record))


def specification(id: str) -> dict[str, Any]:
    texts = ("digest", "tree", "idea", "patch", "implementer", "hardware")
    numbers = {"seed": 0, "replicate": 0, "implement_seconds": 0.0, "created": 0.0}
    return (
        {"id": id, "environment": str(TOY), "preset": "cpu", "trusted": True} | dict.fromkeys(texts, "") | dict(numbers)
    )


def measure_discover(folder: str) -> dict[str, float]:
    """In milliseconds."""

    async def measure() -> dict[str, float]:
        scheduler, bucket = _scheduler(folder)
        first, found = _timed(scheduler.discover)
        assert not found, f"{len(found)} finished experiments were taken on"
        idle = []
        for _ in range(IDLE_LOOKS):
            time.sleep(IDLE_REST)
            idle.append(_timed(scheduler.discover)[0])
        _put(bucket, "new")
        new, found = _timed(scheduler.discover)
        assert len(found) == 1
        return {"first": first, "idle": statistics.median(idle), "most": max(idle), "new": new}

    return asyncio.run(measure())


def measure_tick(count: int) -> dict[str, float]:
    """In milliseconds."""

    async def measure(folder: str) -> dict[str, float]:
        scheduler, _ = _scheduler(folder)
        for number in range(count):
            scheduler.result(f"waiting{number}", None)
        scheduler.tick()
        return {"tick": statistics.median(_timed(scheduler.tick)[0] for _ in range(TICKS))}

    # The scheduler's clock is cancelled before the folder goes.
    with tempfile.TemporaryDirectory(prefix="ideator-scale-") as folder:
        return asyncio.run(measure(folder))


def _scheduler(folder: str) -> tuple[Any, Any]:
    from ideator_rl.executor.scheduler import Scheduler

    try:
        from ideator_rl.storage.bucket import open_bucket
    except ImportError:
        # 0.1.0 has it here.
        from ideator_rl.bucket import open_bucket  # type: ignore[no-redef]
    bucket = open_bucket(folder)
    return Scheduler(bucket, FullBackend()), bucket  # type: ignore[arg-type]


def _put(bucket: Any, id: str) -> None:
    """As the version under test stores an experiment."""
    try:
        from ideator_rl.executor.record_store import Spec

        Spec(**specification(id)).save(bucket)
    except ImportError:
        bucket.create(f"experiments/{id}/spec.json", json.dumps(specification(id)).encode())


def _timed(function: Any) -> tuple[float, Any]:
    began = time.monotonic()
    result = function()
    return 1000 * (time.monotonic() - began), result


if __name__ == "__main__":
    sys.exit(main())
