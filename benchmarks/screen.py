"""Evolution with and without a screen, at equal experiments, on landscapes where a cell takes seconds.

    python benchmarks/screen.py run [--budget 2048] [--landscapes t0 t1 …] [--arms evolution screen_x8]
    python benchmarks/screen.py robustness                  every arm and landscape of docs/results/screen.md, resumable
    python benchmarks/screen.py table                                   from screen_results.jsonl, with paired intervals

The ideator is the function that writes the corpus of the landscapes' prior: it recombines the shown ideas as the
frozen model was trained to, in microseconds, and never writes what cannot be read.  In the arms `genetic` it is the
operators of the genetic algorithm of `collapse_oracle.py`, with its tuned numbers.  `noise` is a screen whose forecasts
are random numbers.  Cells in the results are not run again.  The landscapes t0 to t11 are those for tuning: default
keys were chosen on t0 to t3, the gate's figure on t0 to t7; t8 to t11 were run once, at the end.  Nothing was tuned on
s0 to s15, nor on the changed landscapes of `screen_landscapes.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from collapse_cells import HERE, words
from collapse_methods import FURTHER, TUNED, TUNING, UNSEEN
from collapse_oracle import change, crossed
from collapse_records import Curve
from screen_landscapes import PLAIN, VARIANTS, changed_landscape, evaluated_on, optimum
from screen_table import table

from ideator_rl.archive.archive import Archive
from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape import prior
from ideator_rl.envs.landscape.edits import read_idea
from ideator_rl.envs.landscape.landscape import KNOBS, MOST_EDITS, VALUES
from ideator_rl.ideas import parse_idea
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen import Forecast
from ideator_rl.search.config import load_search
from ideator_rl.search.engine import search_loop
from ideator_rl.search.ideator import Answer, Ask
from ideator_rl.search.strategies import get_search_strategy
from ideator_rl.storage.bucket import MemoryBucket
from ideator_rl.storage.run_folder import MARK
from ideator_rl.storage.run_reader import read_run

RESULTS = HERE / "screen_results.jsonl"
ARMS: dict[str, dict[str, Any] | None] = {
    "evolution": None,
    "screen_x4": {"over": 4},
    "screen_x8": {"over": 8},
    "noise": {"predictor": "screen.Noise"},
    "genetic": None,
    "genetic_x8": {"over": 8},
}
SAMPLES = (512, 1024, 2048, 4096, 8192, 16384)
"""Ideas sampled, after which the scores of two arms are compared at equal proposals."""


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


class Crossing(Recombination):
    """Answers with children of the genetic algorithm on the table."""

    name = "crossing"

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        rng, shown = random.Random(ask.salt), ask.shown if ask.descends else ()
        parents = [dict(read_idea(parse_idea(record.idea).experiment)) for record in shown]
        return [Answer(prior.completion(self._child(parents, rng), rng), shown) for _ in range(ask.count)]

    def _child(self, parents: list[dict[int, int]], rng: random.Random) -> dict[int, int]:
        numbers = TUNED["oracle"]
        child: dict[int, int] = {}
        if len(parents) >= 2:
            child = crossed(parents[0], parents[1], rng)
            while rng.random() < numbers["mutation"]:
                change(child, rng)
            while len(child) > MOST_EDITS:
                del child[rng.choice(list(child))]
        if child:
            return child
        count = rng.randint(1, numbers["first_edits"])
        return {knob: rng.randrange(VALUES) for knob in rng.sample(range(KNOBS), count)}


class Noise:
    """Forecasts that have nothing to do with the ideas."""

    def __init__(self, context: Any):
        self._rng = np.random.default_rng(context.seed)

    def fit(self, seen: Any) -> None:
        pass

    def predict(self, candidates: Any) -> Forecast:
        count = len(candidates)
        return Forecast(self._rng.random(count), self._rng.normal(0.6, 0.1, count), np.full(count, 0.02))


def run_cell(arm: str, preset: str, budget: int, seed: int, variant: str = PLAIN) -> dict[str, Any]:
    """One search; its score and area as in collapse_records.py.

    Args:
        variant: of the landscape, as in screen_landscapes.py.
    """
    screen, began = ARMS[arm], time.process_time()
    ideator = Crossing() if arm.startswith("genetic") else Recombination()
    with tempfile.TemporaryDirectory(prefix="screen-") as folder, evaluated_on(variant):
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
            await search_loop(config, buffer, ideator, strategy)

        try:
            asyncio.run(work())
        finally:
            buffer.close()
            MemoryBucket.forget(bucket)
        landscape_seed = load_environment(config.env).preset(preset).settings["seed"]
        result = read_search(run, variant, landscape_seed, budget)
    cell = {"arm": arm, "preset": preset, "variant": variant, "budget": budget, "seed": seed, **result}
    return cell | {"cpu_seconds": round(time.process_time() - began, 1)}


def read_search(folder: Path, variant: str, landscape_seed: int, budget: int) -> dict[str, Any]:
    """Score and area of a run, and the score after each number of `SAMPLES`.

    Samples are counted by steps: those that a screen left out came before the experiments of their step.  A run that
    ended before so many samples keeps its last score.
    """
    run = read_run(folder)
    screened_out = Counter(row.step for row in run.forecasts if not row.forecast.executed)
    curve = Curve(changed_landscape(variant, landscape_seed), optimum(variant, landscape_seed))
    sampled, step = 0, -1
    by_samples: list[tuple[int, float]] = []
    for row in sorted(run.rollouts, key=lambda row: (row.step, row.position)):
        if len(curve.scores) == budget:
            break
        if row.step != step:
            step = row.step
            sampled += screened_out[step]
        sampled += 1
        curve.add(row)
        by_samples.append((sampled, curve.score))
    padded = curve.scores + [curve.score] * (budget - len(curve.scores))
    at = {most: [score for count, score in by_samples if count <= most] for most in SAMPLES}
    return {
        "score": round(curve.score, 4),
        "auc": round(fmean(padded), 4),
        "executed": len(curve.scores),
        "sampled": sampled,
        "by_samples": {str(most): round(scores[-1], 4) if scores else 0.0 for most, scores in at.items()},
    }


def read_results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def cells_of(options: argparse.Namespace) -> list[tuple[str, str, str, int]]:
    """Arm, preset, variant and budget of each cell, in the order in which they are run."""
    if options.command == "robustness":
        unseen = [(arm, preset, PLAIN) for preset in (*UNSEEN, *FURTHER) for arm in ROBUST]
        changed = [(arm, preset, variant) for preset in UNSEEN for variant in VARIANTS[1:] for arm in ROBUST]
        genetic = [(arm, preset, PLAIN) for preset in UNSEEN for arm in ("genetic", "genetic_x8")]
        # For equal proposals: as many samples as a screen takes, all of them run.
        longer = [("evolution", preset, PLAIN, LONGER * options.budget) for preset in UNSEEN]
        return [(*cell, options.budget) for cell in (*unseen, *changed, *genetic)] + longer
    return [(arm, preset, options.variant, options.budget) for preset in options.landscapes for arm in options.arms]


ROBUST, LONGER = ("evolution", "screen_x8"), 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("run", "robustness", "table"))
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--landscapes", nargs="*", default=TUNING)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ROBUST))
    parser.add_argument("--variant", choices=VARIANTS, default=PLAIN)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for arm, preset, variant, budget in cells_of(options) if options.command != "table" else []:
        # Read again each time: another process may have run a cell.
        finished = {(c["arm"], c["preset"], c.get("variant", PLAIN), c["budget"], c["seed"]) for c in read_results()}
        if (arm, preset, variant, budget, options.seed) in finished:
            continue
        cell = run_cell(arm, preset, budget, options.seed, variant)
        print(json.dumps(cell), flush=True)
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(cell) + "\n")
    print(table(read_results(), list(ARMS)))


if __name__ == "__main__":
    main()
