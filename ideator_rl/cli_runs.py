"""The commands on runs and buckets: `status`, `cancel`, `scheduler`, `report`."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.bucket import Bucket, open_bucket
from ideator_rl.diagnostics.records import JOURNAL, read_run
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import attempts, worker
from ideator_rl.experiment import RUNNING


def status(options: argparse.Namespace) -> int:
    folder = _run_folder(options.target)
    facts = _run_facts(folder) if folder else _bucket_facts(_existing_bucket(options.target))
    if options.json:
        print(json.dumps(facts))
        return 0
    if folder:
        from ideator_rl.diagnostics.summary import summary

        print("under way" if facts["process"] else "not under way")
        print(summary(folder))
    else:
        print(", ".join(f"{count} {name}" for name, count in facts["statuses"].items()) or "no experiments yet")
        for row in facts["running"]:
            print(f"running  {row['id']}  on {row['host']} for {row['seconds']:.0f} s, attempt {row['attempt']}")
    return 0


def _run_facts(folder: Path) -> dict[str, Any]:
    run = read_run(folder)
    best = run.ranked[0] if run.ranked else None
    return {
        "run": str(folder),
        "process": _holder(folder),
        "baseline": run.baseline,
        "best": {"id": best.id, "metric": best.metric, "idea": best.idea} if best else None,
        "statuses": dict(Counter(row.status for row in run.rollouts)),
        "steps": [{**asdict(step), "success": step.success} for step in run.by_step()],
    }


def _bucket_facts(bucket: Bucket) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    running = []
    for id in bucket.names("experiments"):
        record = attempts.load_result(bucket, id)
        held = None if record else attempts.running(bucket, id)
        statuses[record.status if record else RUNNING if held else "waiting"] += 1
        if held:
            number = attempts.attempts(bucket, id) - 1
            running.append({"id": id, "host": held["host"], "seconds": time.time() - held["time"], "attempt": number})
    return {"bucket": bucket.url, "statuses": dict(statuses), "running": running}


def cancel(options: argparse.Namespace) -> int:
    """End the trainer, then the supervisors that run on this machine."""
    folder = _run_folder(options.target)
    bucket = open_bucket(_bucket_of(folder)) if folder else _existing_bucket(options.target)
    pid = _holder(folder) if folder else None
    if pid is not None and folder is not None:
        os.kill(pid, signal.SIGTERM)
        _wait_until_free(folder, pid)
        print(f"ended the trainer, process {pid}")
    ended = worker.cancel(bucket, bucket.names("experiments"))
    print(f"ended {len(ended)} running experiments" + (": " + ", ".join(ended) if ended else ""))
    if folder:
        print("Nothing that was finished is lost; the same train line with --resume goes on.")
    return 0


def scheduler(options: argparse.Namespace) -> int:
    from ideator_rl.executor.backends.local import LocalBackend
    from ideator_rl.executor.scheduler import Lost, Scheduler

    bucket = _existing_bucket(options.bucket)
    backend = LocalBackend(bucket.url, options.slots, options.isolation)

    async def watch(future: asyncio.Future) -> None:
        try:
            record = await future
            print(f"{record.id}  {record.status}", flush=True)
        except Lost as error:
            print(f"lost: {error}", file=sys.stderr, flush=True)

    async def serve() -> None:
        own, watched = Scheduler(bucket, backend), set()
        while True:
            watched |= {asyncio.ensure_future(watch(future)) for future in own.discover()}
            watched = {task for task in watched if not task.done()}
            if options.once and not watched:
                return
            await asyncio.sleep(0.5)

    print(f"serving {bucket.url} with {backend.slots} slots", file=sys.stderr, flush=True)
    asyncio.run(serve())
    return 0


def report(options: argparse.Namespace) -> int:
    from ideator_rl.diagnostics.report import write_report

    write_report(options.runs, options.out)
    print(options.out)
    return 0


def _run_folder(target: str) -> Path | None:
    """The run's folder, or None when the target is no run."""
    path = Path(target)
    return path if (path / JOURNAL).is_file() else None


def _existing_bucket(target: str) -> Bucket:
    """Open a bucket to look at it; a folder that is none is not made into one."""
    if "://" not in target and not (Path(target) / "experiments").is_dir() and not (Path(target) / ".scratch").is_dir():
        raise IdeatorError(
            f"{target} is neither a run nor a bucket. Expected a recipe's output_dir, a bucket's folder, or its URL."
        )
    return open_bucket(target)


def _bucket_of(folder: Path) -> str:
    recipe = folder / "recipe.yaml"
    named = (yaml.safe_load(recipe.read_text()) or {}).get("bucket") if recipe.is_file() else None
    return named or str(folder / "bucket")


def _holder(folder: Path) -> int | None:
    """The process that holds the run's lock now; the number in the file alone may be of a run long dead."""
    try:
        with open(folder / ".lock", "r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
            except OSError:
                return int(lock.read().strip() or 0) or None
    except (OSError, ValueError):
        return None


def _wait_until_free(folder: Path, pid: int, patience: float = 20.0) -> None:
    deadline = time.monotonic() + patience
    while _holder(folder) == pid:
        if time.monotonic() > deadline:
            raise IdeatorError(f"The trainer, process {pid}, did not end within {patience:g} s. End it yourself.")
        time.sleep(0.1)
