"""Would a screen have helped?  Runs of evolution on nanogpt, preset cpu, fed to predictors in the order of the journal.

    python benchmarks/screen_offline.py FOLDER [--seeds 0 1 2 3 4 5] [--pause FILE]
    python benchmarks/screen_offline.py --replay RUN [RUN …]       finished runs of your own

First the runs that are missing: 96 executions each, ideas from the catalogue, one at a time, about 16 minutes a run on
a quiet core.  A killed command goes on where it was.  Then each predictor is fitted before every step on the outcomes
that had come in by then, and forecasts the ideas of that step.  One line for each run and predictor goes to
screen_offline_results.jsonl; the table shows means and Student's 95 % intervals over runs.

The figures: `pairs`, of two successes of a step, how often the better forecast has the better outcome; `auc`, the same
for success against failure; `coverage` of the 80 % interval; `kept`, the share of the improvement over the best so far
that lies in the best sixth of each step by forecast (chance: 0.167), and `kept_of_24`, the same for pools of three
steps; `hits`, how much more often the best sixth is above three quarters of the last successes than all ideas; `lift`,
as the screen's gate measures it, with all ideas as the audited ones; `shift`, by how many standard deviations of its
step the best sixth is better than the step's mean.  Three rankings are for comparison: `random`; `parents`, the mean
reward of an idea's parents; and `perfect`, by the outcome itself, noise included, as no forecast can be.

No screen chose anything here: the ideas are those that evolution ran.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from ideator_rl.environments.environment import load_environment
from ideator_rl.experiment import FAILED, LOST, SUCCEEDED, Experiment
from ideator_rl.screen import Candidate, PredictorContext, Seen, load_predictor
from ideator_rl.screen.accuracy import SHARE, coverage, gains, interval, kept, kept_share, pair_accuracy
from ideator_rl.screen.acquisition import acquisition
from ideator_rl.screen.figures import Lift, lift_of
from ideator_rl.storage.forecasts import ForecastOutcome, ForecastRow
from ideator_rl.storage.run_reader import Run, read_run

RESULTS = Path(__file__).parent / "screen_offline_results.jsonl"
RECIPE, BUDGET, AFTER = "recipes/search_nanogpt_cpu.yaml", 96, 24
"""Executions of a run, and outcomes before the first forecast: a quarter of the budget."""
PREDICTORS = ("tokens", "embedding", "parents", "random", "perfect")
FIGURES = ("pairs", "auc", "coverage", "kept", "kept_of_24", "hits", "lift", "shift")
CHANCE = SHARE
RECENT, BAR = 64, 0.75
"""A hit is above this quantile of so many last successes."""
LOOK_SECONDS = 1.0


@dataclass
class Pool:
    """The new ideas of one step, with their forecasts and what came of them; all lists are [n]."""

    best: float | None
    """Best reward that was known when the forecasts were made."""
    bar: float | None
    """Three quarters of the last successes were below it then."""
    rewards: list[float | None]
    """None for a failure."""
    chance: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    sd: list[float] = field(default_factory=list)
    ranking: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of the study's runs")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--pause", type=Path, help="while this file exists, nothing runs: for quiet measurements")
    parser.add_argument("--replay", nargs="*", type=Path, default=[], help="finished runs of your own, in its place")
    options = parser.parse_args()
    if options.replay:
        print(table([cell for folder in options.replay for cell in study(read_run(folder), 0)]))
        return
    if options.folder is None:
        parser.error("Name the folder of the study's runs, or your own runs after --replay.")
    cells = []
    for seed in options.seeds:
        run_search(options.folder / f"evolution-{seed}", seed, options.pause)
        cells += study(read_run(options.folder / f"evolution-{seed}"), seed)
    RESULTS.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    print(table(cells))


def study(run: Run, seed: int) -> list[dict[str, Any]]:
    """The figures of each predictor on one run."""
    cells = []
    for name in PREDICTORS:
        figures = measure(replay(run, name, seed))
        figures["kept_of_24"] = measure(replay(run, name, seed, span=3))["kept"]
        cells.append({"seed": seed, "predictor": name, **figures})
        print(cells[-1], flush=True)
    return cells


# The runs


def run_search(target: Path, seed: int, pause: Path | None) -> None:
    """One run to its end; a run that was killed goes on."""
    while not (target / "timings.json").exists():
        while paused(pause):
            time.sleep(LOOK_SECONDS)
        line = [sys.executable, "-m", "ideator_rl.cli", "search", RECIPE, "--output_dir", str(target)]
        line += ["--seed", str(seed), "--max_experiments", str(BUDGET), "--slots", "1"]
        line += ["--resume"] if (target / "recipe.yaml").exists() else []
        search = subprocess.Popen(line)
        while search.poll() is None:
            # Ended, not stopped: an experiment that is stopped would run into its limit of wall seconds.
            if paused(pause):
                search.send_signal(signal.SIGTERM)
                search.wait()
            time.sleep(LOOK_SECONDS)
        if search.returncode and not paused(pause):
            raise SystemExit(f"the search of seed {seed} ended with status {search.returncode}; repeat to resume it")


def paused(pause: Path | None) -> bool:
    return pause is not None and pause.exists()


# The replay


def replay(run: Run, predictor: str, seed: int, span: int = 1) -> list[Pool]:
    """The pools of a run from its first step with `AFTER` outcomes on, with forecasts as made before them.

    Args:
        span: steps whose new ideas are one pool; all of it is forecast before the first of them.
    """
    parents = {child: tuple(ids) for child, ids in run.origins}
    steps: dict[int, list[Any]] = {}
    for row in run.rollouts:
        steps.setdefault(row.step, []).append(row)
    asked: set[str] = set()
    pools: list[Pool] = []
    group: list[Any] = []
    for number, rows in sorted(steps.items()):
        began = min(row.created for row in group or rows)
        # A step begins before the last results of the one before are in: those are not known to its forecasts.
        known = {row.experiment_id for row in run.rollouts if row.finished is not None and row.finished < began}
        seen = [record for id, record in run.experiments.items() if id in known and usable(record)]
        if len(seen) < AFTER:
            asked |= {row.experiment_id for row in rows}
            continue
        group += rows
        if len({row.step for row in group}) < span and number != max(steps):
            continue
        new = dict.fromkeys(row.experiment_id for row in group if row.experiment_id not in asked)
        records = [run.experiments[id] for id in new if id in run.experiments and usable(run.experiments[id])]
        asked, group = asked | set(new), []
        if records:
            pools.append(forecast(run, predictor, seed, seen, records, parents))
    return pools


def usable(record: Experiment) -> bool:
    return bool(record.tree) and record.status != LOST and not record.is_baseline


def forecast(
    run: Run,
    predictor: str,
    seed: int,
    seen: Sequence[Experiment],
    records: Sequence[Experiment],
    parents: dict[str, tuple[str, ...]],
) -> Pool:
    """The pool of one step."""
    rewards = [record.reward for record in seen if record.metric is not None and record.reward is not None]
    best = max(rewards, default=None)
    bar = float(np.quantile(rewards[-RECENT:], BAR)) if rewards else None
    pool = Pool(best, bar, [record.reward if record.metric is not None else None for record in records])
    if predictor in RANKINGS:
        pool.ranking = RANKINGS[predictor](run, records, parents, seed + len(seen))
        return pool
    environment = load_environment(run.recipe["env"])
    model = load_predictor(predictor, PredictorContext(environment, run.recipe["preset"], seed))
    model.fit([Seen.of(record, parents.get(record.id, ())) for record in seen])
    result = model.predict([Candidate(r.idea, r.patch, parents.get(r.id, ())) for r in records])
    pool.chance, pool.mean, pool.sd = result.success.tolist(), result.mean.tolist(), result.sd.tolist()
    pool.ranking = acquisition("success_ei", result, best or 0.0).tolist()
    return pool


def by_chance(run: Run, records: Sequence[Experiment], parents: dict[str, tuple[str, ...]], seed: int) -> list[float]:
    return np.random.default_rng(seed).random(len(records)).tolist()


def by_parents(run: Run, records: Sequence[Experiment], parents: dict[str, tuple[str, ...]], seed: int) -> list[float]:
    """The mean reward of an idea's parents; 0 without any."""
    rewards = {id: record.reward or 0.0 for id, record in run.experiments.items()}
    return [fmean([rewards.get(id, 0.0) for id in parents.get(record.id, ())] or [0.0]) for record in records]


