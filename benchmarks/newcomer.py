"""Does a newcomer see learning?  The quickstart over eight fixed seeds, beside the ideator that it started from.

    python benchmarks/newcomer.py run FOLDER [--seeds 101 102 …] [--arms trained frozen screened] [--hours 8]
    python benchmarks/newcomer.py run FOLDER --dry-run                       what is left, and the hours it takes
    python benchmarks/newcomer.py table [--page docs/results/weak_ideator.md]

`trained` is recipes/quickstart.yaml as it is, under another seed: a screen chooses the ideas, and GRPO trains the
ideator.  `frozen` is the ideator that `trained` started from, without a screen and with a learning rate of 0; it makes
as many ideas.  `screened` has the screen and a learning rate of 0, which tells what training adds to the screen; it is
run where --arms names it.  All share one bucket.  The seeds were fixed before any of them was run, and the recipe's
own is not among them.

Figures are paired by seed, with Student's 95 % intervals: the mean reward of the last third of the steps minus that of
the first third, the same by thirds of the ideas (steps differ in size), and the last thirds of two arms.  The best idea
of each trained run is run three more times, beside the baseline under the same seeds; its gain is shown in spreads, the
standard deviation of the baseline's runs.

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

from collapse_cells import words
from weak_cells import append, bucket_url, rerun_bests
from weak_figures import rounded
from weak_table import difference, fill

from ideator_rl.storage.run_reader import read_run

RESULTS = Path(__file__).parent / "newcomer_results.jsonl"
SEEDS = (101, 102, 103, 104, 105, 106, 107, 108)
TRAINED, FROZEN, SCREENED = "trained", "frozen", "screened"
IDEAS = 104
"""Of a run of any arm, as recipes/quickstart.yaml has them: 32 at first, and 8 in each of 9 steps."""
PLAIN_BATCH = 8
STARTED_FROM: dict[str, Any] = {"learning_rate": 0.0, "sft_steps": 0, "scratch_model": None}
"""Of an arm that begins with the warmed-up ideator of `trained` and leaves it as it is."""
KEYS: dict[str, dict[str, Any]] = {
    TRAINED: {},
    SCREENED: STARTED_FROM,
    FROZEN: {
        **STARTED_FROM,
        "screen": None,
        "max_steps": IDEAS // PLAIN_BATCH,
        "per_device_train_batch_size": PLAIN_BATCH,
        "num_generations": PLAIN_BATCH,
    },
}
"""What an arm changes in the recipe."""
SECONDS = 600.0
"""Of a run where none was measured yet: two shared cores under load."""
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
    """Seed by seed, `trained` first; ends between two runs when the hours are spent."""
    began = time.monotonic()
    for seed in options.seeds:
        for arm in options.arms:
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
    line += words(KEYS[arm])
    if arm != TRAINED:
        line += ["--model_name_or_path", str(folder / f"{TRAINED}-{seed}" / "warmup")]
    resume = ["--resume"] if (target / "recipe.yaml").is_file() else []
    subprocess.run([sys.executable, "-m", "ideator_rl.cli", *line, *keys, *resume], check=True)
    run = read_run(target)
    best = run.ranked[0] if run.ranked else None
    steps, in_order = run.by_step(), sorted(run.rollouts, key=lambda row: (row.step, row.position))
    return {
        "arm": arm,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "resumed": bool(resume),
        "ideas": len(run.rollouts),
        "executed": len(run.ran),
        "rewards": [rounded(step.reward) for step in steps],
        "idea_rewards": [rounded(row.reward) for row in in_order],
        "success": [rounded(step.success) for step in steps],
        "best": rounded(best.metric["value"]) if best is not None and best.metric else None,
        "best_id": best.id if best is not None else None,
    }


def plan(options: argparse.Namespace) -> str:
    lines = results(options.results)
    left = sum((arm, seed) not in finished(lines) for seed in options.seeds for arm in options.arms)
    whole = [line["seconds"] for line in lines if not line["resumed"]]
    seconds = statistics.fmean(whole) if whole else SECONDS
    source = f"measured on {len(whole)} runs" if whole else "assumed, no run yet"
    return f"{left} runs left, {seconds:.0f} s a run ({source}): {left * seconds / 3600:.1f} hours"


def table(lines: Lines) -> str:
    """The figures of each seed, their paired differences, and the best idea in spreads."""
    runs: Runs = {(line["arm"], line["seed"]): line for line in lines}
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
    return "\n".join(
        [
            *rows,
            "",
            "| mean reward, paired by seed | seeds | by thirds of the steps | by thirds of the ideas |",
            "|---|---|---|---|",
            *[change_row(runs, arm) for arm in KEYS if any(own == arm for own, _ in runs)],
            *[end_row(runs, TRAINED, arm) for arm in (FROZEN, SCREENED) if any(own == arm for own, _ in runs)],
            "",
            f"Spread of the baseline: {spread or 0:.4f}. Best better by {SPREADS} spreads: {enough} of {len(gains)}.",
        ]
    )


Runs = dict[tuple[str, int], dict[str, Any]]
"""Lines by arm and seed."""
FIGURES = ("rewards", "idea_rewards")
"""Rewards of a line by step, and by idea."""


def change_row(runs: Runs, arm: str) -> str:
    """An arm's last third minus its first."""
    own = [line for (name, _), line in runs.items() if name == arm]
    changes = [[third(line, figure, -1) - third(line, figure, 0) for line in own] for figure in FIGURES]
    return f"| {arm}, last third − first third | {len(own)} | {' | '.join(map(difference, changes))} |"


def end_row(runs: Runs, first: str, second: str) -> str:
    """The last third of one arm minus that of another, of the seeds that both have."""
    pairs = [
        (runs[first, seed], line) for (name, seed), line in runs.items() if name == second and (first, seed) in runs
    ]
    gaps = [[third(own, figure, -1) - third(other, figure, -1) for own, other in pairs] for figure in FIGURES]
    return f"| last third, {first} − {second} | {len(pairs)} | {' | '.join(map(difference, gaps))} |"


def third(run: dict[str, Any], name: str, at: int) -> float:
    """Mean of a figure of steps or ideas over the first (0) or the last (-1) third of them."""
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
    command.add_argument("--arms", nargs="+", choices=KEYS, default=[TRAINED, FROZEN])
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
