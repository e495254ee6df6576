"""Figures of a run whose ideas were screened: how good the forecasts were, and what choosing by them was worth.

Forecasts are those of the journal, made before the outcomes.  Rewards are on the execution reward's scale, higher is
better.  A run without forecasts has none of these figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.report import charts
from ideator_rl.report.charts import BASELINE, DOT, SERIES, SHARES, YAxis, chart, frame, variable
from ideator_rl.report.figures import Figure, step_lines
from ideator_rl.report.run_view import RunView
from ideator_rl.screen.accuracy import LEVEL, coverage, interval_width, pair_accuracy, reliability
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.screen.figures import ScreenStep, screen_steps
from ideator_rl.storage.forecasts import ForecastOutcome
from ideator_rl.text.display import share

MIN_IDEAS = 12
"""Ideas with forecast and outcome that the first two figures need."""
MAX_DOTS = 1_000
"""Ideas drawn as dots; of more, evenly many over the run."""
CHANCE_LIFT = 1.0
BAND_POINTS = 24
"""Points of the line and band in the figure of rewards."""


def screen_figures(view: RunView) -> list[Figure]:
    """The figures that this run has forecasts for."""
    rows = view.run.forecasts
    if not rows:
        return []
    # An idea that was not run, is still running or was lost shows nothing about its forecast.
    settled = [row for row in rows if row.status and row.forecast.mean is not None]
    steps = screen_steps(rows)
    reliability_figure = _reliability(view, *_fair_sample(settled))
    rewards_figure = _rewards(view, *_fair_sample([row for row in settled if row.status == SUCCEEDED]))
    figures = [reliability_figure, rewards_figure, _lift(view, steps), _samples(view, steps)]
    return [figure for figure in figures if figure is not None]


def _fair_sample(settled: list[ForecastOutcome]) -> tuple[list[ForecastOutcome], str]:
    """The ideas that show how right forecasts are, and what to call them.

    Ideas were chosen for forecasts that were too good on average: where there are enough, those drawn at random count.
    """
    audited = [row for row in settled if row.forecast.audited]
    if len(audited) >= MIN_IDEAS:
        return audited, "ideas drawn at random"
    return settled, "ideas, most of them chosen for their forecasts"


def _reliability(view: RunView, settled: Sequence[ForecastOutcome], sample: str) -> Figure | None:
    """Forecast chance of success against the share that succeeded."""
    chances = [row.forecast.success or 0.0 for row in settled]
    successes = [row.status == SUCCEEDED for row in settled]
    if len(settled) < MIN_IDEAS:
        return None
    bins = reliability(chances, successes)
    area = pair_accuracy([(chances, [float(success) for success in successes])])
    heading = "Success against its forecast"
    order = "All had the same outcome"
    if area is not None:
        order = f"Of a success and a failure, {share(area)} in the right order"
    remark = "Share of successes by forecast chance; the dotted line is a right forecast. "
    remark += f"{len(settled)} {sample}. {order}."
    forecasts, observed = [b.forecast for b in bins], [b.observed for b in bins]
    # Bars show how many ideas a point rests on, as a share of all.
    counts = charts.bars(
        [(b.low + b.high) / 2 for b in bins], [[b.count / len(settled) for b in bins]], SERIES[1:], 0.09, 0.3
    )
    marks = [
        counts,
        charts.line([0, 1], [0, 1], BASELINE, 1.2, style="dotted"),
        charts.line(forecasts, observed, SERIES[0], marker=6),
    ]
    description = "; ".join(f"{b.forecast:.2f}: {b.observed:.2f} of {b.count}" for b in bins) + "."
    legend = [(variable(SERIES[0]), "succeeded"), (variable(SERIES[1]), "share of the ideas")]
    drawing = chart(f"{heading}, {view.name}", description, marks, "forecast chance", SHARES, x_counts=False)
    return Figure(heading, remark, legend, drawing)


def _rewards(view: RunView, settled: Sequence[ForecastOutcome], sample: str) -> Figure | None:
    """Reward of successes against the forecast, with the interval that should hold 80 %."""
    successes = [row for row in settled if row.status == SUCCEEDED and row.reward is not None]
    if len(successes) < MIN_IDEAS:
        return None
    means = np.array([row.forecast.mean for row in successes], float)
    deviations = np.array([row.forecast.sd for row in successes], float)
    rewards = np.array([row.reward for row in successes], float)
    pairs = pair_accuracy(_by_fit(successes))
    covered = coverage(means.tolist(), deviations.tolist(), rewards.tolist())
    heading = "Reward against its forecast"
    remark = f"Successes. The band should hold {share(LEVEL)}, and holds {share(covered)} of {len(successes)} {sample}."
    if pairs is not None:
        remark += f" Of two ideas with forecasts of one fit, {share(pairs)} in the right order; chance is 50 %."
    # The deviations differ between ideas: the band has their mean among ideas of about equal forecast.
    order = np.argsort(means, kind="stable")
    groups = [group for group in np.array_split(order, min(BAND_POINTS, len(order) // 4 or 1)) if len(group)]
    half = [interval_width(LEVEL) * float(deviations[group].mean()) for group in groups]
    # From the lowest forecast to the highest.
    x = [float(means.min()), *(float(means[group].mean()) for group in groups), float(means.max())]
    half = [half[0], *half, half[-1]]
    low = [value - width for value, width in zip(x, half, strict=True)]
    high = [value + width for value, width in zip(x, half, strict=True)]
    drawn = np.linspace(0, len(successes) - 1, min(MAX_DOTS, len(successes))).astype(int)
    marks = [
        charts.band(x, low, high, SERIES[0]),
        charts.line(x, x, BASELINE, 1.2, style="dotted"),
        charts.dots(means[drawn].tolist(), rewards[drawn].tolist()),
    ]
    if len(drawn) < len(successes):
        remark += f" {len(drawn)} of them are drawn."
    legend = [(variable(DOT), "one success"), (variable(SERIES[0]), f"{share(LEVEL)} interval")]
    y = frame(rewards.tolist(), [*low, *high])
    drawing = chart(f"{heading}, {view.name}", remark, marks, "forecast reward", y, x_counts=False)
    return Figure(heading, remark, legend, drawing)


def _by_fit(rows: Sequence[ForecastOutcome]) -> list[tuple[list[float], list[float]]]:
    """Forecasts and rewards of successes that one fit forecast in one step."""
    pools: dict[tuple[int, str], tuple[list[float], list[float]]] = {}
    for row in rows:
        forecasts, rewards = pools.setdefault((row.step, row.forecast.version), ([], []))
        forecasts.append(row.forecast.mean or 0.0)
        rewards.append(row.reward or 0.0)
    return list(pools.values())


def _lift(view: RunView, steps: Sequence[ScreenStep]) -> Figure | None:
    """What choosing was worth after each step, with the line below which the gate runs ideas at random."""
    measured = [(step.step + 1, step.lift) for step in steps if step.lift is not None]
    if not measured:
        return None
    gate = _screen_config(view).gate
    closed = sum(not step.is_open for step in steps)
    heading = "Lift by step"
    remark = (
        "Expected improvement: ideas with the best forecasts over ideas drawn at random; 1 is chance. "
        f"{measured[-1][1].value:.2f} at the end. The gate closes where the upper end of the band, one standard error, "
        f"is below its line: in {closed} of {len(steps)} steps."
    )
    x = [number for number, _ in measured]
    highs = [lift.high for _, lift in measured]
    marks = [
        charts.band(x, [lift.value for _, lift in measured], highs, SERIES[0]),
        *step_lines([step.step for step in steps], [[step.lift.value if step.lift else None for step in steps]]),
        charts.level(gate, SERIES[1], "solid"),
        charts.level(CHANCE_LIFT, BASELINE),
    ]
    legend = [(variable(SERIES[0]), "lift"), (variable(SERIES[1]), f"gate: {gate:g}"), (variable(BASELINE), "chance")]
    y = YAxis(limits=(0.0, 1.1 * max(gate, *highs)))
    return Figure(heading, remark, legend, chart(f"{heading}, {view.name}", remark, marks, "step", y))


def _screen_config(view: RunView) -> ScreenConfig:
    """The screen of the recipe; its defaults where the recipe cannot be read."""
    settings = view.run.recipe.get("screen")
    try:
        return ScreenConfig(**settings) if isinstance(settings, dict) else ScreenConfig()
    except (TypeError, ValueError):
        return ScreenConfig()


def _samples(view: RunView, steps: Sequence[ScreenStep]) -> Figure:
    """How many ideas were sampled for each one that was run."""
    curve = [step.sampled / step.executed if step.executed else None for step in steps]
    sampled, executed = sum(step.sampled for step in steps), sum(step.executed for step in steps)
    heading = "Ideas sampled per experiment"
    remark = f"{sampled} sampled, {executed} run. Sampled and not run is no experiment."
    lines = step_lines([step.step for step in steps], [curve])
    y = YAxis(limits=(0.0, 1.1 * max((value for value in curve if value is not None), default=1.0)))
    return Figure(heading, remark, [], chart(f"{heading}, {view.name}", remark, lines, "step", y))
