"""Does a newcomer see learning?  The quickstart over eight fixed seeds, beside the ideator that it started from.

    python benchmarks/newcomer.py run FOLDER [--seeds 101 102 …] [--hours 8]
    python benchmarks/newcomer.py run FOLDER --dry-run                       what is left, and the hours it takes
    python benchmarks/newcomer.py table [--page docs/results/weak_ideator.md]

`trained` is recipes/quickstart.yaml as it is, under another seed.  `frozen` is the same recipe with a learning rate of
0, from the warm-up that `trained` made, so that both propose equally many ideas; both share one bucket.  The seeds were
fixed before any of them was run, and the recipe's own is not among them.

Three figures, paired by seed, with Student's 95 % intervals: the mean reward of the last third of the steps minus that
of the first third; the same of the frozen ideator, for comparison; and trained minus frozen in the last third.  The
best idea of each trained run is run three more times, beside the baseline under the same seeds; its gain is shown in
spreads, the standard deviation of the baseline's runs.

A run that ended is a line of newcomer_results.jsonl and is not run again; one that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from weak_cells import append, bucket_url, rerun_bests
from weak_figures import rounded
from weak_table import difference, fill

from ideator_rl.storage.run_reader import read_run

RESULTS = Path(__file__).parent / "newcomer_results.jsonl"
SEEDS = (101, 102, 103, 104, 105, 106, 107, 108)
TRAINED, FROZEN = "trained", "frozen"
SECONDS = 600.0
"""Of a run where none was measured yet: two shared busy cores."""
SPREADS = 3
"""Of the baseline, by which the best idea should be better."""

Lines = list[dict[str, Any]]


def main() -> None:
    options = _options()
    if options.command == "table":
        text = table(results(options.results))
        print(text)
        if options.page:
            fill(options.page, "newcomer", text)
    elif options.dry_run:
        print(plan(options))
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    """Trained before frozen, seed by seed; ends between two runs when the hours are spent."""
    began = time.monotonic()
    for seed in options.seeds:
        for arm in (TRAINED, FROZEN):
            if (arm, seed) in finished(results(options.results)):
                continue
            if time.monotonic() - began > 3600 * options.hours:
                print("the hours are spent; run the same command to continue")
                return
            line = run_one(options.folder, arm, seed, options.keys)
            if arm == TRAINED and line["best_id"]:
                (again,) = rerun_bests(options.folder, {arm: line["best_id"]}, seed)
                line |= {"again": again["values"], "baseline_again": again["baseline"]}
            append(options.results, [line])
            print(line, flush=True)


def run_one(folder: Path, arm: str, seed: int, keys: list[str]) -> dict[str, Any]:
    """One run by the command line, as a newcomer starts it.

    Args:
        keys: further overrides of the recipe.
    """
    target, began = folder / f"{arm}-{seed}", time.monotonic()
    line = ["train", "quickstart", "--output_dir", str(target), "--seed", str(seed), "--bucket", bucket_url(folder)]
    if arm == FROZEN:
        warmup = str(folder / f"{TRAINED}-{seed}" / "warmup")
        line += ["--learning_rate", "0.0", "--sft_steps", "0", "--scratch_model", "null"]
        line += ["--model_name_or_path", warmup]
    resume = ["--resume"] if (target / "recipe.yaml").is_file() else []
    subprocess.run([sys.executable, "-m", "ideator_rl.cli", *line, *keys, *resume], check=True)
    run = read_run(target)
    best = run.ranked[0] if run.ranked else None
    steps = run.by_step()
    return {
        "arm": arm,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "resumed": bool(resume),
        "ideas": len(run.rollouts),
        "executed": len(run.ran),
        "rewards": [rounded(step.reward) for step in steps],
        "success": [rounded(step.success) for step in steps],
        "best": rounded(best.metric["value"]) if best is not None and best.metric else None,
        "best_id": best.id if best is not None else None,
    }


def plan(options: argparse.Namespace) -> str:
    lines = results(options.results)
    left = sum((arm, seed) not in finished(lines) for seed in options.seeds for arm in (TRAINED, FROZEN))
    whole = [line["seconds"] for line in lines if not line["resumed"]]
    seconds = statistics.fmean(whole) if whole else SECONDS
    source = f"measured on {len(whole)} runs" if whole else "assumed, no run yet"
    return f"{left} runs left, {seconds:.0f} s a run ({source}): {left * seconds / 3600:.1f} hours"


def table(lines: Lines) -> str:
    """The figures of each seed, their paired differences, and the best idea in spreads."""
    runs = {(line["arm"], line["seed"]): line for line in lines}
    seeds = sorted(seed for arm, seed in runs if arm == TRAINED and (FROZEN, seed) in runs)
    rows = [
        "| seed | trained: mean reward, first → last third | frozen: the same | trained: success | "
        "best, run again | its gain in spreads |",
        "|---|---|---|---|---|---|",
    ]
    spread = spread_of(lines)
    for seed in seeds:
        trained, frozen = runs[TRAINED, seed], runs[FROZEN, seed]
        texts = [" → ".join(f"{third(run, key, at):.3f}" for at in (0, -1))
                 for run, key in ((trained, "rewards"), (frozen, "rewards"), (trained, "success"))]  # fmt: skip
        values, gain = [value for value in trained.get("again", []) if value is not None], gain_of(trained)
        texts.append(f"{statistics.fmean(values):.3f}" if values else "–")
        texts.append(f"{gain / spread:.1f}" if gain is not None and spread else "–")
        rows.append(f"| {seed} | {' | '.join(texts)} |")
    if not seeds:
        return "\n".join(rows)
    gains = [gain for seed in seeds if (gain := gain_of(runs[TRAINED, seed])) is not None]
    enough = sum(gain >= SPREADS * spread for gain in gains) if spread else 0
    changes = {arm: [third(runs[arm, seed], "rewards", -1) - third(runs[arm, seed], "rewards", 0) for seed in seeds]
               for arm in (TRAINED, FROZEN)}  # fmt: skip
    ends = [third(runs[TRAINED, seed], "rewards", -1) - third(runs[FROZEN, seed], "rewards", -1) for seed in seeds]
    return "\n".join(
        [
            *rows,
            "",
            f"| mean reward, paired by seed, {len(seeds)} seeds | difference |",
            "|---|---|",
            f"| trained, last third − first third | {difference(changes[TRAINED])} |",
            f"| frozen, last third − first third | {difference(changes[FROZEN])} |",
            f"| last third, trained − frozen | {difference(ends)} |",
            "",
            f"Spread of the baseline: {spread or 0:.4f}. Best better by {SPREADS} spreads: {enough} of {len(gains)}.",
        ]
    )


def third(run: dict[str, Any], name: str, at: int) -> float:
    """Mean of a figure of the steps over the first (0) or the last (-1) third of them."""
    values = run[name]
    count = max(1, len(values) // 3)
    own = values[:count] if at == 0 else values[-count:]
    return statistics.fmean(value for value in own if value is not None)


def gain_of(run: dict[str, Any]) -> float | None:
    """Mean gain of a run's best over the baseline, both run again under equal seeds."""
    pairs = zip(run.get("baseline_again", []), run.get("again", []), strict=True)
    gains = [base - value for base, value in pairs if base is not None and value is not None]
    return statistics.fmean(gains) if gains else None


def spread_of(lines: Lines) -> float | None:
    """Standard deviation of the baseline's runs within a seed of the table, pooled over these."""
    groups = [[value for value in line.get("baseline_again", []) if value is not None] for line in lines]
    variances = [statistics.variance(group) for group in groups if len(group) > 1]
    return statistics.fmean(variances) ** 0.5 if variances else None


def finished(lines: Lines) -> set[tuple[str, int]]:
    return {(line["arm"], line["seed"]) for line in lines}


def results(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "table"):
        command = commands.add_parser(name)
        command.add_argument("--results", type=Path, default=RESULTS)
    commands.choices["table"].add_argument("--page", type=Path, help="a page whose table is to be replaced")
    command = commands.choices["run"]
    command.add_argument("folder", type=Path)
    command.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    command.add_argument("--hours", type=float, default=24.0)
    command.add_argument("--dry-run", action="store_true")
    # For smoke tests: a line of them is no result.
    command.add_argument("--keys", nargs="*", default=[], help="overrides of the recipe, such as max_steps=2")
    options = parser.parse_args()
    if options.command == "run":
        options.keys = [word for text in options.keys for word in (f"--{text.split('=')[0]}", text.split("=", 1)[1])]
    return options


if __name__ == "__main__":
    main()
