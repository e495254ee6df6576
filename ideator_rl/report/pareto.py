"""The metric against a secondary metric: every success, and the ideas that no other one is better than in both.

One figure for each secondary metric that env.yaml gives a direction (`metric.secondary`).  Of an idea that ran several
times, the first success counts, since the two numbers must be of one run.
"""

from __future__ import annotations

from collections.abc import Sequence

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.report import charts
from ideator_rl.report.charts import SERIES, Mark, YAxis, chart, variable
from ideator_rl.report.figures import Figure
from ideator_rl.report.run_view import Row, RunView
from ideator_rl.text.display import number

MOST_FIGURES = 6
NAMED = 12
"""Experiments of a front that the remark names."""

Point = tuple[float, float, Row]
"""Secondary metric, metric, and the experiment."""


def pareto_figures(view: RunView) -> list[Figure]:
    """The figures of a run; none where env.yaml gives no secondary metric a direction."""
    metrics = list(view.secondary_directions.items())[:MOST_FIGURES]
    return [figure for name, direction in metrics if (figure := _figure(view, name, direction)) is not None]


def front(points: Sequence[Point], directions: tuple[str, str]) -> list[Point]:
    """The points that no other point is at least as good as in both numbers and better in one; of equal ones the first.

    Args:
        directions: `min` or `max`, of the secondary metric and of the metric.

    Returns:
        them, the best in the secondary metric first.
    """
    signs = [1.0 if direction == "min" else -1.0 for direction in directions]
    best: list[Point] = []
    # Sorted by the first number: a point belongs to the front if the second one is better than all before.
    for point in sorted(points, key=lambda point: (signs[0] * point[0], signs[1] * point[1], point[2].number)):
        if not best or signs[1] * point[1] < signs[1] * best[-1][1]:
            best.append(point)
    return best


def _figure(view: RunView, name: str, direction: str) -> Figure | None:
    points, baselines = _points(view, name)
    if len({point[0] for point in points}) < 2:
        return None
    run = view.run
    ends = front(points, (direction, run.direction))
    x, y = [point[0] for point in points], [point[1] for point in points]
    line_x, line_y = [point[0] for point in ends], [point[1] for point in ends]
    marks: list[Mark] = [charts.dots(x, y), charts.line(line_x, line_y, SERIES[0], 1.3, marker=5)]
    legend = [("dot", "one success"), (variable(SERIES[0]), "no other idea is better in both")]
    if baselines:
        marks.append(charts.dots([b[0] for b in baselines], [b[1] for b in baselines], charts.BASELINE, 6))
        legend.append(("baseline", "baseline"))
    numbers = ", ".join(str(point[2].number) for point in ends[:NAMED]) + (" …" if len(ends) > NAMED else "")
    words = {"min": "lower", "max": "higher"}
    remark = (
        f"{words[run.direction].capitalize()} {run.metric} and {words[direction]} {name} are better. "
        f"On the front: experiment{'s' if len(ends) > 1 else ''} {numbers}. Single runs."
    )
    description = "; ".join(f"{name} {number(point[0])}, {run.metric} {number(point[1])}" for point in ends[:NAMED])
    # A dollar sign would begin a formula.
    x_label, y_axis = name.replace("$", r"\$"), YAxis(run.metric.replace("$", r"\$"))
    title = f"{run.metric} and {name}"
    drawing = chart(f"{title}, {view.name}", description, marks, x_label, y_axis, x_counts=False)
    return Figure(title, remark, legend, drawing)


def _points(view: RunView, name: str) -> tuple[list[Point], list[Point]]:
    """The successes that have this secondary metric, each codebase once; and the baselines."""
    points: dict[str, Point] = {}
    baselines: list[Point] = []
    for row in view.rows:
        record = row.record
        if record is None or record.status != SUCCEEDED or record.metric is None or name not in record.secondary:
            continue
        point = (record.secondary[name], record.metric["value"], row)
        if row.is_baseline:
            baselines.append(point)
        elif not row.is_rerun:
            points.setdefault(record.tree, point)
    return list(points.values()), baselines
