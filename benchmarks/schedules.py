"""Does evolution find more with the scaled schedule than with the paper's or than best of n, at equal experiments?

usage: python benchmarks/schedules.py [--budgets 100 800] [--tasks s0 s1 … circles] [--seeds 12] [--jobs 2]

Landscapes (`envs/landscape`) and circle packing (`benchmarks/circles`: 26 circles in a square, the largest sum of
radii).  Experiments are computed in this process, about a millisecond each.  The ideators call no model: see
schedule_ideas.py.  All methods have the same ideator, tasks and seeds; only the questions differ.

The score is the best metric of a run; on landscapes its quality without noise.  A difference of two methods is paired
by task and seed; in brackets its standard deviation over all pairs, and the pairs that are greater, equal and less.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

from schedule_ideas import CIRCLES, Centres, LandscapeEdits

from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape.certificate import certified_landscape
from ideator_rl.envs.landscape.edits import read_idea
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.ideas import parse_idea
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.config import SearchConfig
from ideator_rl.search.engine import search_loop
from ideator_rl.search.schedule import with_schedule
from ideator_rl.search.strategies import get_search_strategy

METHODS: dict[str, dict[str, Any]] = {
    "scaled": {"strategy": "evolution"},
    "paper": {"strategy": "evolution", "schedule": "paper"},
    "best_of_n": {"strategy": "best_of_n"},
}
TASKS = ("s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "circles")

Cell = tuple[str, str, int, int]
"""Method, task, budget and seed."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budgets", nargs="+", type=int, default=[100, 800])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    cells: list[Cell] = list(product(METHODS, options.tasks, options.budgets, range(options.seeds)))
    with ProcessPoolExecutor(options.jobs) as pool:
        scores = dict(zip(cells, pool.map(score, cells, chunksize=2), strict=True))
    for budget in options.budgets:
        print(table(scores, budget, options.tasks, range(options.seeds)), end="\n\n")


def score(cell: Cell) -> float:
    """The best metric that one search finds."""
    method, task, budget, seed = cell
    is_circles = task == "circles"
    with tempfile.TemporaryDirectory() as folder:
        config = SearchConfig(
            output_dir=folder,
            env=str(CIRCLES) if is_circles else "landscape",
            preset="cpu" if is_circles else task,
            bucket=f"memory://{folder}",
            implementer="schedule_ideas.WriteCentres" if is_circles else "envs.landscape.implementer.TokenEdits",
            backend="in_process",
            quorum=1.0,  # outcomes come at once: waiting for all of them makes a run a function of its seed
            max_experiments=budget,
            patience=100_000,
            near_duplicates=None,
            seed=seed,
            **METHODS[method],
        )
        ideator = Centres() if is_circles else LandscapeEdits()
        return asyncio.run(_best(with_schedule(config), ideator))


async def _best(config: SearchConfig, ideator: Centres | LandscapeEdits) -> float:
    buffer = RewardBuffer(config.buffer())
    try:
        await buffer.baseline()
        await search_loop(config, buffer, ideator, get_search_strategy(config.strategy, config.strategy_options))
        values = [(r.metric["value"], r.idea) for r in buffer.history if r.status == SUCCEEDED and r.metric]
    finally:
        buffer.close()
    best, idea = max(values)
    if config.env != "landscape":
        return float(best)
    settings = load_environment(config.env).preset(config.preset).settings
    return certified_landscape(settings["seed"]).quality(read_idea(parse_idea(idea).experiment))


def table(scores: dict[Cell, float], budget: int, tasks: Sequence[str], seeds: range) -> str:
    """Means and standard deviations over seeds by task, and the differences of the methods."""
    lines = [f"{budget} experiments".ljust(24) + "".join(f"{method:>18}" for method in METHODS)]
    for task in tasks:
        texts = [spread([scores[method, task, budget, seed] for seed in seeds]) for method in METHODS]
        lines.append(task.ljust(24) + "".join(f"{text:>18}" for text in texts))
    landscapes = [task for task in tasks if task != "circles"]
    for name, group in (("landscapes", landscapes), ("circles", ["circles"] if "circles" in tasks else [])):
        pairs = list(product(group, seeds))
        for first, second in (("scaled", "paper"), ("scaled", "best_of_n"), ("paper", "best_of_n")):
            gaps = [scores[first, task, budget, seed] - scores[second, task, budget, seed] for task, seed in pairs]
            if gaps:
                signs = [sum(gap > 0 for gap in gaps), sum(gap == 0 for gap in gaps), sum(gap < 0 for gap in gaps)]
                lines.append(f"{name}: {first} − {second}".ljust(40) + f"{spread(gaps)}  {' / '.join(map(str, signs))}")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):+.3f} ({deviation:.3f})"


if __name__ == "__main__":
    main()