def by_outcome(run: Run, records: Sequence[Experiment], parents: dict[str, tuple[str, ...]], seed: int) -> list[float]:
    return [record.reward or 0.0 for record in records]


RANKINGS: dict[str, Callable[..., list[float]]] = {
    "random": by_chance,
    "parents": by_parents,
    "perfect": by_outcome,
}


# The figures


def measure(pools: Sequence[Pool]) -> dict[str, Any]:
    """The figures of one run and predictor; None where a figure does not exist."""
    quality, success, worth, hits, shifts = [], [], [], [], []
    means: list[float] = []
    deviations: list[float] = []
    outcomes: list[float] = []
    for pool in pools:
        ran = [i for i, reward in enumerate(pool.rewards) if reward is not None]
        reward = [pool.rewards[i] or 0.0 for i in ran]
        quality.append(([(pool.mean or pool.ranking)[i] for i in ran], reward))
        if pool.chance:
            success.append((pool.chance, [float(reward is not None) for reward in pool.rewards]))
            means += [pool.mean[i] for i in ran]
            deviations += [pool.sd[i] for i in ran]
            outcomes += reward
        worth.append((pool.ranking, gains(pool.rewards, pool.best)))
        hits.append((pool.ranking, [float(gain > 0) for gain in gains(pool.rewards, pool.bar)]))
        # Failures count with the worst reward of the step, so that a ranking which prefers them pays for it.
        if len(set(reward)) > 1:
            filled = [min(reward) if value is None else value for value in pool.rewards]
            chosen = kept(pool.ranking, filled, CHANCE) / (CHANCE * len(filled))
            shifts.append((chosen - fmean(filled)) / pstdev(filled))
    share, lift = kept_share(hits, CHANCE), gate_lift(pools)
    return {
        "pools": len(pools),
        "ideas": sum(len(pool.rewards) for pool in pools),
        "failed": sum(reward is None for pool in pools for reward in pool.rewards),
        "improving": sum(gain > 0 for _, values in worth for gain in values),
        "pairs": pair_accuracy(quality),
        "auc": pair_accuracy(success),
        "coverage": coverage(means, deviations, outcomes),
        "kept": kept_share(worth, CHANCE),
        "hits": None if share is None else share / CHANCE,
        "lift": lift.value if lift else None,
        "shift": fmean(shifts) if shifts else None,
    }


