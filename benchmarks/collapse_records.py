"""A cell of the collapse benchmark, read back from its run folder: what was found, and what became of the population.

The budget counts unique experiments: codebases that were run, each once.  Scores are on noise-free quality:

    score(e) = (q of the idea with the best observed metric among the first e experiments − B) / (optimum − B)

0 is the baseline, 1 the landscape's best idea.  The area under the curve is the mean of score(1) … score(budget); a
method that stops proposing new ideas keeps the score that it has.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ideator_rl.diversity.alarms import alarms
from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.diversity.measures import clusters, largest_share, vendi_score
from ideator_rl.diversity.population import population
from ideator_rl.envs.landscape.certificate import certificate, certified_landscape
from ideator_rl.envs.landscape.edits import NotAnIdea, read_idea
from ideator_rl.envs.landscape.landscape import BASE, KNOBS, VALUES, Edit, Landscape, is_simple
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.storage.run_reader import Rollout, read_run

FIXED = 32
"""Ideas at which the populations of steps are compared: distinct counts and Vendi scores grow with their number."""
CLUSTER_DISTANCE = 0.5
"""Cosine distance at which ideas, as sets of edits, are no longer one cluster."""


class Curve:
    """Best idea so far, by unique experiments."""

    def __init__(self, landscape: Landscape, optimum: float | None = None):
        """Args:
        optimum: the best quality; None where the landscape has the certificate, which holds it.
        """
        self._landscape = landscape
        self._optimum = certificate(landscape).optimum if optimum is None else optimum
        self._known: set[str] = set()
        self._best = float("-inf")
        self.score = 0.0
        self.scores: list[float] = []
        """After each experiment."""
        self.proposed: list[int] = []
        """Ideas proposed by then."""
        self.asked = 0

    def add(self, row: Rollout) -> bool:
        """Take an idea's outcome; whether its codebase was new."""
        self.asked += 1
        edits = edits_of(row.completion)
        if not edits or row.experiment_id in self._known:
            return False
        self._known.add(row.experiment_id)
        self.ran(edits, row.metric if row.status == SUCCEEDED else None)
        return True

    def ran(self, edits: list[Edit], metric: float | None) -> None:
        """Take an experiment that is new; `metric` is None where it failed."""
        if metric is not None and metric > self._best:
            self._best = metric
            self.score = (self._landscape.quality(edits) - BASE) / (self._optimum - BASE)
        self.scores.append(self.score)
        self.proposed.append(max(self.asked, len(self.scores)))


def read_cell(folder: Path, seed: int, budget: int) -> dict[str, Any]:
    """What a run came to within a budget of unique experiments.

    Args:
        seed: of the landscape.
        budget: unique experiments; what was run beyond it is left out.
    """
    run = read_run(folder)
    rollouts = sorted(run.rollouts, key=lambda row: (row.step, row.position))
    curve, rollouts_in_budget = Curve(certified_landscape(seed)), list[Rollout]()
    for row in rollouts:
        if len(curve.scores) == budget:
            break
        curve.add(row)
        rollouts_in_budget.append(row)
    screened_out = sum(not row.forecast.executed for row in run.forecasts)
    return curve_results(curve, budget) | {
        "proposed": len(rollouts_in_budget),
        "sampled": len(rollouts_in_budget) + screened_out,
        "steps": [figures(rows) for rows in _thinned(_by_step(rollouts_in_budget))],
        "alarms": [[alarm.step, alarm.kind, alarm.level] for alarm in alarms(population(run, get_embedder("hashed")))],
    }


def curve_results(curve: Curve, budget: int) -> dict[str, Any]:
    """A cell's results, without those of its population."""
    padded = curve.scores + [curve.score] * (budget - len(curve.scores))
    return {
        "score": round(curve.score, 4),
        "auc": round(statistics.fmean(padded), 4),
        "executed": len(curve.scores),
        "proposed": curve.proposed[-1] if curve.proposed else 0,
        "curve": [round(padded[at], 3) for at in _spread(budget)],
        "proposed_by": [curve.proposed[at] for at in _spread(len(curve.proposed))],
        "steps": [],
    }


def figures(rows: list[Rollout]) -> dict[str, float | None]:
    """The population of a step.  Vendi score and distinct ideas are at `FIXED` ideas; None where there are fewer."""
    ideas = {row.position: edits for row in rows if (edits := edits_of(row.completion))}
    good = [row.metric for row in rows if row.status == SUCCEEDED and row.metric is not None]
    vectors, texts = vectors_of(ideas.values()), [tuple(edits) for edits in ideas.values()]
    enough = len(ideas) >= FIXED
    values: dict[str, float | None] = {
        "step": rows[0].step,
        "mean": statistics.fmean(row.reward or 0.0 for row in rows),
        "success": len(good) / len(rows),
        "mean_of_successes": statistics.fmean(good) if good else None,
        "best": max(good) if good else None,
        "thought": statistics.fmean(thought_of(row.completion) for row in rows),
        "edits": statistics.fmean(map(len, texts)) if texts else None,
        "simple": statistics.fmean(map(is_simple, texts)) if texts else None,
        "distinct": len(set(texts[:FIXED])) / FIXED if enough else None,
        "vendi": vendi_score(vectors, FIXED) if enough else None,
        "largest": largest_share(clusters(vectors, CLUSTER_DISTANCE)) if enough else None,
    }
    return {name: value if value is None else round(float(value), 4) for name, value in values.items()}


def edits_of(completion: str) -> list[Edit]:
    """The edits of a completion; none where it holds no idea."""
    try:
        return read_idea(parse_idea(completion).experiment)
    except (MalformedIdea, NotAnIdea):
        return []


def thought_of(completion: str) -> int:
    """Tokens of thought before `</think>`; all tokens before an idea where that is missing."""
    before = completion.partition("[Experiment]")[0]
    return len([word for word in before.split() if word != "</think>"])


def vectors_of(ideas: Iterable[list[Edit]]) -> np.ndarray:
    """Ideas as sets of edits, each a row of length 1.  [N, 80]"""
    rows = list(ideas)
    out = np.zeros((len(rows), KNOBS * VALUES), np.float32)
    for row, edits in enumerate(rows):
        for knob, value in edits:
            out[row, knob * VALUES + value] = 1 / len(edits) ** 0.5
    return out


def _by_step(rows: list[Rollout]) -> list[list[Rollout]]:
    steps: dict[int, list[Rollout]] = {}
    for row in rows:
        steps.setdefault(row.step, []).append(row)
    return list(steps.values())


POINTS = 24
"""Points of a curve or a trajectory that the results store."""


def _thinned(steps: list[list[Rollout]]) -> list[list[Rollout]]:
    return [steps[at] for at in _spread(len(steps))]


def _spread(count: int) -> list[int]:
    """Indices spread evenly over a list, first and last included."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, POINTS))}) if count else []
