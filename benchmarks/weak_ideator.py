"""Where does learning pay?  A weak ideator on experiments that really run: nanogpt, preset cpu, equal executions.

    python benchmarks/weak_ideator.py run FOLDER [--budget 400] [--seeds 0 1 2 3] [--arms frozen …] [--hours 8]
    python benchmarks/weak_ideator.py run FOLDER --dry-run                   what is left, and the hours it takes
    python benchmarks/weak_ideator.py warmup FOLDER [--seeds 0 1 2 3]        the ideators alone, and how weak they are
    python benchmarks/weak_ideator.py table [--page docs/results/weak_ideator.md]
    python benchmarks/weak_ideator.py figure                                 weak_ideator.svg among the assets of docs

Four arms by default: evolution with the frozen ideator and the default mix of RL, each with and without a screen
(weak_arms.py; further ones where they are named).  All arms of a seed start from one ideator: the small model of
recipes/default.yaml, warmed up until at least 30 % of its answers can be run.

A cell is an arm under a seed at a budget of distinct experiments.  The arms of a seed are run one after the other, and
their order changes with the seed.  Then the best of each is run three more times, in turn about.  Whatever ended is a
line of weak_results.jsonl and is not run again; a cell that was killed goes on.  All cells share one bucket: what two
have in common is executed once, and charged to both.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from weak_arms import ALL, ARMS, SFT_STEPS
from weak_cells import append, ideator_of, rerun_bests, run_cell, weak_ideator
from weak_table import draw, fill, seconds_of, table

HERE = Path(__file__).parent
RESULTS = HERE / "weak_results.jsonl"
BUDGET, SEEDS = 400, (0, 1, 2, 3)


def main() -> None:
    options = _options()
    if options.command == "table":
        text = table(results(options.results))
        print(text)
        if options.page:
            fill(options.page, "weak", text)
    elif options.command == "figure":
        draw(results(options.results), HERE.parent / "docs" / "assets" / "weak_ideator.svg")
    elif options.command == "warmup":
        for seed in options.seeds:
            print(prepare(options, seed), flush=True)
    elif options.dry_run:
        print(plan(options))
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    """Every cell that is left, seed by seed; ends between two cells when the hours are spent."""
    began = time.monotonic()
    for seed in options.seeds:
        for name in order_of(options.arms, seed):
            # Read again each time: another process may have run a cell.
            if (name, seed, options.budget) in finished(results(options.results), "cell"):
                continue
            if time.monotonic() - began > 3600 * options.hours:
                print("the hours are spent; run the same command to continue")
                return
            model = ideator_of(options.folder, seed, prepare(options, seed)["sft_steps"])
            cell = run_cell(options.folder, name, seed, options.budget, model, options.slots)
            append(options.results, [cell])
            print({key: value for key, value in cell.items() if key not in ("curve", "thirds")}, flush=True)
        rerun(options, seed)


def prepare(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The line of a seed's ideator: its warm-up, and how weak it is."""
    lines = [line for line in results(options.results) if line["kind"] == "ideator" and line["seed"] == seed]
    if not lines:
        lines = [weak_ideator(options.folder, seed, options.sft_steps)]
        append(options.results, lines)
    return lines[0]


def rerun(options: argparse.Namespace, seed: int) -> None:
    """The best of each arm of a seed, run again; arms without a success have none."""
    lines = results(options.results)
    known = finished(lines, "rerun")
    bests = {
        line["arm"]: line["best_id"]
        for line in lines
        if line["kind"] == "cell" and (line["seed"], line["budget"]) == (seed, options.budget)
        if line["best_id"] and (line["arm"], seed, options.budget) not in known
    }
    if bests:
        base = {"kind": "rerun", "seed": seed, "budget": options.budget}
        append(options.results, [base | line for line in rerun_bests(options.folder, bests, seed)])


def plan(options: argparse.Namespace) -> str:
    """What is left to run, and how long it takes by the cells that were run."""
    lines = results(options.results)
    known, hours, rows = finished(lines, "cell"), 0.0, []
    for name in options.arms:
        left = sum((name, seed, options.budget) not in known for seed in options.seeds)
        seconds, measured = seconds_of(lines, name)
        hours += left * options.budget * seconds / 3600
        source = f"measured on {measured} experiments" if measured else "no cell yet; of a smoke test"
        rows.append(f"{name:<16} {left} cells left, {seconds:.1f} s an experiment, updates included ({source})")
    return "\n".join([*rows, f"{options.budget} distinct experiments a cell: {hours:.1f} hours"])


def order_of(arms: list[str], seed: int) -> list[str]:
    """The arms in the order in which a seed runs them: the first cell of a seed fills the bucket for the others."""
    first = seed % len(arms)
    return [*arms[first:], *arms[:first]]


def finished(lines: list[dict[str, Any]], kind: str) -> set[tuple[str, int, int]]:
    return {(line["arm"], line["seed"], line["budget"]) for line in lines if line["kind"] == kind}


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "warmup", "table", "figure"):
        command = commands.add_parser(name)
        command.add_argument("--results", type=Path, default=RESULTS)
        if name in ("run", "warmup"):
            command.add_argument("folder", type=Path)
            command.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
            command.add_argument("--sft-steps", nargs="+", type=int, default=[*SFT_STEPS])
        if name == "table":
            command.add_argument("--page", type=Path, help="a page whose table is to be replaced")
        if name == "run":
            command.add_argument("--budget", type=int, default=BUDGET, help="distinct experiments of a cell")
            command.add_argument("--arms", nargs="+", choices=ALL, default=[*ARMS])
            command.add_argument("--slots", type=int, help="experiments at a time")
            command.add_argument("--hours", type=float, default=24.0)
            command.add_argument("--dry-run", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