def gate_lift(pools: Sequence[Pool]) -> Lift | None:
    """The lift of the best sixth of each pool, at least one idea, over all ideas; None for too few."""
    rows = []
    for step, pool in enumerate(pools):
        chosen = np.argsort(-np.asarray(pool.ranking), kind="stable")[: max(1, round(CHANCE * len(pool.ranking)))]
        for number, reward in enumerate(pool.rewards):
            preferred, status = number in chosen, FAILED if reward is None else SUCCEEDED
            forecast = ForecastRow(
                number, number, "", None, None, None, None, None, True, True, preferred, "", pool.best, True
            )
            rows.append(ForecastOutcome(step, forecast, status, reward, 0.0))
    return lift_of(rows)


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Means over runs with Student's 95 % intervals."""
    lines = [f"| predictor | runs | {' | '.join(FIGURES)} |", "|---|---|" + "---|" * len(FIGURES)]
    for name in dict.fromkeys(cell["predictor"] for cell in cells):
        own = [cell for cell in cells if cell["predictor"] == name]
        figures = [_with_interval([cell[key] for cell in own if cell[key] is not None]) for key in FIGURES]
        lines.append(f"| {name} | {len(own)} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _with_interval(values: Sequence[float]) -> str:
    if not values:
        return "–"
    bounds = interval(values)
    return f"{fmean(values):.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else "")


if __name__ == "__main__":
    main()
