"""`ideator-rl rerun`: the best ideas again, with other seeds, beside the baseline with the same ones."""

from __future__ import annotations

import argparse
import asyncio
from statistics import mean, stdev

from ideator_rl.cli.execute import with_progress
from ideator_rl.cli.output import emit, say, show
from ideator_rl.cli.target import bucket_at, run_folder
from ideator_rl.search.rerun import Again, Place, place_of_run, rerun


def main(args: argparse.Namespace) -> int:
    """Returns 0 when every run succeeded, 1 when one did not."""
    folder = run_folder(args.target)
    place = place_of_run(folder) if folder else Place(bucket_at(args.target))
    records = place.best(args.best)
    buffer = place.buffer(records[0], args.slots, args.isolation)
    say(f"{len(records)} ideas and the baseline, {args.replicates} runs of each; bucket: {place.bucket.url}")
    try:
        found = asyncio.run(with_progress(buffer, rerun(buffer, records, args.replicates)))
    finally:
        buffer.close()
    if found and not args.json:
        show(f"baseline {_values(found[0].baseline)}")
    for one in found:
        emit(one.facts()) if args.json else _show(one)
    return 0 if all(None not in (*one.values, *one.baseline) for one in found) else 1


def _show(one: Again) -> None:
    gains = one.gains
    gain = f"gain {mean(gains):.4f}" if gains else "no pair of runs succeeded"
    if len(gains) > 1:
        gain += f" ± {stdev(gains) / len(gains) ** 0.5:.4f} (standard error, {len(gains)} paired seeds)"
    show(f"{_values(one.values)}  {gain}  chosen for {one.first:.4f}  {one.id}")
    show(f"  {one.idea or '(a patch written by hand)'}")


def _values(values: list[float | None]) -> str:
    """Mean and standard deviation, and how many of the runs they are of."""
    known = [value for value in values if value is not None]
    if not known:
        return f"none of {len(values)} runs succeeded"
    spread = f" ± {stdev(known):.4f}" if len(known) > 1 else ""
    return f"{mean(known):.4f}{spread} ({len(known)} of {len(values)} runs)"
