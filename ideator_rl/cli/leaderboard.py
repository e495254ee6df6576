"""`ideator-rl leaderboard`: the best ideas of a run on the final hidden split, beside published results."""

from __future__ import annotations

import argparse
import asyncio
from statistics import mean

from ideator_rl.cli.execute import ExperimentProgress
from ideator_rl.cli.output import print_json, print_progress, print_text
from ideator_rl.cli.target import bucket_at, run_folder
from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.references import SECONDS, references
from ideator_rl.errors import IdeatorError
from ideator_rl.search.leaderboard import Entry, Leaderboard, measure
from ideator_rl.search.rerun import Source, source_of_run
from ideator_rl.text.display import with_error


def main(args: argparse.Namespace) -> int:
    """Returns 0 when every run succeeded, 1 when one did not."""
    environment = load_environment(args.environment)
    folder = run_folder(args.target)
    source = source_of_run(folder) if folder else Source(bucket_at(args.target))
    records = source.best(args.best)
    if records[0].environment != environment.name:
        raise IdeatorError(f"{args.target} is about {records[0].environment}, not {environment.name}.")
    preset = environment.preset(records[0].preset)
    results = references(environment, preset.name)
    buffer = source.buffer(records[0], args.slots, args.isolation)
    print_progress(f"{len(records)} ideas and the baseline, {args.replicates} runs of each, on the final split")
    progress = ExperimentProgress(buffer)
    progress.watch()
    try:
        board = asyncio.run(measure(buffer, records, args.replicates, results))
    finally:
        progress.end()
        buffer.close()
    if folder is not None:
        board.save(folder)
    print_json(board.facts()) if args.json else _show(board)
    return 0 if all(None not in entry.values for entry in board.entries) else 1


def _show(board: Leaderboard) -> None:
    print_text(
        f"{board.environment}, preset {board.preset}, {board.hardware}: {board.metric} on the final split; "
        f"target {board.target:g}"
    )
    for entry in board.entries:
        print_text(f"  {entry.label:<14}{_values(entry)}{_p(entry, board)}{_seconds(entry)}")
        if entry.idea:
            print_text(f"      {entry.idea}")
    if board.references:
        print_text("Published:")
    for reference in board.references:
        unit = f"{reference.value:g} s to the target" if reference.metric == SECONDS else f"{reference.value:g}"
        note = f"; {reference.note}" if reference.note else ""
        print_text(f"  {unit:<26}{reference.label}, {reference.hardware}{note} ({reference.source})")


def _values(entry: Entry) -> str:
    failed = len(entry.values) - len(entry.measured)
    missing = f", {failed} of {len(entry.values)} did not succeed" if failed else ""
    return (with_error(entry.measured) if entry.measured else "no run succeeded") + missing


def _p(entry: Entry, board: Leaderboard) -> str:
    p = entry.p(board.target, board.direction)
    side = "below" if board.direction == "min" else "above"
    return "" if p is None else f"  p = {p:.2g} (one-sided, mean {side} {board.target:g})"


def _seconds(entry: Entry) -> str:
    reached = [seconds for seconds in entry.seconds if seconds is not None]
    if not reached:
        return "  target not reached"
    if len(reached) < len(entry.seconds):
        return f"  target reached in {len(reached)} of {len(entry.seconds)} runs, after {mean(reached):.1f} s"
    without = entry.seconds_without_compilation
    compiled = "" if without is None else f", {without:.1f} s without compilation (as the runs report it)"
    return f"  target after {mean(reached):.1f} s{compiled}"
