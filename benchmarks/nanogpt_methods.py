"""GRPO, the default mix, evolution and best of n on experiments that really run: nanogpt, preset cpu, equal executions.

    python benchmarks/nanogpt_methods.py run FOLDER [--methods grpo …] [--seeds 0 1 2] [--hours 1.0]
    python benchmarks/nanogpt_methods.py table
    python benchmarks/nanogpt_methods.py figure                               docs/assets/nanogpt_methods.svg

One ideator for all: the warm-up of recipes/default.yaml, trained further by the first two, and frozen in the others.
One bucket: what two runs of a seed have in common is executed once, and charged to both.  A run ends with the step in
which its 48th distinct experiment ended; later experiments are left out.  The best of many tries is partly luck, so
the best of every run is run again under further seeds.

A cell is a method under a seed.  Each that ends appends a line to nanogpt_results.jsonl; a cell in that file is not
run again, so that `run` may be killed and started again.  Evolution's numbers are those that were tuned on
landscapes (collapse_methods.py); nothing was tuned here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from collapse_cells import Enough, Stopping, words
from collapse_methods import TUNED

from ideator_rl.experiment import LOST, SUCCEEDED
from ideator_rl.search.rerun import rerun, source_of_run
from ideator_rl.storage.run_reader import Run, read_run

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "nanogpt_results.jsonl", HERE.parent / "docs" / "assets" / "nanogpt_methods.svg"
BUDGET, MOST_STEPS, AGAIN = 48, 8, 3
"""Distinct experiments; steps of 16 ideas after which a run ends all the same; further runs of a run's best."""
SHARED: dict[str, Any] = {
    "scratch_model": None,
    "sft_steps": 0,
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "max_steps": MOST_STEPS,
    "max_staleness": 0,
    "quorum": 1.0,
    "screen": None,
}
"""What RL changes in recipes/default.yaml: no screen, and two groups of 8 a step, for a budget of 48."""
PLAIN: dict[str, Any] = {"prompt_strategy": None, "reward_funcs": ["execution"], "imitation_weight": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {**SHARED, **PLAIN},
    "default": SHARED,
    "evolution": {"strategy": "evolution", **TUNED["evolution"]},
    "best_of_n": {"strategy": "best_of_n", "strategy_options": None},
}
SEARCHED = ("evolution", "best_of_n")


def main() -> None:
    options = _options()
    if options.command == "run":
        run(options)
    elif options.command == "table":
        print(table(results()))
    else:
        draw(results())


def run(options: argparse.Namespace) -> None:
    began, finished = time.monotonic(), {(cell["method"], cell["seed"]) for cell in results()}
    ideator(options.folder)
    for seed in options.seeds:
        for method in options.methods:
            if (method, seed) in finished:
                continue
            if time.monotonic() - began > 3600 * options.hours:
                print("the hours are spent; run the same command to continue")
                return
            cell = run_cell(options.folder, method, seed)
            with open(RESULTS, "a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")
            print({key: value for key, value in cell.items() if key != "curve"}, flush=True)


def ideator(folder: Path) -> Path:
    """The warm-up, made once."""
    target = folder / "ideator"
    if not target.is_dir():
        line = ["-m", "ideator_rl.sft", "--config", "default.yaml", "--out", str(target)]
        subprocess.run([sys.executable, *line, "--output_dir", str(folder / "warmup")], check=True)
    return target


def run_cell(folder: Path, method: str, seed: int) -> dict[str, Any]:
    began, target = time.monotonic(), folder / f"{method}-{seed}"
    bucket = (folder.absolute() / "bucket").as_uri()
    keys = {**METHODS[method], "output_dir": str(target), "bucket": bucket, "seed": seed}
    (searched if method in SEARCHED else trained)(keys, str(folder / "ideator"), (target / "recipe.yaml").is_file())
    records = read_run(target)
    cell = results_in_budget(records)
    best = cell.pop("best_id")
    again = [] if best is None else repeated(target, best)
    return {
        "method": method,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        **cell,
        "again": [round(value, 4) for value in again],
    }


def searched(keys: dict[str, Any], model: str, resume: bool) -> None:
    from ideator_rl.search.config import load_search
    from ideator_rl.search.run import run_search

    search_keys = {
        "ideator": "local",
        "ideator_options": {"model": model, "cpu_threads": 1},
        "epoch_size": 16,
        "batch": 1,
        "asks_at_once": 16,
        "quorum": 1.0,  # as RL, which waits for all its rewards
        "patience": 16 * MOST_STEPS,  # RL is not ended for repeating itself either
        "max_experiments": BUDGET,
        "max_ideas": 16 * MOST_STEPS,
    }
    run_search(load_search("search_nanogpt_cpu.yaml", words({**search_keys, **keys})), resume)


