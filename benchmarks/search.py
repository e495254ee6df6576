"""Does evolution find more than best of N, at equal experiments?  Both really run, with the same ideator and seeds.

usage: python benchmarks/search.py FOLDER [--recipe recipes/search_nanogpt_cpu.yaml] [--strategies evolution best_of_n]
           [--seeds 0 1 2] [--again 3] [--replicates 2] [--figure OUT.svg] [--key value …]

One run after the other, in FOLDER/<strategy>-<seed>, on one bucket: experiments that two runs of a seed share are
executed once and charged to both.  The best of many tries owes a part of its value to luck, so the best `--again` ideas
of every run are run again under `--replicates` further seeds.  Can be resumed: finished runs are not repeated.  All
other keys are the recipe's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.search.config import SearchConfig, load_search
from ideator_rl.search.rerun import Rerun, rerun, source_of_run
from ideator_rl.search.run import run_search
from ideator_rl.storage.run_reader import Run, read_run

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen

Results = dict[tuple[str, int], tuple[Run, list[Rerun]]]
"""By strategy and seed."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="recipes/search_nanogpt_cpu.yaml")
    parser.add_argument("--strategies", nargs="+", default=["evolution", "best_of_n"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--again", type=int, default=3)
    parser.add_argument("--replicates", type=int, default=2)
    parser.add_argument("--figure", type=Path)
    options, overrides = parser.parse_known_args()
    results: Results = {}
    for seed in options.seeds:
        for strategy in options.strategies:
            config = configured(options, overrides, strategy, seed)
            if not (config.folder / "timings.json").is_file():
                run_search(config, resume=(config.folder / "recipe.yaml").is_file())
            results[strategy, seed] = (read_run(config.folder), rerun_best(config, options))
    print(table(results, options))
    (options.folder / "search.json").write_text(json.dumps(facts(results), indent=1))
    if options.figure:
        draw(results, options.figure)


def configured(options: Any, overrides: list[str], strategy: str, seed: int) -> SearchConfig:
    """The recipe with another strategy and seed; its strategy options hold for its own strategy only."""
    config = load_search(options.recipe, overrides)
    folder = options.folder / f"{strategy}-{seed}"
    own = config.strategy_options if strategy == config.strategy else None
    bucket = (options.folder.absolute() / "bucket").as_uri()
    return replace(config, strategy=strategy, strategy_options=own, seed=seed, output_dir=str(folder), bucket=bucket)


def rerun_best(config: SearchConfig, options: Any) -> list[Rerun]:
    """The best ideas of a run, chosen by their first runs, under further seeds."""
    source, run = source_of_run(config.folder), read_run(config.folder)
    good = [record for record in run.ran if record.status == SUCCEEDED and record.metric]
    sign = 1 if run.direction == "min" else -1
    records = sorted(good, key=lambda record: sign * record.metric["value"] if record.metric else 0)[: options.again]
    buffer = source.buffer(records[0], config.slots, config.isolation)
    try:
        return asyncio.run(rerun(buffer, records, options.replicates))
    finally:
        buffer.close()


def curve(run: Run) -> list[float]:
    """Best so far after every distinct experiment, in the order in which the ideas were proposed."""
    better, best, out = min if run.direction == "min" else max, None, []
    for record in run.ran:
        if record.status == SUCCEEDED and record.metric:
            value = float(record.metric["value"])
            best = value if best is None else better(best, value)
        out.append(float("nan") if best is None else best)
    return out


def table(results: Results, options: Any) -> str:
    lines = ["strategy     seed  experiments  ideas  success    best   its re-runs   top re-run mean"]
    for (strategy, seed), (run, rows) in sorted(results.items()):
        ran = run.ran
        good = sum(record.status == SUCCEEDED for record in ran)
        lines.append(
            f"{strategy:<12} {seed:>4}  {len(ran):>11}  {len(run.rollouts):>5}  {good / len(ran):>7.0%}  "
            f"{rows[0].first:.4f}  {spread(rows[0].measured):>12}  {statistics.mean(means(rows)):>15.4f}"
        )
    first, last = options.strategies[0], options.strategies[-1]
    for label, index in (("best as found", 0), ("best, re-run", 1), ("mean of the top, re-run", 2)):
        gaps = [score(results[first, seed])[index] - score(results[last, seed])[index] for seed in options.seeds]
        by_seed = ", ".join(f"{gap:+.4f}" for gap in gaps)
        lines.append(f"{first} − {last}, {label}: {statistics.mean(gaps):+.4f} ({by_seed})")
    return "\n".join(lines)


def score(result: tuple[Run, list[Rerun]]) -> tuple[float, float, float]:
    """The best metric as found, its mean in the re-runs, and the mean of all re-run ideas."""
    rows = result[1]
    return rows[0].first, means(rows)[0], statistics.mean(means(rows))


def means(rows: list[Rerun]) -> list[float]:
    return [statistics.mean(row.measured) for row in rows if row.measured]


def spread(values: list[float]) -> str:
    return "–".join(f"{value:.3f}" for value in (min(values), max(values))) if values else "none"


def facts(results: Results) -> dict[str, Any]:
    return {
        f"{strategy}-{seed}": {"curve": curve(run), "again": [row.facts() for row in rows]}
        for (strategy, seed), (run, rows) in results.items()
    }


def draw(results: Results, out: Path) -> None:
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "ideator_rl"})
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    strategies = list(dict.fromkeys(strategy for strategy, _ in results))
    for strategy, colour in zip(strategies, ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=False):
        curves = [curve(run) for (name, _), (run, _) in results.items() if name == strategy]
        for values in curves:
            axis.step(range(1, len(values) + 1), values, where="post", color=colour, alpha=0.35, linewidth=1)
        length = min(map(len, curves))
        means_of_seeds = [statistics.mean(values[i] for values in curves) for i in range(length)]
        axis.step(range(1, length + 1), means_of_seeds, where="post", color=colour, linewidth=2, label=strategy)
    run = next(iter(results.values()))[0]
    axis.set(xlabel="experiments (distinct codebases)", ylabel=f"best {run.metric} so far")
    axis.legend(frameon=False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
