"""The figures of a cell of the comparison with a weak ideator, from its run folder.

Ideas are counted in the order of proposal up to the last distinct experiment of the budget.  `success` is the share of
them that ran and were scored.  A screen drops what cannot be run before it chooses, so that its `success` shows the
screen and not the ideator; `runnable_after` of a cell shows the ideator.

`gain` is by how much the best so far is below the baseline, 0 before the first idea that is; `area` its mean over the
experiments of the budget.  The signs of a collapse are those of the paper, for the first and the last third of ideas.
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.diversity.environment_context import EnvironmentContext, context_of_run
from ideator_rl.diversity.rows import Row, rows_of_run
from ideator_rl.diversity.watch import DiversityWatch
from ideator_rl.experiment import LOST, RUNNING, SUCCEEDED
from ideator_rl.storage.run_reader import Run

COMPARED = 16
"""Ideas at which distinct ideas are counted: counts grow with the number of ideas."""
COMMONEST = 2
"""Kinds of change whose share of all ideas is a sign of a collapse."""
DIGITS = 4


def figures_in_budget(run: Run, budget: int) -> dict[str, Any]:
    """
    Args:
        budget: distinct experiments; what was run beyond it is left out.
    """
    executed: set[str] = set()
    curve: list[float | None] = []
    best, best_id, values, ideas, last_step = None, None, list[float](), 0, 0
    for row in run.rollouts:
        if len(executed) == budget:
            break
        ideas, last_step = ideas + 1, row.step
        record = run.experiments.get(row.experiment_id)
        if record is None or not record.tree or record.status == LOST or record.id in executed:
            continue
        executed.add(record.id)
        if record.status == SUCCEEDED and record.metric:
            values.append(float(record.metric["value"]))
            if best is None or values[-1] < best:
                best, best_id = values[-1], record.id
        curve.append(best)
    # Lost ideas have no row: they carry no information about the ideator.
    rows = rows_of_run(run)[: sum(row.status not in (LOST, RUNNING) for row in run.rollouts[:ideas])]
    screened_out = sum(not item.forecast.executed for item in run.forecasts if item.step <= last_step)
    return {
        "proposed": ideas,
        "sampled": ideas + screened_out,
        "executed": len(executed),
        "replayed": sum(run.experiments[id].replayed for id in executed),
        "success": rounded(sum(row.succeeded for row in rows) / len(rows) if rows else None),
        "reward": rounded(statistics.fmean(row.reward or 0.0 for row in rows) if rows else None),
        "mean": rounded(statistics.fmean(values) if values else None),
        "baseline": rounded(run.baseline),
        "best": rounded(best),
        "best_id": best_id,
        "area": rounded(area(curve, run.baseline, budget)),
        "curve": [rounded(value) for value in curve],
        "thirds": thirds(run, rows),
    }


def area(curve: list[float | None], baseline: float | None, budget: int) -> float | None:
    """Mean gain of the best so far over the experiments of the budget; a run that ended early keeps its last."""
    if baseline is None or not curve:
        return None
    gains = [0.0 if value is None else max(0.0, baseline - value) for value in curve]
    return statistics.fmean(gains + gains[-1:] * (budget - len(gains)))


def thirds(run: Run, rows: list[Row]) -> list[dict[str, float | None]]:
    """Success, reward and the paper's signs of a collapse, for each third of the ideas."""
    context = context_of_run(run)
    watch = DiversityWatch(get_embedder("hashed"), context, sample=COMPARED)
    parts = []
    for part in range(3):
        own = rows[len(rows) * part // 3 : len(rows) * (part + 1) // 3]
        watch.add(own)
        window = watch.close_window(1)
        figures = window.figures if window else {}
        parts.append(
            {
                "success": rounded(figures.get("success")),
                "reward": rounded(figures.get("reward_mean")),
                "distinct": rounded(figures.get("distinct_trees")),
                "dispersion": rounded(figures.get("distance")),
                "commonest": rounded(commonest(own, context)),
                "thought": rounded(figures.get("thought_words")),
            }
        )
    return parts


def commonest(rows: list[Row], context: EnvironmentContext) -> float | None:
    """The share of ideas with a codebase that make one of the two commonest kinds of change."""
    kinds = Counter(context.cell(row.patch) for row in rows if row.patch)
    return sum(count for _, count in kinds.most_common(COMMONEST)) / kinds.total() if kinds else None


def rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)
