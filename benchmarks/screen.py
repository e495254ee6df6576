"""Evolution with and without a screen, at equal experiments, on landscapes where a cell takes seconds.

    python benchmarks/screen.py run [--budget 2048] [--landscapes t0 t1 …] [--arms evolution screen_x8]
    python benchmarks/screen.py table                                   from screen_results.jsonl, with paired intervals

The ideator is the function that writes the corpus of the landscapes' prior: it recombines the shown ideas as the
frozen model was trained to, in microseconds, and never writes what cannot be read.  `noise` is a screen whose forecasts
are random numbers.  Cells in the results are not run again.  The landscapes t0 to t11 are those for tuning: default
keys were chosen on t0 to t3, the gate's figure on t0 to t7; t8 to t11 were run once, at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from collapse_cells import HERE, words
from collapse_methods import TUNED, TUNING
from collapse_records import read_cell

from ideator_rl.archive.archive import Archive
from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape import prior
from ideator_rl.envs.landscape.edits import read_idea
from ideator_rl.ideas import parse_idea
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen import Forecast
from ideator_rl.screen.accuracy import interval
from ideator_rl.search.config import load_search
from ideator_rl.search.engine import search_loop
from ideator_rl.search.ideator import Answer, Ask
from ideator_rl.search.strategies import get_search_strategy
from ideator_rl.storage.bucket import MemoryBucket
from ideator_rl.storage.run_folder import MARK

RESULTS = HERE / "screen_results.jsonl"
ARMS: dict[str, dict[str, Any] | None] = {
    "evolution": None,
    "screen_x4": {"over": 4},
    "screen_x8": {"over": 8},
    "noise": {"predictor": "screen.Noise"},
}


class Recombination:
    """Answers as the prior's corpus does."""

    name = "recombination"

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        rng, shown = random.Random(ask.salt), ask.shown if ask.descends else ()
        parents = [dict(read_idea(parse_idea(record.idea).experiment)) for record in shown]
        ideas = (prior.recombine(parents, rng) if parents else prior.first_idea(rng) for _ in range(ask.count))
        return [Answer(prior.completion(idea, rng), shown) for idea in ideas]

    def close(self) -> None:
        pass


class Noise:
    """Forecasts that have nothing to do with the ideas."""

    def __init__(self, context: Any):
        self._rng = np.random.default_rng(context.seed)

    def fit(self, seen: Any) -> None:
        pass

    def predict(self, candidates: Any) -> Forecast:
        count = len(candidates)
        return Forecast(self._rng.random(count), self._rng.normal(0.6, 0.1, count), np.full(count, 0.02))


def run_cell(arm: str, preset: str, budget: int, seed: int) -> dict[str, Any]:
    """One search; its score and area as in collapse_records.py."""
    screen, began = ARMS[arm], time.process_time()
    with tempfile.TemporaryDirectory(prefix="screen-") as folder:
        run, bucket = Path(folder) / "run", f"memory://{folder}"
        over = screen.get("over", 8) if screen else 1
        keys = {"output_dir": str(run), "preset": preset, "seed": seed, "bucket": bucket, "screen": screen}
        keys |= {"max_experiments": budget, "max_ideas": 2 * budget * over, **TUNED["evolution"]}
        config = load_search(str(HERE / "collapse_search.yaml"), words(keys))
        run.mkdir()
        (run / MARK).write_text(config.text(), encoding="utf-8")
        buffer = RewardBuffer(config.buffer())

        async def work() -> None:
            for replicate in range(config.baseline_replicates):
                await buffer.baseline(replicate)
            strategy = get_search_strategy(config.strategy, config.strategy_options)
            await search_loop(config, buffer, Recombination(), strategy)

        try:
            asyncio.run(work())
        finally:
            buffer.close()
            MemoryBucket.forget(bucket)
        landscape_seed = load_environment(config.env).preset(preset).settings["seed"]
        result = read_cell(run, landscape_seed, budget)
    kept = {name: result[name] for name in ("score", "auc", "executed")}
    cell = {"arm": arm, "preset": preset, "budget": budget, "seed": seed, **kept}
    return cell | {"cpu_seconds": round(time.process_time() - began, 1)}


def read_results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def table(cells: list[dict[str, Any]]) -> str:
    """Means over landscapes, and the paired difference from evolution with its 95 % interval (Student's t)."""
    lines = [
        "| experiments | arm | landscapes | score | area | score − evolution | better |",
        "|---|---|---|---|---|---|---|",
    ]
    scores = {(cell["budget"], cell["arm"], cell["preset"], cell["seed"]): cell for cell in cells}
    for budget in sorted({cell["budget"] for cell in cells}):
        for arm in ARMS:
            own = {key[2:]: cell for key, cell in scores.items() if key[:2] == (budget, arm)}
            pairs = [(cell, scores[budget, "evolution", *key]) for key, cell in own.items()
                     if (budget, "evolution", *key) in scores]  # fmt: skip
            if not pairs:
                continue
            gains = [cell["score"] - plain["score"] for cell, plain in pairs]
            ends = interval(gains)
            gain = f"{fmean(gains):+.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")
            gain = gain if arm != "evolution" else ""
            better = f"{sum(gain > 0 for gain in gains)} of {len(gains)}" if arm != "evolution" else ""
            means = (fmean(cell[name] for cell, _ in pairs) for name in ("score", "auc"))
            figures = " | ".join(f"{mean:.3f}" for mean in means)
            lines.append(f"| {budget} | {arm} | {len(pairs)} | {figures} | {gain} | {better} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--landscapes", nargs="*", default=TUNING)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=["evolution", "screen_x8"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "run":
        finished = {(cell["arm"], cell["preset"], cell["budget"], cell["seed"]) for cell in read_results()}
        for preset in options.landscapes:
            for arm in options.arms:
                if (arm, preset, options.budget, options.seed) not in finished:
                    cell = run_cell(arm, preset, options.budget, options.seed)
                    print(json.dumps(cell), flush=True)
                    with open(RESULTS, "a", encoding="utf-8") as file:
                        file.write(json.dumps(cell) + "\n")
    print(table(read_results()))


if __name__ == "__main__":
    main()
