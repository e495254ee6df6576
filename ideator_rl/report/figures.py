"""Which charts a run is shown by, and the words beside each.  A chart that would be empty is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from markupsafe import Markup

from ideator_rl.experiment import FINAL, LOST, RUNNING, SUCCEEDED
from ideator_rl.report import charts
from ideator_rl.storage.records import Run, Step
from ideator_rl.text import number

STATUSES = (*FINAL, LOST, RUNNING)
"""Their place here is their colour's number."""


@dataclass(frozen=True)
class Figure:
    heading: str
    remark: str
    legend: list[tuple[str, str]]
    """(CSS variable of the colour, words)"""
    drawing: Markup | None


def run_figures(name: str, run: Run, steps: list[Step], baseline: charts.Baseline | None) -> list[Figure]:
    """The charts of one run, in the order they are shown."""
    made = [
        _best(name, run, baseline),
        _metric(name, run, steps, baseline),
        _success(name, steps),
        _outcomes(name, run, steps),
        _reward(name, steps),
        _distinct(name, steps),
    ]
    return [figure for figure in made if figure.drawing is not None]


def progress(run: Run) -> tuple[charts.Line, charts.Line]:
    """The best so far, and the single successes, over the experiments that were run."""
    better = min if run.direction == "min" else max
    line, dots = charts.Line([], []), charts.Line([], [])
    for count, record in enumerate(run.ran, 1):
        if record.status == SUCCEEDED and record.metric:
            dots.x.append(count)
            dots.y.append(record.metric["value"])
        if dots.y:
            line.x.append(count)
            line.y.append(better([*line.y[-1:], dots.y[-1]]))
    return line, dots


def _best(name: str, run: Run, baseline: charts.Baseline | None) -> Figure:
    line, dots = progress(run)
    again = _again(run)
    baselines = [baseline] if baseline else []
    drawing = charts.best_so_far([line], dots, baselines, f"Best so far, {name}", _said(line), again)
    legend = [("series-0", "best so far"), ("dot", "one success"), *_legend(baseline)]
    legend += [("series-1", "run again: mean and standard deviation")] if again else []
    remark = f"{_better(run)}. Over the experiments that ran, as proposed; what lies far off is outside the frame."
    return Figure(f"Best {run.metric} so far", remark, legend, drawing)


def _again(run: Run) -> list[charts.Repeated]:
    """What was run more than once, at the place of its first run."""
    repeated = []
    for count, record in enumerate(run.ran, 1):
        values = run.values(record) if record.status == SUCCEEDED else []
        if len(values) > 1:
            repeated.append(charts.Repeated(count, mean(values), stdev(values)))
    return repeated


def _metric(name: str, run: Run, steps: list[Step], baseline: charts.Baseline | None) -> Figure:
    heading = f"{run.metric} of the successes by step"
    drawing = charts.by_step(
        [step.step + 1 for step in steps],
        [[step.mean for step in steps], [step.best for step in steps]],
        f"{heading}, {name}",
        _TABLE,
        errors=_errors(run, steps),
        baseline=baseline,
        framed=True,
    )
    legend = [("series-0", "mean, with its standard error"), ("series-1", "best"), *_legend(baseline)]
    remark = f"{_better(run)}. The error is within the step, not between runs. Far outliers: outside the frame."
    return Figure(heading, remark, legend, drawing)


def _success(name: str, steps: list[Step]) -> Figure:
    heading = "Success rate by step"
    curve = [step.success for step in steps]
    drawing = charts.by_step([step.step + 1 for step in steps], [curve], f"{heading}, {name}", _TABLE, percent=True)
    return Figure(heading, "Successes among known outcomes; what was lost is not the idea's fault.", [], drawing)


def _outcomes(name: str, run: Run, steps: list[Step]) -> Figure:
    heading = "Outcomes by step"
    place = {step.step: i for i, step in enumerate(steps)}
    layers = [[0] * len(steps) for _ in STATUSES]
    for row in run.rollouts:
        layers[STATUSES.index(row.status)][place[row.step]] += 1
    drawing = charts.stacked([step.step + 1 for step in steps], layers, f"{heading}, {name}", _TABLE)
    legend = [(f"status-{i}", status) for i, status in enumerate(STATUSES) if any(layers[i])]
    return Figure(heading, "Proposals by status.", legend, drawing)


def _reward(name: str, steps: list[Step]) -> Figure:
    heading = "Mean reward by step"
    curve = [step.reward for step in steps]
    drawing = charts.by_step([step.step + 1 for step in steps], [curve], f"{heading}, {name}", _TABLE)
    return Figure(heading, "What the learner got: failures included, the lost left out.", [], drawing)


def _distinct(name: str, steps: list[Step]) -> Figure:
    heading = "Distinct ideas by step"
    known = [step.succeeded + step.failed for step in steps]
    curve = [step.distinct / count if count else None for step, count in zip(steps, known, strict=True)]
    drawing = charts.by_step([step.step + 1 for step in steps], [curve], f"{heading}, {name}", _TABLE, percent=True)
    return Figure(heading, "Records of their own among known outcomes: a fall warns of collapse.", [], drawing)


_TABLE = "The numbers are in the table by step."


def _errors(run: Run, steps: Sequence[Step]) -> list[float | None]:
    """Standard error of the mean metric of each step's successes; None for fewer than two."""
    values: dict[int, list[float]] = {step.step: [] for step in steps}
    for row in run.rollouts:
        if row.status == SUCCEEDED and row.metric is not None:
            values[row.step].append(row.metric)
    return [stdev(some) / len(some) ** 0.5 if len(some) > 1 else None for some in values.values()]


def _legend(baseline: charts.Baseline | None) -> list[tuple[str, str]]:
    return [("baseline", "baseline: mean and range")] if baseline else []


def _better(run: Run) -> str:
    return "Lower is better" if run.direction == "min" else "Higher is better"


def _said(line: charts.Line) -> str:
    if not line.x:
        return "No experiment succeeded."
    return f"From {number(line.y[0])} after experiment {line.x[0]} to {number(line.y[-1])} after {line.x[-1]}."
