"""The charts of a model card: those of the report, as SVG files that need no page.

The report colours its charts by CSS variables of its page.  A file has no page: colours, font and background are
written into it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ideator_rl.report import charts
from ideator_rl.report.figures import best_marks, step_lines
from ideator_rl.report.progress import by_count
from ideator_rl.storage.run_reader import Run

COLOURS = {"ink-soft": "#5b636d", "grid": "#e3e5e8", "baseline": "#8a6d1f", "dot": "#8f9db0"} | {
    f"series-{index}": colour
    for index, colour in enumerate(
        ("#2b5fa6", "#d0722a", "#2f8f5b", "#8b5fb0", "#b8435a", "#3a8f9c", "#7d6b3d", "#6b7785")
    )
}
_VARIABLE = re.compile(r"var\(--([\w-]+)\)")
_OPEN = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" '


@dataclass(frozen=True)
class CardChart:
    file: str
    svg: str
    caption: str


def charts_of_run(run: Run) -> list[CardChart]:
    """Mean reward by step, and the best metric so far; each only if it has a point."""
    result = []
    steps = run.by_step()
    rewards = [step.reward for step in steps]
    if any(reward is not None for reward in rewards):
        title = "Mean reward by step"
        svg = charts.chart(title, "", step_lines([step.step for step in steps], [rewards]), "step")
        result.append(CardChart("reward.svg", _standalone(svg), f"{title}: failures included, what was lost left out."))

    values = [e.metric["value"] for e in run.baselines if e.metric]
    baselines = [charts.Baseline(min(values), sum(values) / len(values), max(values))] if values else []
    if (best := best_marks(run, by_count(run))) is not None:
        marks, metrics, best_metric = best
        y_axis = charts.frame(metrics, [best_metric, *(line.mean for line in baselines)])
        title = f"Best {run.metric} so far"
        svg = charts.chart(title, "", [*marks, *baselines], "experiments run", y_axis)
        better = "lower" if run.direction == "min" else "higher"
        caption = f"{title} ({better} is better) over the experiments that ran; dots are single successes"
        caption += ", the dashed line is the baseline's mean." if baselines else "."
        result.append(CardChart("best.svg", _standalone(svg), caption))
    return result


def _standalone(svg: str) -> str:
    body = _VARIABLE.sub(lambda match: COLOURS[match[1]], str(svg)).removeprefix("<svg ")
    attributes, bracket, content = body.partition(">")
    return f'{_OPEN}{attributes}{bracket}<rect width="100%" height="100%" fill="#ffffff"/>{content}\n'
