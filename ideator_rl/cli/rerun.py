"""`ideator-rl rerun`: run the best ideas again with other seeds, and the baseline with the same seeds."""

from __future__ import annotations

import argparse
import asyncio
from statistics import mean, stdev

from ideator_rl.cli.execute import ExperimentProgress
from ideator_rl.cli.output import print_json, print_progress, print_text
from ideator_rl.cli.target import bucket_at, run_folder
from ideator_rl.search.rerun import Rerun, Source, rerun, source_of_run
from ideator_rl.text.display import number


def main(args: argparse.Namespace) -> int:
    """Returns 0 when every run succeeded, 1 when one did not."""
    folder = run_folder(args.target)
    source = source_of_run(folder) if folder else Source(bucket_at(args.target))
    records = source.best(args.best)
    buffer = source.buffer(records[0], args.slots, args.isolation)
    print_progress(
        f"{len(records)} ideas and the baseline, {args.replicates} runs of each; bucket: {source.bucket.url}"
    )
    progress = ExperimentProgress(buffer)
    progress.watch()
    try:
        reruns = asyncio.run(rerun(buffer, records, args.replicates))
    finally:
        progress.end()
        buffer.close()
    if reruns and not args.json:
        print_text(f"baseline {_values(reruns[0].baseline)}")
    for result in reruns:
        print_json(result.facts()) if args.json else _show(result)
    return 0 if all(None not in (*result.values, *result.baseline) for result in reruns) else 1


def _show(result: Rerun) -> None:
    gains, error = result.gains, result.gain_error
    gain = f"gain {number(mean(gains))}" if gains else "no pair of runs succeeded"
    if error is not None:
        gain += f" ± {number(error)} (standard error, {len(gains)} paired seeds)"
    print_text(f"{_values(result.values)}  {gain}  chosen for {number(result.first)}  {result.id}")
    print_text(f"  {result.idea or '(a patch written by hand)'}")


def _values(values: list[float | None]) -> str:
    """Mean and standard deviation of the successful runs, and their number."""
    measured = [value for value in values if value is not None]
    if not measured:
        return f"none of {len(values)} runs succeeded"
    spread = f" ± {number(stdev(measured))}" if len(measured) > 1 else ""
    return f"{number(mean(measured))}{spread} ({len(measured)} of {len(values)} runs)"
