"""Charts as SVG for a page: drawn by matplotlib, coloured by the page.

Guarantees: an SVG holds numbers, fixed words, and an escaped title and description; no script, no link, no font or
file from elsewhere.  Colours are CSS variables of the page, which decides on light, dark and print;
text stays text, in the page's own font.

Why matplotlib: some 10 kB a chart that needs no script, so that the page may forbid all scripts but its own; plotly's
smallest self-contained page carries 4.8 MB of JavaScript.
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

from ideator_rl.text.display import encodable, visible

# Matplotlib draws in these colours; in the SVG each is replaced by the CSS variable that belongs to it.
INK, GRID, BASELINE, DOT = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0102{i:02x}" for i in range(8))
STATUS = tuple(f"#0103{i:02x}" for i in range(16))
VARIABLES = {INK: "ink-soft", GRID: "grid", BASELINE: "baseline", DOT: "dot"}
VARIABLES |= {colour: f"series-{i}" for i, colour in enumerate(SERIES)}
VARIABLES |= {colour: f"status-{i}" for i, colour in enumerate(STATUS)}

DASHES: tuple[tuple[str, Any], ...] = (("", "solid"), ("dashed", (0, (5, 2))), ("dotted", (0, (1, 2))))
"""Lines beyond the number of colours repeat the colours with these strokes; (name, matplotlib's line style)."""
WIDTH_INCHES, HEIGHT_INCHES, POINTS_PER_INCH = 5.6, 3.0, 72

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


def dash(index: int) -> tuple[str, Any]:
    """Name and line style of the line at this index: no two of the first two dozen look alike."""
    return DASHES[index // len(SERIES) % len(DASHES)]


def series(index: int) -> str:
    """The colour of the line at this index."""
    return SERIES[index % len(SERIES)]


def variable(colour: str) -> str:
    """The CSS variable of a colour, for a legend."""
    return VARIABLES[colour]


Mark = Callable[[Axes], object]
"""Draws something on a chart."""
Point = tuple[float, float]


def line(
    x: Sequence[float], y: Sequence[float | None], colour: str, width: float = 2.0, *, style: Any = "solid",
    steps: bool = False, marker: float = 0.0, order: float = 2.0,
) -> Mark:  # fmt: skip
    """A line through points; None is a gap.

    Args:
        steps: each value holds until the next point.
        marker: diameter of a dot at each point, in points.
        order: marks of a higher order are drawn later.
    """
    values = [math.nan if value is None else value for value in y]
    return lambda axes: axes.plot(
        x, values, color=colour, linewidth=width, linestyle=style, zorder=order, marker="o" if marker else "",
        markersize=marker, markeredgewidth=0, drawstyle="steps-post" if steps else "default",
    )  # fmt: skip


def dots(x: Sequence[float], y: Sequence[float], colour: str = DOT, size: float = 3.7) -> Mark:
    """Points, as lines of no length with round ends."""
    points = list(zip(x, y, strict=True))
    return segments([(point, point) for point in points], colour, size, order=1)


def segments(ends: Sequence[tuple[Point, Point]], colour: str, width: float, *, order: float = 2.0) -> Mark:
    """Straight lines between two points each, as one path, since thousands of elements would make a page slow."""
    path = Path([point for pair in ends for point in pair], [Path.MOVETO, Path.LINETO] * len(ends))
    path.should_simplify = False  # a line of no length would be simplified away

    def draw(axes: Axes) -> None:
        axes.add_patch(PathPatch(path, edgecolor=colour, fill=False, linewidth=width, capstyle="round", zorder=order))
        axes.update_datalim(path.vertices)
        axes.autoscale_view()

    return draw


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, steps: bool = False) -> Mark:
    """The area between two lines."""
    return lambda axes: axes.fill_between(
        x, low, high, color=colour, alpha=0.18, linewidth=0, step="post" if steps else None
    )


def error_bars(
    x: Sequence[float], y: Sequence[float], errors: Sequence[Any], colour: str, width: float = 1.2, *,
    opacity: float = 1.0, marker: float = 0.0,
) -> Mark:  # fmt: skip
    """Bars of these half-lengths, or from a list of lengths below and one of lengths above; with a marker also dots."""
    return lambda axes: axes.errorbar(
        x, y, yerr=errors, fmt="o" if marker else "none", color=colour, ecolor=colour, markersize=marker,
        markeredgewidth=0, elinewidth=width, alpha=opacity,
    )  # fmt: skip


def bars(
    x: Sequence[float], layers: Sequence[Sequence[float]], colours: Sequence[str], width: float = 0.72,
    opacity: float = 1.0,
) -> Mark:  # fmt: skip
    """Stacked bars: one for each x, with `layers[i]` in `colours[i]`."""

    def draw(axes: Axes) -> None:
        bottom = [0.0] * len(x)
        for layer, colour in zip(layers, colours, strict=False):
            if any(layer):
                axes.bar(x, layer, bottom=bottom, color=colour, width=width, linewidth=0, alpha=opacity)
                bottom = [under + height for under, height in zip(bottom, layer, strict=True)]

    return draw


@dataclass(frozen=True)
class Baseline:
    """A mark: mean and range of the baseline's runs, across the whole chart."""

    low: float
    mean: float
    high: float

    def __call__(self, axes: Axes) -> None:
        axes.axhline(self.mean, color=BASELINE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1.5)
        if self.high > self.low:
            axes.axhspan(self.low, self.high, color=BASELINE, alpha=0.15, linewidth=0, zorder=0.5)


def level(value: float, colour: str, style: Any = (0, (1, 2))) -> Mark:
    """A thin line across the whole chart."""
    return lambda axes: axes.axhline(value, color=colour, linewidth=1.2, linestyle=style, zorder=1.4)


@dataclass(frozen=True)
class YAxis:
    """The vertical axis."""

    label: str = ""
    limits: tuple[float, float] | None = None
    ticks: str = ""
    """`percent` for shares of one, `count` for whole numbers."""


SHARES = YAxis(limits=(-0.03, 1.03), ticks="percent")


def frame(cloud: Sequence[float], required: Sequence[float]) -> YAxis:
    """An axis with all required values and the middle eight tenths of the cloud.

    One diverged run must not flatten the others.
    """
    ordered = sorted(cloud)
    edge = len(ordered) // 10
    values = [*required, *ordered[edge : len(ordered) - edge]]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return YAxis(limits=(low - margin, high + margin))


def chart(
    title: str,
    description: str,
    marks: Sequence[Mark],
    x_label: str,
    y: YAxis = YAxis(),  # noqa: B008 - frozen
    *,
    x_names: Sequence[str] = (),
    x_counts: bool = True,
) -> Markup:
    """Draw marks on one pair of axes.

    Args:
        title, description: the text alternative of the drawing.
        x_names: names at 0, 1, 2 … on the horizontal axis, in the place of numbers.
        x_counts: the horizontal axis has whole numbers.
    """
    name = "c" + hashlib.sha256(encodable(title + description).encode()).hexdigest()[:10]
    # The salt makes the names inside the SVG the same each time, and different from those of other charts of the page.
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=POINTS_PER_INCH)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for mark in marks:
            mark(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y.label)
        if y.limits is not None:
            axes.set_ylim(*y.limits)
        if y.ticks == "percent":
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        elif y.ticks == "count":
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        if x_names:
            axes.set_xticks(range(len(x_names)), [visible(x_name) for x_name in x_names])
            axes.set_xlim(-0.6, len(x_names) - 0.4)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=x_counts, min_n_ticks=1))
        figure.subplots_adjust(left=_left_margin(axes), right=0.975, top=0.96, bottom=0.17)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_for_page(file.getvalue(), title, description, name))


def _left_margin(axes: Axes) -> float:
    """Room for the numbers at the left, as a share of the width: a layout engine would draw everything twice."""
    longest = max(map(len, axes.yaxis.get_major_formatter().format_ticks(list(axes.get_yticks()))), default=0)
    points = longest * 6.6 + 10 + (18 if axes.get_ylabel() else 0)
    return points / (WIDTH_INCHES * POINTS_PER_INCH)


def _for_page(svg: str, title: str, description: str, name: str) -> str:
    """The drawing without what a page does not need: prologue, metadata, its own styles, names without a reference."""
    # Whatever matplotlib writes before and into the <svg> tag is replaced by a tag of our own.
    body = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([\d. ]+)"', body)
    assert view is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", body, flags=re.S)
    # Only ids that something refers to stay; matplotlib names every element.
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r"#01[0-9a-f]{4}", lambda match: f"var(--{VARIABLES[match[0]]})", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    head = f'<svg role="img" viewBox="{view[1]}" aria-labelledby="{name}t {name}d">'
    alternative = (
        f'<title id="{name}t">{escape(visible(title))}</title><desc id="{name}d">{escape(visible(description))}</desc>'
    )
    return head + alternative + body
