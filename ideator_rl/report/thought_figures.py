"""Figures of the thought before an idea: whether its length goes with success, and how that length changes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import mean, median

from scipy.stats import binomtest, spearmanr

from ideator_rl.experiment import OWN_FAILURES, SUCCEEDED
from ideator_rl.report import charts
from ideator_rl.report.charts import SERIES, YAxis, chart, variable
from ideator_rl.report.figures import Figure, step_lines
from ideator_rl.report.run_view import RunView
from ideator_rl.storage.run_reader import Rollout

MAX_BARS = 6
"""Ranges of length that are shown, at most."""
MIN_IDEAS = 12
"""Ideas with an outcome that the figures need."""


def thought_figures(view: RunView) -> list[Figure]:
    """Both figures; none where too few ideas have an outcome, or all thoughts have one length."""
    # Where a text holds no idea, the end of its thought is not known.
    with_idea = [row for row in view.run.rollouts if row.idea]
    finished = [row for row in with_idea if row.status == SUCCEEDED or row.status in OWN_FAILURES]
    lengths = [thought_words(row) for row in finished]
    if len(finished) < MIN_IDEAS or len(set(lengths)) < 2:
        return []
    return [_success_by_length(view, lengths, [row.status == SUCCEEDED for row in finished]),
            _length_by_step(view, with_idea)]  # fmt: skip


def thought_words(row: Rollout) -> int:
    """Words of a completion before its idea."""
    return len(row.thought.split())


def _success_by_length(view: RunView, lengths: Sequence[int], successes: Sequence[bool]) -> Figure:
    correlation = "All have the same outcome."
    if any(successes) and not all(successes):
        test = spearmanr(lengths, successes)
        correlation = f"Rank correlation {test.statistic:+.2f} (Spearman, p = {test.pvalue:.2g}, {len(lengths)} ideas)."
    names, shares, errors = _length_ranges(lengths, successes)
    x = list(range(len(names)))
    heading = "Success by length of the thought"
    drawing = chart(
        f"{heading}, {view.name}",
        "; ".join(f"{name} words: {success:.0%}" for name, success in zip(names, shares, strict=True)) + ".",
        [charts.bars(x, [shares], SERIES, 0.66, 0.75), charts.error_bars(x, shares, errors, SERIES[1], 1.6)],
        "words before the idea",
        YAxis(limits=(0, 1.03), ticks="percent"),
        x_names=names,
    )
    remark = f"About equally many ideas a bar, with the 95 % interval (Wilson) of its share. {correlation}"
    return Figure(heading, remark, [], drawing)


def _length_ranges(
    lengths: Sequence[int], successes: Sequence[bool]
) -> tuple[list[str], list[float], tuple[list[float], list[float]]]:
    """Ideas in order of length, cut where enough are together; equal lengths stay together.

    Returns:
        Of each range its name, as in "3–7", the share of successes, and how far Wilson's 95 % interval of that share
        goes below and above it.
    """
    min_size = len(lengths) / max(2, min(MAX_BARS, len(lengths) // 8))
    names, shares, below, above = list[str](), list[float](), list[float](), list[float]()
    members: list[tuple[int, bool]] = []
    for length, same_length in groupby(sorted(zip(lengths, successes, strict=True)), key=lambda pair: pair[0]):
        members += same_length
        if len(members) < min_size and length != max(lengths):
            continue
        succeeded = sum(success for _, success in members)
        interval = binomtest(succeeded, len(members)).proportion_ci(method="wilson")
        names.append("–".join(dict.fromkeys((str(members[0][0]), str(length)))))
        shares.append(succeeded / len(members))
        below.append(shares[-1] - float(interval.low))
        above.append(float(interval.high) - shares[-1])
        members = []
    return names, shares, (below, above)


def _length_by_step(view: RunView, rows: Sequence[Rollout]) -> Figure:
    lengths_by_step: dict[int, list[int]] = {}
    for row in rows:
        lengths_by_step.setdefault(row.step, []).append(thought_words(row))
    means = [mean(lengths) for lengths in lengths_by_step.values()]
    medians = [float(median(lengths)) for lengths in lengths_by_step.values()]
    heading = "Length of the thought by step"
    return Figure(
        heading,
        "Words before the idea. A fall with a rising mean is a sign of collapse.",
        [(variable(SERIES[0]), "mean"), (variable(SERIES[1]), "median")],
        chart(
            f"{heading}, {view.name}",
            f"From {means[0]:.1f} words in the first step to {means[-1]:.1f} in the last.",
            step_lines(list(lengths_by_step), [means, medians]),
            "step",
        ),
    )