def trained(keys: dict[str, Any], model: str, resume: bool) -> None:
    from ideator_rl.publishing.cards import model_card
    from ideator_rl.training.recipe.recipe import load_recipe
    from ideator_rl.training.run import train

    recipe = load_recipe("default.yaml", words({"model_name_or_path": model, **keys}))
    with contextlib.suppress(Enough):
        train(recipe, resume, Stopping(BUDGET), model_card)


def results_in_budget(records: Run) -> dict[str, Any]:
    """A run's results within the budget, in the order of proposal."""
    executed: set[str] = set()
    curve: list[float | None] = []
    best, best_id, values, proposed, failed = None, None, [], 0, 0
    for row in records.rollouts:
        if len(executed) == BUDGET:
            break
        proposed += 1
        record = records.experiments.get(row.experiment_id)
        if record is None or not record.tree or record.status == LOST or record.id in executed:
            continue
        executed.add(record.id)
        failed += record.status != SUCCEEDED
        if record.status == SUCCEEDED and record.metric:
            values.append(float(record.metric["value"]))
            if best is None or values[-1] < best:
                best, best_id = values[-1], record.id
        curve.append(best)
    return {
        "proposed": proposed,
        "executed": len(executed),
        "failed": failed,
        "replayed": sum(records.experiments[id].replayed for id in executed),
        "mean": round(statistics.fmean(values), 4) if values else None,
        "baseline": records.baseline,
        "best": best,
        "best_id": best_id,
        "curve": [value if value is None else round(value, 4) for value in curve],
    }


def repeated(target: Path, id: str) -> list[float]:
    """The best of a run, run again under further seeds."""
    source = source_of_run(target)
    records = [record for record in source.best(1000) if record.id == id]
    buffer = source.buffer(records[0], None, "auto")
    try:
        rows = asyncio.run(rerun(buffer, records, AGAIN))
    finally:
        buffer.close()
    return list(rows[0].measured)


def results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def table(cells: list[dict[str, Any]]) -> str:
    lines = ["| method | seed | ideas | executions | success | mean of successes | best | best, run again |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for cell in sorted(cells, key=lambda each: (list(METHODS).index(each["method"]), each["seed"])):
        rate = 1 - cell["failed"] / max(1, cell["executed"])
        again = f"{statistics.fmean(cell['again']):.3f}" if cell["again"] else "–"
        lines.append(
            f"| {cell['method']} | {cell['seed']} | {cell['proposed']} | {cell['executed']} | {rate:.0%} | "
            f"{_figure(cell['mean'])} | {_figure(cell['best'])} | {again} |"
        )
    for name in METHODS:
        own = [statistics.fmean(cell["again"]) for cell in cells if cell["method"] == name and cell["again"]]
        if len(own) > 1:
            lines.append(f"\n{name}: best, run again, mean of {len(own)} seeds {statistics.fmean(own):.4f}, ")
            lines[-1] += f"standard deviation {statistics.stdev(own):.4f}"
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def draw(cells: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "ideator_rl"})
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    for name, colour in zip(METHODS, ("tab:red", "tab:blue", "tab:orange", "tab:gray"), strict=True):
        curves = [[float("nan") if v is None else v for v in cell["curve"]] for cell in cells if cell["method"] == name]
        for curve in curves:
            axis.step(range(1, len(curve) + 1), curve, where="post", color=colour, alpha=0.3, linewidth=1)
        if curves:
            most = max(map(len, curves))
            padded = [curve + [curve[-1]] * (most - len(curve)) for curve in curves]
            middle = [statistics.fmean(column) for column in zip(*padded, strict=True)]
            axis.step(range(1, most + 1), middle, where="post", color=colour, linewidth=2, label=name)
    axis.set(xlabel="distinct experiments", ylabel="best val_loss so far")
    axis.legend(frameon=False)
    figure.savefig(FIGURE, metadata={"Date": None})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    run_ = commands.add_parser("run")
    run_.add_argument("folder", type=Path)
    run_.add_argument("--methods", nargs="*", choices=METHODS, default=[*METHODS])
    run_.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    run_.add_argument("--hours", type=float, default=24.0)
    commands.add_parser("table")
    commands.add_parser("figure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
