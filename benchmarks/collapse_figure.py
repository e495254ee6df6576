"""The figure of the collapse benchmark: best idea by experiments and by ideas, and what became of the populations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from collapse_methods import BATCH, BUDGET, LONG, MAIN, METHODS, MOST_PROPOSED, UNSEEN

COLOURS = dict(zip(MAIN, ("#d1495b", "#2e5eaa", "#3c896d", "#8d99ae", "#e08e45"), strict=True))
PANELS = (
    ("mean", "mean reward of a step"),
    ("success", "success"),
    ("best", "best metric of a step"),
    ("vendi", "Vendi score of 32 ideas"),
    ("thought", "tokens of thought"),
)
GRID = np.linspace(0, 1, 24)

Cell = dict[str, Any]


def draw(results: list[Cell], path: Path) -> None:
    plt.rcParams.update({"svg.hashsalt": "collapse", "font.size": 9})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 4, figsize=(14, 6), layout="constrained")
    by_executions, by_ideas, long, *panel_axes = axes.flat
    for name in MAIN:
        cells = _cells(results, name, BUDGET)
        if not cells:
            continue
        style = {"color": COLOURS[name], "label": METHODS[name].label}
        _band(by_executions, GRID * BUDGET, [cell["curve"] for cell in cells], style)
        _band(by_ideas, GRID * MOST_PROPOSED, [_by_ideas(cell) for cell in cells], style)
        if further := _cells(results, name, LONG):
            _band(long, GRID * LONG, [cell["curve"] for cell in further], style)
        for axis, (field, _) in zip(panel_axes, PANELS, strict=True):
            ideas = GRID * min(cell["steps"][-1]["step"] for cell in cells) * BATCH
            _band(axis, ideas, [_trajectory(cell, field, ideas) for cell in cells], style)
    for axis, label in ((by_executions, "unique experiments"), (by_ideas, "ideas proposed")):
        axis.set(xlabel=label, ylabel="best idea: 0 baseline, 1 optimum")
    long.set(xlabel="unique experiments, four times as many", ylabel="best idea")
    for axis, (_, label) in zip(panel_axes, PANELS, strict=True):
        axis.set(xlabel="ideas proposed", ylabel=label)
    figure.legend(*by_executions.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _cells(results: list[Cell], name: str, budget: int) -> list[Cell]:
    return [c for c in results if c["method"] == name and c["landscape"] in UNSEEN and c["budget"] == budget]


def _band(axis: Any, x: np.ndarray, rows: list[list[float]], style: dict[str, Any]) -> None:
    """Mean over landscapes, and its standard error."""
    values = np.asarray(rows, float)
    mean = values.mean(0)
    error = values.std(0) / max(1, len(values) - 1) ** 0.5
    axis.plot(x, mean, lw=1.6, **style)
    axis.fill_between(x, mean - error, mean + error, color=style["color"], alpha=0.18, lw=0)


def _by_ideas(cell: Cell) -> list[float]:
    """The curve over ideas proposed; flat from where the cell ended."""
    count = len(cell["curve"])
    executions = np.linspace(0, BUDGET, count)
    ran = np.linspace(0, cell["executed"], len(cell["proposed_by"]))
    ran_at_ideas = np.interp(GRID * MOST_PROPOSED, cell["proposed_by"], ran)
    return [float(value) for value in np.interp(ran_at_ideas, executions, cell["curve"])]


def _trajectory(cell: Cell, field: str, ideas: np.ndarray) -> list[float]:
    """A figure of the steps over ideas proposed."""
    points = [(step["step"] * BATCH, step[field]) for step in cell["steps"] if step[field] is not None]
    if not points:
        return [float("nan")] * len(ideas)
    x, y = zip(*points, strict=True)
    return [float(value) for value in np.interp(ideas, x, y)]
