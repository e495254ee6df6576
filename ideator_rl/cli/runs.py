"""`ideator-rl train`, `status` and `report`: start a run, see how far it is, and write its report."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ideator_rl.cli.output import emit, say, show
from ideator_rl.cli.target import bucket_at, entries, run_folder, trainer
from ideator_rl.executor import store as attempts
from ideator_rl.report.summary import summary
from ideator_rl.search.search_summary import figures, notes
from ideator_rl.storage.bucket import Bucket
from ideator_rl.storage.records import read_run


def train(args: argparse.Namespace) -> int:
    """Becomes the accelerate line, so that signals and the exit status are its own; returns for no reason.

    Where one process will train, the recipe is read here first: accelerate alone takes seconds to import.

    Raises:
        IdeatorError: the recipe is not usable.
    """
    how = {"--accelerate-config": args.accelerate_config, "--num-processes": args.num_processes}
    if args.dry_run:
        from ideator_rl import train as module

        given = [word for name, value in how.items() if value is not None for word in (name, str(value))]
        return module.main(["--config", args.recipe, *args.overrides, "--dry-run", *given])
    if any(how.values()) or _one_process():
        from ideator_rl.training.recipe.processes import read_num_processes
        from ideator_rl.training.recipe.recipe import load_recipe

        load_recipe(args.recipe, args.overrides, read_num_processes(args.accelerate_config, args.num_processes) or 1)
    config = ["--config_file", args.accelerate_config] if args.accelerate_config else []
    config += ["--num_processes", str(args.num_processes)] if args.num_processes else []
    resume = ["--resume"] if args.resume else []
    words = [*config, "-m", "ideator_rl.train", "--config", args.recipe, *args.overrides, *resume]
    say("accelerate launch " + " ".join(words))
    # --quiet: a run that ends with one sentence is not followed by accelerate's own traceback
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *words])


def _one_process() -> bool:
    """Whether accelerate will start one process; a recipe's batches divide by the number of them."""
    cache = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    configured = any(Path(cache, "accelerate").glob("default_config.*"))
    return not configured and len(list(Path("/dev").glob("nvidia[0-9]*"))) < 2


def report(args: argparse.Namespace) -> int:
    from ideator_rl.report import write_report  # matplotlib takes a second, which the others need not wait

    write_report([Path(folder) for folder in args.runs], Path(args.out), args.embedder, notes)
    show(args.out)
    return 0


def status(args: argparse.Namespace) -> int:
    folder = run_folder(args.target)
    if args.watch:
        from ideator_rl.cli import (
            watch as cli_watch,  # rich takes a moment, which a program that asks for JSON need not wait
        )

        return cli_watch.watch_run(folder) if folder else cli_watch.watch_bucket(bucket_at(args.target))
    facts = _run(folder) if folder else _bucket(bucket_at(args.target))
    if args.json:
        emit(facts)
    elif folder:
        show("under way" if facts["process"] else "not under way")
        show(summary(folder))
        for line in facts["search"]["words"] if facts["search"] else ():
            show(line)
    else:
        show(", ".join(f"{count} {name}" for name, count in facts["statuses"].items()) or "no experiments yet")
        for row in facts["running"]:
            show(f"running  {row['id']}  on {row['host']} for {row['seconds']:.0f} s, attempt {row['attempt']}")
    return 0


def _run(folder: Path) -> dict[str, Any]:
    run, at_work = read_run(folder), trainer(folder)
    best, found = run.ranked[0] if run.ranked else None, figures(folder)
    return {
        "run": str(folder),
        "process": at_work.pid if at_work else None,
        "max_steps": run.recipe.get("max_steps"),
        "baseline": run.baseline,
        "best": {"id": best.id, "metric": best.metric, "idea": best.idea} if best else None,
        "statuses": dict(Counter(row.status for row in run.rollouts)),
        "experiments": len(run.ran),
        "steps": [{**asdict(step), "success": step.success} for step in run.by_step()],
        "places": dict(run.places),
        "search": {**found.facts(), "words": found.words()} if found else None,
    }


def _bucket(bucket: Bucket) -> dict[str, Any]:
    found = entries(bucket)
    running = [
        {
            "id": entry.id,
            "host": entry.claim["host"],
            "seconds": time.time() - entry.claim["time"],
            "attempt": attempts.attempts(bucket, entry.id) - 1,
        }
        for entry in found
        if entry.claim
    ]
    return {"bucket": bucket.url, "statuses": dict(Counter(entry.status for entry in found)), "running": running}
