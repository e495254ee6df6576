"""Charts of runs as SVG for a page: drawn by matplotlib, coloured by the page.

Guarantees: an SVG holds numbers and fixed words only, besides a title and a description that are escaped; no script,
no link, no font or file from elsewhere.  Colours are CSS variables of the page, so that light, dark and print are the
page's matter; text stays text, in the page's own font.

Why matplotlib: some 10 kB a chart that needs no script, so that the page may forbid all of them; plotly's smallest
self-contained page carries 4.8 MB of JavaScript.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ideator_rl.text import visible

INK, GRID, BASELINE, DOT = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0102{i:02x}" for i in range(8))
STATUS = tuple(f"#0103{i:02x}" for i in range(16))
_VARIABLES = {INK: "ink-soft", GRID: "grid", BASELINE: "baseline", DOT: "dot"}
_VARIABLES |= {colour: f"series-{i}" for i, colour in enumerate(SERIES)}
_VARIABLES |= {colour: f"status-{i}" for i, colour in enumerate(STATUS)}

FEW = 40
"""Steps up to which each has room for a mark of its own."""

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 11.5,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.labelcolor": INK,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}


DASHES: tuple[tuple[str, Any], ...] = (("", "solid"), ("dashed", (0, (5, 2))), ("dotted", (0, (1, 2))))
"""Curves beyond the colours there are have the colours again, in strokes with these names."""


def stroke(place: int) -> tuple[str, Any]:
    """Name and line style of a curve, so that no two of the first two dozen look alike."""
    return DASHES[place // len(SERIES) % len(DASHES)]


def series(place: int) -> str:
    """The CSS variable of a curve's colour."""
    return f"series-{place % len(SERIES)}"


@dataclass(frozen=True)
class Line:
    """One run's best so far: `y[i]` after experiment `x[i]`."""

    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Baseline:
    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class Repeated:
    """A codebase that was run several times: at experiment `x`."""

    x: int
    mean: float
    deviation: float


def best_so_far(
    lines: Sequence[Line],
    dots: Line,
    baselines: Sequence[Baseline],
    title: str,
    words: str,
    again: Sequence[Repeated] = (),
    mean: Line | None = None,
) -> Markup | None:
    """Steps down (or up) to the best so far of each run; dots are single successes, and `mean` runs through them.  None
    when there is nothing."""
    if not any(line.x for line in lines):
        return None

    def draw(axes: Axes) -> None:
        scatter(axes, dots, DOT)
        if mean is not None:
            axes.plot(mean.x, mean.y, color=SERIES[2], linewidth=1.3, zorder=1.8)
        for i, line in enumerate(lines):
            axes.step(line.x, line.y, where="post", color=SERIES[i % len(SERIES)], linewidth=2)
        if again:
            x, y, bars = zip(*((one.x, one.mean, one.deviation) for one in again), strict=True)
            axes.errorbar(x, y, yerr=bars, fmt="o", color=SERIES[1], markersize=4, elinewidth=1.2, markeredgewidth=0)
        draw_baselines(axes, baselines)
        reached = [y for line in lines for y in line.y[-1:]]
        cloud = dots.y or [y for line in lines for y in line.y]
        frame(axes, cloud, reached + [one.mean for one in baselines] + [one.mean for one in again])
        axes.set_xlabel("experiments run")

    return svg(draw, title, words)


def by_step(
    steps: Sequence[int],
    curves: Sequence[Sequence[float | None]],
    title: str,
    words: str,
    *,
    errors: Sequence[float | None] = (),
    baseline: Baseline | None = None,
    percent: bool = False,
    framed: bool = False,
) -> Markup | None:
    """Curves over steps; a None is a gap.

    Args:
        errors: half-lengths of bars on the first curve.
        percent: values are shares of one.
        framed: the last curve and the baseline are shown whole, far outliers of the first are not.
    """
    values = [[math.nan if value is None else value for value in curve] for curve in curves]
    if all(math.isnan(value) for curve in values for value in curve):
        return None

    def draw(axes: Axes) -> None:
        if errors:
            bars = [0.0 if error is None else error for error in errors]
            axes.errorbar(steps, values[0], yerr=bars, fmt="none", ecolor=SERIES[0], elinewidth=1.2, alpha=0.5)
        for curve, colour in zip(values, SERIES, strict=False):
            width, mark = (2.0, 4.0) if len(steps) <= FEW else (1.3, 1.5)
            axes.plot(steps, curve, color=colour, linewidth=width, marker="o", markersize=mark, markeredgewidth=0)
        if baseline:
            draw_baselines(axes, [baseline])
        if framed:
            known = [[value for value in curve if not math.isnan(value)] for curve in values]
            frame(axes, known[0], [*known[-1], *([baseline.mean] if baseline else [])])
        if percent:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("step")

    return svg(draw, title, words)


