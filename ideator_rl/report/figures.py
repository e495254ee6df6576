"""The figures that show the course and the cost of one run.  A figure that would be empty is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from markupsafe import Markup

from ideator_rl.experiment import FINAL, LOST, RUNNING, SUCCEEDED
from ideator_rl.report import charts
from ideator_rl.report.charts import DOT, SERIES, SHARES, STATUS, Baseline, Mark, YAxis, chart, frame, series, variable
from ideator_rl.report.progress import best_so_far, by_cost, by_count, units
from ideator_rl.report.run_view import RunView
from ideator_rl.storage.run_reader import Run, Step
from ideator_rl.text.display import dollars, number, share, spread

STATUSES = (*FINAL, LOST, RUNNING)
"""A status has the colour `STATUS[i]` of its index here."""
PHASES = ("implement", "queue", "cascade", "run", "score", "confirm")
FEW_STEPS = 40
"""Steps up to which each has room for a visible marker."""
LEDGER = "The ledger also counts calls without a record."
IN_TABLE = "The numbers are in the table by step."


@dataclass(frozen=True)
class Figure:
    """A chart with its heading, its legend and a remark."""

    heading: str
    remark: str
    legend: list[tuple[str, str]]
    """(CSS variable of the colour, text)"""
    drawing: Markup


def numbers_figure(heading: str, remark: str, rows: Sequence[tuple[str, str]]) -> Figure | None:
    """Figures as numbers, where a chart would have one point; None for no rows.

    Args:
        rows: what is measured, and its value.
    """
    row = Markup('<tr><th scope="row">{}</th><td>{}</td></tr>')
    cells = Markup("").join(row.format(name, value) for name, value in rows)
    return Figure(heading, remark, [], Markup('<table class="numbers">{}</table>').format(cells)) if rows else None


def course(view: RunView) -> list[Figure]:
    """How the run went: the best idea so far, metric, outcomes and reward by step."""
    steps = view.steps
    if len(steps) == 1:
        by_unit = (best_figure(view, by_cost(view.run, unit), unit) for unit in units([view.run]))
        best = best_figure(view, by_count(view.run), "experiments run")
        return [figure for figure in (best, _only_step(view, steps[0]), *by_unit) if figure is not None]
    outcomes = [step.succeeded + step.failed for step in steps]
    figures = [
        best_figure(view, by_count(view.run), "experiments run"),
        _metric(view),
        _by_step(view, "Success rate by step", [step.success for step in steps], percent=True,
                 remark="Successes among known outcomes; a lost experiment is not the idea's fault."),
        _outcomes(view),
        _by_step(view, "Mean reward by step", [step.reward for step in steps],
                 remark="What the learner got: failures included, lost experiments left out."),
        _by_step(view, "Distinct ideas by step", percent=True,
                 curve=[step.distinct / count if count else None for step, count in zip(steps, outcomes, strict=True)],
                 remark="Distinct experiments among known outcomes: a fall warns of collapse."),
        *(best_figure(view, by_cost(view.run, unit), unit) for unit in units([view.run])),
    ]  # fmt: skip
    return [figure for figure in figures if figure is not None]


def _only_step(view: RunView, step: Step) -> Figure | None:
    """The curves by step, of a run that has one step."""
    [error] = _standard_errors(view.run, [step])
    count = step.succeeded + step.failed
    spread_text = f" ± {spread(error)} (standard error)" if error else ""
    rows = [
        (f"mean {view.run.metric} of the successes", f"{number(step.mean)}{spread_text}"),
        (f"best {view.run.metric}", number(step.best)),
        ("success rate among known outcomes", share(step.success)),
        ("mean reward, failures included", number(step.reward)),
        ("distinct experiments among known outcomes", share(step.distinct / count if count else None)),
        *((f"outcome {status}", str(n)) for status in STATUSES if (n := view.status_counts_by_step[step.step][status])),
    ]
    return numbers_figure("The only step in numbers", "Curves by step begin with the second one.", rows)


def costs(view: RunView) -> list[Figure]:
    """What was paid, and where the time went, by step."""
    return [figure for figure in (_spending(view), _seconds(view)) if figure is not None]


def best_figure(view: RunView, places: Sequence[float], axis: str) -> Figure | None:
    """The best idea so far.

    Args:
        places: of every experiment of `run.ran` on the horizontal axis: a count, or a cost.
        axis: the label of that axis.
    """
    run, by_experiments = view.run, axis.startswith("experiments")
    if (drawn := best_marks(run, places)) is None:
        return None
    marks, cloud, reached = drawn
    # An idea that was run again is shown at its first run, which has a place among the experiments but not on a cost.
    repeated = _repeated(run, places) if by_experiments else []
    if repeated:
        x, means, deviations = zip(*repeated, strict=True)
        marks.append(charts.error_bars(x, means, deviations, SERIES[1], marker=4))
    # The best, the baseline, repeated ideas and published results are always inside the frame; single successes need
    # not be.
    baselines, published = view.baseline_marks, [r for r in view.references if r.metric == run.metric]
    required = [*(b.mean for b in baselines), *(value for _, value, _ in repeated), *(r.value for r in published)]
    y = frame(cloud, [reached, *required])
    legend = [(variable(SERIES[0]), "best so far"), (variable(DOT), "one success")]
    for index, reference in enumerate(published, 2):
        marks.append(charts.level(reference.value, series(index)))
        legend.append((variable(series(index)), f"{reference.label}: {reference.value:g}"))
    curve = best_so_far(run, places)
    if by_experiments:
        heading, title = f"Best {run.metric} so far", f"Best so far, {view.name}"
        remark = f"{better(run)}. Over the experiments that ran, as proposed; far outliers are outside the frame."
        start = f"From {number(curve.y[0])} after experiment {curve.x[0]:g}"
        description = f"{start} to {number(reached)} after {curve.end:g}."
        legend += _baseline_legend(baselines)
        legend += [(variable(SERIES[1]), "run again: mean and standard deviation")] if repeated else []
    else:
        heading = f"Best {run.metric} so far, by {axis}"
        title, remark = f"{heading}, {view.name}", "Failures cost too, and are counted."
        description = f"{number(reached)} after {curve.end:.3g} {axis}."
    drawing = chart(title, description, [*marks, *baselines], axis, y, x_counts=by_experiments)
    return Figure(heading, remark, legend, drawing)


def best_marks(run: Run, places: Sequence[float]) -> tuple[list[Mark], list[float], float] | None:
    """The best so far as steps, single successes as dots; None without a success.

    Returns:
        The marks, the metrics of all successes, and the best of them.
    """
    curve = best_so_far(run, places)
    if not curve.x:
        return None
    successes = [
        (place, record.metric["value"])
        for place, record in zip(places, run.ran, strict=True)
        if record.status == SUCCEEDED and record.metric
    ]
    x, metrics = [place for place, _ in successes], [metric for _, metric in successes]
    line = charts.line([*curve.x, curve.end], [*curve.y, curve.y[-1]], SERIES[0], steps=True)
    return [charts.dots(x, metrics), line], metrics, curve.y[-1]


def step_lines(steps: Sequence[int], curves: Sequence[Sequence[float | None]]) -> list[Mark]:
    """Curves over steps, counted from 0; None is a gap."""
    width, marker = (2.0, 4.0) if len(steps) <= FEW_STEPS else (1.3, 1.5)
    numbers = [step + 1 for step in steps]
    return [charts.line(numbers, curve, series(index), width, marker=marker) for index, curve in enumerate(curves)]


def better(run: Run) -> str:
    """Which direction is better, as the beginning of a remark."""
    return "Lower is better" if run.direction == "min" else "Higher is better"


def _repeated(run: Run, places: Sequence[float]) -> list[tuple[float, float, float]]:
    """Codebases that were run more than once: the place of their first run, mean and standard deviation."""
    runs = [
        (place, run.values(record) if record.status == SUCCEEDED else [])
        for place, record in zip(places, run.ran, strict=True)
    ]
    return [(place, mean(values), stdev(values)) for place, values in runs if len(values) > 1]


def _by_step(
    view: RunView, heading: str, curve: Sequence[float | None], remark: str, percent: bool = False
) -> Figure | None:
    """A figure of one curve over the steps of the run."""
    if all(value is None for value in curve):
        return None
    lines = step_lines([step.step for step in view.steps], [curve])
    title = f"{heading}, {view.name}"
    return Figure(heading, remark, [], chart(title, IN_TABLE, lines, "step", SHARES if percent else YAxis()))


def _metric(view: RunView) -> Figure | None:
    """Mean and best metric of each step's successes."""
    run, steps = view.run, view.steps
    means = [step.mean for step in steps if step.mean is not None]
    if not means:
        return None
    errors = charts.error_bars(
        [s.step + 1 for s in steps],
        [s.mean or 0.0 for s in steps],
        _standard_errors(run, steps),
        SERIES[0],
        opacity=0.5,
    )
    lines = step_lines([s.step for s in steps], [[s.mean for s in steps], [s.best for s in steps]])
    # The best and the baseline are shown whole, far outliers among the means are not.
    required = [*(s.best for s in steps if s.best is not None), *(b.mean for b in view.baseline_marks)]
    heading = f"{run.metric} of the successes by step"
    legend = [(variable(SERIES[0]), "mean, with its standard error"), (variable(SERIES[1]), "best")]
    return Figure(
        heading,
        f"{better(run)}. The error is within the step, not between runs. Far outliers are outside the frame.",
        legend + _baseline_legend(view.baseline_marks),
        chart(f"{heading}, {view.name}", IN_TABLE, [errors, *lines, *view.baseline_marks], "step",
              frame(means, required)),
    )  # fmt: skip


