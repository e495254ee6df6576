"""The charts of a card: those of the report, as SVG files that stand alone.

A report colours its charts by the page's style; an image file has no page, so colours, font and paper are written in.
"""

from __future__ import annotations

import re

from markupsafe import Markup

from ideator_rl.report import charts
from ideator_rl.report.figures import best_marks, step_lines
from ideator_rl.report.progress import by_count
from ideator_rl.storage.records import Run

COLOURS = {"ink-soft": "#5b636d", "grid": "#e3e5e8", "baseline": "#8a6d1f", "dot": "#8f9db0"}
SERIES = ("#2b5fa6", "#d0722a", "#2f8f5b", "#8b5fb0", "#b8435a", "#3a8f9c", "#7d6b3d", "#6b7785")
_VARIABLE = re.compile(r"var\(--([\w-]+)\)")
_OPEN = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" '


def drawings(run: Run) -> dict[str, tuple[str, str]]:
    """File name to (SVG, caption), of those that would not be empty."""
    steps, values = run.by_step(), [e.metric["value"] for e in run.baselines if e.metric]
    baselines = [charts.Baseline(min(values), sum(values) / len(values), max(values))] if values else []
    better = "lower" if run.direction == "min" else "higher"
    rewards = [step.reward for step in steps]
    drawn_files: dict[str, tuple[Markup, str]] = {}
    if any(reward is not None for reward in rewards):
        lines = step_lines([step.step for step in steps], [rewards])
        drawn_files["reward.svg"] = (
            charts.chart("Mean reward by step", "", lines, "step"),
            "Mean reward by step: failures included, what was lost left out.",
        )
    if (drawn := best_marks(run, by_count(run))) is not None:
        marks, cloud, reached = drawn
        y = charts.frame(cloud, [reached, *(line.mean for line in baselines)])
        title = f"Best {run.metric} so far"
        drawn_files["best.svg"] = (
            charts.chart(title, "", [*marks, *baselines], "experiments run", y),
            f"{title} ({better} is better) over the experiments that ran; dots are single successes"
            + (", the dashed line is the baseline's mean." if baselines else "."),
        )
    return {name: (_standing_alone(svg), caption) for name, (svg, caption) in drawn_files.items()}


def _standing_alone(svg: Markup) -> str:
    def colour(match: re.Match[str]) -> str:
        kind, _, place = match[1].rpartition("-")
        return SERIES[int(place)] if kind == "series" else COLOURS[match[1]]

    body = _VARIABLE.sub(colour, str(svg)).removeprefix("<svg ")
    head, closing, rest = body.partition(">")
    return f'{_OPEN}{head}{closing}<rect width="100%" height="100%" fill="#ffffff"/>{rest}\n'