def stacked(steps: Sequence[int], counts: Sequence[Sequence[int]], title: str, words: str) -> Markup | None:
    """One bar a step; `counts[i]` is the layer with colour `--status-i`."""
    if not steps:
        return None

    def draw(axes: Axes) -> None:
        bottom = [0] * len(steps)
        for layer, colour in zip(counts, STATUS, strict=False):
            if any(layer):
                axes.bar(steps, layer, bottom=bottom, color=colour, width=0.72, linewidth=0)
                bottom = [under + count for under, count in zip(bottom, layer, strict=True)]
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("step")

    return svg(draw, title, words)


def draw_baselines(axes: Axes, baselines: Sequence[Baseline]) -> None:
    for one in baselines:
        axes.axhline(one.mean, color=BASELINE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1.5)
        if one.high > one.low:
            axes.axhspan(one.low, one.high, color=BASELINE, alpha=0.15, linewidth=0, zorder=0.5)


def frame(axes: Axes, cloud: Sequence[float], must: Sequence[float]) -> None:
    """Show all of `must` and the middle eight tenths of the cloud: one diverged run must not flatten the rest."""
    ordered = sorted(cloud)
    edge = len(ordered) // 10
    shown = [*must, *ordered[edge : len(ordered) - edge]]
    low, high = min(shown), max(shown)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def scatter(axes: Axes, dots: Line, colour: str, size: float = 3.7) -> None:
    """Dots as one path of points, since thousands of elements would make a page slow."""
    if not dots.x:
        return
    corners = [corner for x, y in zip(dots.x, dots.y, strict=True) for corner in ((x, y), (x, y))]
    path = Path(corners, [Path.MOVETO, Path.LINETO] * len(dots.x))
    path.should_simplify = False  # a line of no length is a dot with round ends, and would be simplified away
    axes.add_patch(PathPatch(path, edgecolor=colour, fill=False, linewidth=size, capstyle="round", zorder=1))
    axes.update_datalim(list(zip(dots.x, dots.y, strict=True)))
    axes.autoscale_view()


def svg(
    draw: Callable[[Axes], None], title: str, words: str, *, whole: bool = True, ticks: Sequence[str] = ()
) -> Markup:
    """What `draw` puts on the axes, for the page.

    Args:
        title, words: what it is called, and what one who does not see it should know.
        whole: the horizontal axis counts.
        ticks: names on it at 0, 1, 2 …, in the place of numbers.
    """
    name = "c" + hashlib.sha256((title + words).encode("utf-8", "replace")).hexdigest()[:10]
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.6, 3.0), dpi=72)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        if ticks:
            axes.set_xticks(range(len(ticks)), [visible(tick) for tick in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=whole, min_n_ticks=1))
        figure.subplots_adjust(left=_left(axes), right=0.975, top=0.96, bottom=0.17)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_for_page(out.getvalue(), title, words, name))


def _left(axes: Axes) -> float:
    """Room for the numbers at the left, as a share of the width: a layout engine would draw everything twice."""
    longest = max(map(len, axes.yaxis.get_major_formatter().format_ticks(list(axes.get_yticks()))), default=0)
    return (longest * 6.6 + 10 + (18 if axes.get_ylabel() else 0)) / (5.6 * 72)


def _for_page(svg: str, title: str, words: str, name: str) -> str:
    """The drawing without what a page has no use for: prologue, metadata, styles of its own, names nobody refers to."""
    body = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([\d. ]+)"', body)
    assert view is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", body, flags=re.S)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r"#01[0-9a-f]{4}", lambda match: f"var(--{_VARIABLES[match[0]]})", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    head = f'<svg role="img" viewBox="{view[1]}" aria-labelledby="{name}t {name}d">'
    said = f'<title id="{name}t">{escape(visible(title))}</title><desc id="{name}d">{escape(visible(words))}</desc>'
    return head + said + body