def _standard_errors(run: Run, steps: Sequence[Step]) -> list[float]:
    """Of the mean metric of each step's successes; 0 for fewer than two."""
    values: dict[int, list[float]] = {step.step: [] for step in steps}
    for row in run.rollouts:
        if row.status == SUCCEEDED and row.metric is not None:
            values[row.step].append(row.metric)
    return [stdev(metrics) / len(metrics) ** 0.5 if len(metrics) > 1 else 0.0 for metrics in values.values()]


def _outcomes(view: RunView) -> Figure | None:
    if not view.steps:
        return None
    layers = [[view.status_counts_by_step[step.step][status] for step in view.steps] for status in STATUSES]
    bars = charts.bars([step.step + 1 for step in view.steps], layers, STATUS)
    legend = [(variable(STATUS[i]), status) for i, status in enumerate(STATUSES) if any(layers[i])]
    heading = "Outcomes by step"
    drawing = chart(f"{heading}, {view.name}", IN_TABLE, [bars], "step", YAxis(ticks="count"))
    return Figure(heading, "Proposals by status.", legend, drawing)


def _spending(view: RunView) -> Figure | None:
    """What the coder was paid, by step."""
    usd_by_step = dict.fromkeys((step.step for step in view.steps), 0.0)
    for row in view.rows:
        if row.record and row.proposals and not row.record.replayed:
            usd_by_step[row.proposals[0].step] += row.record.cost.get("usd", 0.0)
    if not any(usd_by_step.values()):
        return None
    if len(usd_by_step) == 1:
        return numbers_figure("USD paid for code", LEDGER, [("in all", dollars(sum(usd_by_step.values())))])
    heading = "USD paid for code, by step"
    remark = f"{sum(usd_by_step.values()):.4g} USD in all. {LEDGER}"
    bars = charts.bars([step + 1 for step in usd_by_step], [list(usd_by_step.values())], SERIES)
    return Figure(heading, remark, [], chart(f"{heading}, {view.name}", remark, [bars], "step", YAxis("USD")))


