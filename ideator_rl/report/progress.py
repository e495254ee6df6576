"""A run as curves: the best so far and the mean of the last successes, by experiments run and by what they cost.

Distinct experiments that ran are counted in the order of their proposals.  The cost of an idea that never ran is
added before the next experiment that did.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.storage.run_reader import Run

LAST = 16
"""Successes that a moving mean is taken over."""

HOURS, MINUTES, USD, GPU = "hours of experiments", "minutes of experiments", "USD", "GPU-hours"


@dataclass(frozen=True)
class Curve:
    """Values that hold from a point on: `y[i]` from `x[i]` until `x[i + 1]`."""

    x: list[float]
    y: list[float]
    end: float
    """Where the curve ends."""

    def at(self, x: float) -> float | None:
        """The value at a point; None before the first, or past the end."""
        index = bisect_right(self.x, x) - 1
        return self.y[index] if index >= 0 and x <= self.end else None


def best_so_far(run: Run, places: Sequence[float]) -> Curve:
    """The best after each experiment.

    Args:
        places: of every experiment of `run.ran` on the axis.
    """
    better = min if run.direction == "min" else max
    x: list[float] = []
    y: list[float] = []
    for place, record in zip(places, run.ran, strict=True):
        if record.status == SUCCEEDED and record.metric and (not y or better(y[-1], record.metric["value"]) != y[-1]):
            x.append(place)
            y.append(record.metric["value"])
    return Curve(x, y, places[-1] if places else 0.0)


def moving_mean(run: Run, places: Sequence[float]) -> Curve:
    """The mean of the last `LAST` successes, or of as many as there were."""
    last: deque[float] = deque(maxlen=LAST)
    x: list[float] = []
    y: list[float] = []
    for place, record in zip(places, run.ran, strict=True):
        if record.status == SUCCEEDED and record.metric:
            last.append(record.metric["value"])
            x.append(place)
            y.append(sum(last) / len(last))
    return Curve(x, y, places[-1] if places else 0.0)


def by_count(run: Run) -> list[float]:
    """1, 2, 3 … for the experiments that ran."""
    return [float(count) for count in range(1, len(run.ran) + 1)]


def by_cost(run: Run, unit: str) -> list[float]:
    """The total cost when each experiment that ran had ended, in one of `units`."""
    ran = {record.id for record in run.ran}
    order = [*dict.fromkeys(row.experiment_id for row in run.rollouts), *(record.id for record in run.ran)]
    total, places = 0.0, []
    for id in dict.fromkeys(order):
        record = run.experiments.get(id)
        if record is None:
            continue
        total += _price(record, unit)
        if id in ran:
            places.append(total)
    # The ledger's GPU-hours are spread over the seconds of all experiments, those outside the search included.
    if unit == GPU and total:
        scale = run.spent.get("gpu_hours", 0.0) / sum(_price(record, unit) for record in run.experiments.values())
        return [place * scale for place in places]
    return places


def units(runs: Sequence[Run]) -> list[str]:
    """The units of cost that these runs have, the most telling first; time of experiments where nothing was paid.

    GPU-hours are the ledger's total, spread over all experiments by their seconds, since records do not hold them.
    The share of baselines and re-runs is left out: it was not paid to find an idea.
    """
    cost_units = []
    if any(run.spent.get("gpu_hours") for run in runs):
        cost_units.append(GPU)
    if any(_price(record, USD) for run in runs for record in run.experiments.values()):
        cost_units.append(USD)
    hours = max((sum(_price(record, HOURS) for record in run.ran) for run in runs), default=0.0)
    if not cost_units and hours:
        cost_units.append(HOURS if hours > 3 else MINUTES)
    return cost_units


def _price(record: Experiment, unit: str) -> float:
    if unit == USD:
        return record.cost.get("usd", 0.0)
    return experiment_seconds(record) / (60 if unit == MINUTES else 3600)


def experiment_seconds(record: Experiment) -> float:
    """Seconds that an experiment ran and was scored, a second time too where its result had to be confirmed."""
    return sum(record.seconds.get(phase, 0.0) for phase in ("run", "score", "confirm", "cascade"))
