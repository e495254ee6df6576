"""Drawings of the report that `charts` has not: bands of seeds, shares with intervals, layers of seconds, lineages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ideator_rl.report.charts import (
    DOT,
    SERIES,
    STATUS,
    Baseline,
    Line,
    draw_baselines,
    frame,
    scatter,
    stroke,
    svg,
)
from ideator_rl.report.groups import Band


@dataclass(frozen=True)
class Bar:
    """A share among those up to a bound."""

    words: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Descents:
    """Ideas as points, and who came from whom: `edges` are pairs of places in `x`, parent first."""

    x: list[float]
    y: list[float]
    edges: list[tuple[int, int]]
    line: list[tuple[int, int]]
    """The edges that lead to the best."""
    best: int


def bands(
    found: Sequence[Band], baselines: Sequence[Baseline], axis: str, title: str, words: str, *, stairs: bool
) -> Markup | None:
    """The mean of each group, and the range of its members as a band."""
    shown = [(place, one) for place, one in enumerate(found) if one.x]
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        for place, one in shown:
            colour = SERIES[place % len(SERIES)]
            if one.low != one.high:
                axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, linewidth=0,
                                  step="post" if stairs else None)  # fmt: skip
            axes.plot(one.x, one.mean, color=colour, linewidth=2, linestyle=stroke(place)[1],
                      drawstyle="steps-post" if stairs else "default")  # fmt: skip
        draw_baselines(axes, baselines)
        cloud = [y for _, one in shown for y in (*one.low, *one.high)]
        settled = [y for _, one in shown for y in one.mean[len(one.mean) // 4 :]]  # what comes first may be far off
        frame(axes, cloud, settled + [one.mean for one in baselines])
        axes.set_xlabel(axis)

    return svg(draw, title, words, whole=axis.startswith("experiments"))


def steps_down(
    line: Line, dots: Line, baselines: Sequence[Baseline], axis: str, title: str, words: str
) -> Markup | None:
    """One run's best so far on an axis that is not a count."""
    if not line.x:
        return None

    def draw(axes: Axes) -> None:
        scatter(axes, dots, DOT)
        axes.plot(line.x, line.y, color=SERIES[0], linewidth=2, drawstyle="steps-post")
        draw_baselines(axes, baselines)
        frame(axes, dots.y or line.y, [line.y[-1]] + [one.mean for one in baselines])
        axes.set_xlabel(axis)

    return svg(draw, title, words, whole=False)


def shares(bars: Sequence[Bar], axis: str, title: str, words: str) -> Markup | None:
    """A share for each range, with its interval."""
    if not bars:
        return None

    def draw(axes: Axes) -> None:
        places = list(range(len(bars)))
        axes.bar(places, [bar.share for bar in bars], color=SERIES[0], width=0.66, linewidth=0, alpha=0.75)
        errors = [[bar.share - bar.low for bar in bars], [bar.high - bar.share for bar in bars]]
        axes.errorbar(places, [bar.share for bar in bars], yerr=errors, fmt="none", ecolor=SERIES[1], elinewidth=1.6)
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel(axis)
        axes.set_xlim(-0.6, len(bars) - 0.4)

    return svg(draw, title, words, ticks=[bar.words for bar in bars])


def layers(steps: Sequence[int], values: Sequence[Sequence[float]], axis: str, title: str, words: str) -> Markup | None:
    """One bar a step, a layer a phase."""
    if not any(any(layer) for layer in values):
        return None

    def draw(axes: Axes) -> None:
        bottom = [0.0] * len(steps)
        for layer, colour in zip(values, SERIES, strict=False):
            axes.bar(steps, layer, bottom=bottom, color=colour, width=0.72, linewidth=0)
            bottom = [under + more for under, more in zip(bottom, layer, strict=True)]
        axes.set_ylabel(axis)
        axes.set_xlabel("step")

    return svg(draw, title, words)


def lineage(found: Descents, baselines: Sequence[Baseline], title: str, words: str) -> Markup | None:
    """Ideas where and as good as they were, lines from parents to children; the best's own line in colour."""
    if not found.edges:
        return None

    def draw(axes: Axes) -> None:
        for edges, colour, width, order in ((found.edges, DOT, 0.8, 1.2), (found.line, SERIES[1], 1.8, 1.6)):
            for parent, child in edges:
                ends = [found.x[parent], found.x[child]], [found.y[parent], found.y[child]]
                axes.plot(*ends, color=colour, linewidth=width, zorder=order)
        scatter(axes, Line(found.x, found.y), STATUS[0], 5.0)
        scatter(axes, Line([found.x[found.best]], [found.y[found.best]]), SERIES[1], 9.0)
        draw_baselines(axes, baselines)
        frame(axes, found.y, [found.y[found.best]] + [one.mean for one in baselines])
        axes.set_xlabel("experiments run")

    return svg(draw, title, words)