def _seconds(view: RunView) -> Figure | None:
    """The mean seconds of each phase of an experiment, by the step that it was proposed in."""
    seconds_by_step: dict[int, dict[str, list[float]]] = {step.step: {} for step in view.steps}
    for row in view.rows:
        if row.record and row.proposals:
            for phase, seconds in row.record.seconds.items():
                seconds_by_step[row.proposals[0].step].setdefault(phase, []).append(seconds)
    by_phase = {
        phase: [step_seconds.get(phase, []) for step_seconds in seconds_by_step.values()]
        for phase in PHASES
        if any(step_seconds.get(phase) for step_seconds in seconds_by_step.values())
    }
    # A step in which no experiment had this phase gets a bar of height 0.
    layers = [[mean(values) if values else 0.0 for values in steps] for steps in by_phase.values()]
    if not any(map(any, layers)):
        return None
    means = {phase: mean([value for values in steps for value in values]) for phase, steps in by_phase.items()}
    overall = ", ".join(f"{phase} {value:.3g} s" for phase, value in means.items())
    heading = "Where an experiment’s seconds went"
    if len(seconds_by_step) == 1:
        remark = "Mean seconds of an experiment; queue is waiting for a free slot."
        return numbers_figure(heading, remark, [(phase, f"{value:.3g} s") for phase, value in means.items()])
    bars = charts.bars([step + 1 for step in seconds_by_step], layers, SERIES)
    return Figure(
        heading,
        f"Means by the step it was proposed in; queue is waiting for a free slot. Over the run: {overall}.",
        [(variable(series(index)), phase) for index, phase in enumerate(by_phase)],
        chart(f"{heading}, {view.name}", overall, [bars], "step", YAxis("seconds")),
    )


def _baseline_legend(baselines: Sequence[Baseline]) -> list[tuple[str, str]]:
    return [("baseline", "baseline: mean and range")] if baselines else []
