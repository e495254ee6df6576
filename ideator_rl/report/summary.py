"""The closing words of a run: baseline, best idea with its patch, the table by step, and where things lie."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import mean, stdev

from ideator_rl.storage.records import Run, Step, read_run
from ideator_rl.text import clip, visible

MOST = 8_000
"""Bytes of the best idea's words, and of its patch."""


def summary(folder: Path) -> str:
    """Plain text for a terminal; nothing that a model wrote acts on it."""
    run = read_run(folder)
    lines = ["", f"Run {folder}", "", *_baseline(run), *_best(run), "", _HEAD]
    lines += [_row(step) for step in run.by_step()]
    counts = Counter(row.status for row in run.rollouts)
    lines += ["", f"Ideas: {len(run.rollouts)} proposed, {len(run.ran)} distinct experiments"]
    lines += ["Outcomes: " + ", ".join(f"{count} {status}" for status, count in counts.most_common()), ""]
    if any(run.spent.values()):
        lines += [
            "Spent: " + ", ".join(f"{value:.4g} {name.replace('_', '-')}" for name, value in run.spent.items()),
            "",
        ]
    lines += [f"{what + ':':<9}{place}" for what, place in run.places]
    return visible("\n".join(lines))


_HEAD = "step  ideas  distinct  success  mean metric  best metric  mean reward"


def _row(step: Step) -> str:
    return (
        f"{step.step + 1:>4}  {step.proposed:>5}  {step.distinct:>8}  {_share(step.success):>7}  "
        f"{_number(step.mean):>11}  {_number(step.best):>11}  {_number(step.reward):>11}"
    )


def _baseline(run: Run) -> list[str]:
    values = [e.metric["value"] for e in run.baselines if e.metric]
    if not values:
        return ["Baseline: none was run"]
    spread = f" ({min(values):.4f} to {max(values):.4f} over {len(values)} seeds)" if len(values) > 1 else ""
    return [f"Baseline {run.metric}: {run.baseline:.4f}{spread}"]


def _best(run: Run) -> list[str]:
    if not run.ranked:
        return ["Best idea: none succeeded"]
    best = run.ranked[0]
    assert best.metric is not None
    isolation = "" if best.isolation == "bwrap" else f" (isolation: {best.isolation})"
    values = run.values(best)
    value = f"{best.metric['value']:.4f}{isolation}, one run, seed {best.seed}"
    if len(values) > 1:
        value = f"{mean(values):.4f} ± {stdev(values):.4f}{isolation}, {len(values)} runs; the first {values[0]:.4f}"
    words = [f"Best idea {run.metric}: {value}", "  " + _clipped(best.idea)]
    return words + ["", *("  " + line for line in _clipped(best.patch).splitlines())]


def _clipped(text: str) -> str:
    kept, cut = clip(text, MOST)
    return f"{kept}\n… {cut} more characters are in the records" if cut else kept


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
