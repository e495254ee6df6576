"""The figures of a comparison: best so far and moving mean of each group, by experiments and by cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ideator_rl.report import charts
from ideator_rl.report.charts import Mark, YAxis, chart, dash, frame, series, variable
from ideator_rl.report.compare import Comparison
from ideator_rl.report.figures import Figure
from ideator_rl.report.groups import SeedBand, seed_band
from ideator_rl.report.progress import LAST, Curve, best_so_far, by_cost, by_count, moving_mean, units
from ideator_rl.storage.run_reader import Run
from ideator_rl.text.display import number


def comparison_figures(comparison: Comparison) -> list[Figure]:
    """Two figures for each axis; those that would be empty are left out."""
    runs = [standing.view.run for standing in comparison.standings]
    axes: list[tuple[str, Callable[[Run], list[float]]]] = [("experiments run", by_count)]
    axes += [(unit, partial(by_cost, unit=unit)) for unit in units(runs)]
    figures = []
    for axis, places in axes:
        best = f"Best {comparison.metric} so far, by {axis}"
        recent = f"Mean {comparison.metric} of the last successes, by {axis}"
        figures.append(_figure(comparison, best, axis, partial(_curve, best_so_far, places), steps=True))
        figures.append(_figure(comparison, recent, axis, partial(_curve, moving_mean, places), steps=False))
    return [figure for figure in figures if figure is not None]


def _curve(curve: Callable[[Run, list[float]], Curve], places: Callable[[Run], list[float]], run: Run) -> Curve:
    return curve(run, places(run))


def _figure(
    comparison: Comparison, heading: str, axis: str, curve: Callable[[Run], Curve], steps: bool
) -> Figure | None:
    """The mean of each group as a line, and the range of its members as a band."""
    bands = [seed_band(group.members, curve) for group in comparison.groups]
    marks: list[Mark] = []
    legend = []
    for index, (group, band) in enumerate(zip(comparison.groups, bands, strict=True)):
        dash_name, style = dash(index)
        legend.append((variable(series(index)), f"{group.name}, {dash_name}" if dash_name else group.name))
        # A group of one run, or of equal runs, has no band; a group without a success has no line either.
        if band.x and band.low != band.high:
            marks.append(charts.band(band.x, band.low, band.high, series(index), steps=steps))
        if band.x:
            marks.append(charts.line(band.x, band.mean, series(index), style=style, steps=steps))
    if not marks:
        return None
    baselines = [mark for group in comparison.groups for mark in group.members[0].baseline_marks]
    if baselines:
        legend.append(("baseline", "baseline"))
    names = " and ".join(group.name for group in comparison.groups)
    remark = f"{comparison.better.capitalize()} is better. "
    remark += (
        "One line is one run, so a gap may be chance. "
        if comparison.single_seeds
        else ("Line: mean over seeds; band: their range. ")
    )
    drawing = chart(
        f"{heading}: {names}",
        " ".join(
            f"{group.name}: {number(band.mean[-1])} after {band.x[-1]:.3g}."
            for group, band in zip(comparison.groups, bands, strict=True)
            if band.x
        ),
        [*marks, *baselines],
        axis,
        _frame(bands, [baseline.mean for baseline in baselines]),
        x_counts=axis.startswith("experiments"),
    )
    return Figure(heading, remark if steps else f"{remark}Over the last {LAST} successes. ", legend, drawing)


def _frame(bands: list[SeedBand], required: list[float]) -> YAxis:
    """All baselines, and the means but for their first quarter, which may be far off."""
    cloud = [y for band in bands for y in (*band.low, *band.high)]
    settled = [y for band in bands for y in band.mean[len(band.mean) // 4 :]]
    return frame(cloud, settled + required)
