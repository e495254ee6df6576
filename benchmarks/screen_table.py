"""The tables of the benchmark of the screen, from its cells."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from scipy.stats import wilcoxon
from screen_landscapes import PLAIN, VARIANTS

from ideator_rl.screen.accuracy import interval

Cells = list[dict[str, Any]]
Pairs = list[tuple[dict[str, Any], dict[str, Any]]]
"""The cell of an arm, and that of its plain arm."""
PLAIN_ARM = {"genetic_x8": "genetic"}
"""The arm that a screened one is compared with, where it is not evolution."""


def table(cells: Cells, arms: list[str]) -> str:
    """Scores at equal experiments and at equal proposals; each screened arm is paired by landscape with its plain one.

    Landscapes for tuning (t) and those to measure on (s) have rows of their own.
    """
    lines = [
        "| experiments | landscapes | arm | number | score | area | score − plain | better | p | area − plain |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    further = [
        "| landscapes | arm | experiments at most: arm, plain | number | samples | score | score − plain | better |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for budget in sorted({cell["budget"] for cell in cells}):
        for group in ("t", "s"):
            for variant in VARIANTS:
                rows = {
                    (cell["arm"], cell["preset"], cell["seed"]): cell
                    for cell in cells
                    if (cell["budget"], cell["preset"][0], cell.get("variant", PLAIN)) == (budget, group, variant)
                }
                for arm in arms:
                    pairs = pairs_of(rows, arm)
                    if not pairs:
                        continue
                    lines.append(f"| {budget} | {group}, {variant} | {arm} {_row(pairs, arm)}")
                    for longer in sorted({cell["budget"] for cell in cells if cell["budget"] >= budget}):
                        further += _by_samples(with_longer(cells, pairs, longer), arm, f"{group}, {variant}")
    return "\n".join([*lines, "", *further])


def pairs_of(rows: dict[tuple[str, str, int], dict[str, Any]], arm: str) -> Pairs:
    """The cells of an arm, each with the plain cell of its landscape."""
    plain = plain_of(arm)
    return [(cell, rows[plain, *key[1:]]) for key, cell in rows.items() if key[0] == arm and (plain, *key[1:]) in rows]


def plain_of(arm: str) -> str:
    return arm if arm == "genetic" else PLAIN_ARM.get(arm, "evolution")


def _row(pairs: Pairs, arm: str) -> str:
    score, area = (fmean(cell[name] for cell, _ in pairs) for name in ("score", "auc"))
    start = f"| {len(pairs)} | {score:.3f} | {area:.3f}"
    if plain_of(arm) == arm:
        return f"{start} |  |  |  |  |"
    gains = [cell["score"] - plain["score"] for cell, plain in pairs]
    areas = [cell["auc"] - plain["auc"] for cell, plain in pairs]
    better = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
    # A test of fewer pairs cannot reach 0.05.  Lower values than 0.001 are shown as it.
    p = f"{max(0.001, wilcoxon(gains).pvalue):.3f}" if len(gains) >= 6 and any(gains) else ""
    return f"{start} | {difference(gains)} | {better} | {p} | {difference(areas)} |"


def with_longer(cells: Cells, pairs: Pairs, budget: int) -> Pairs:
    """The pairs with the plain arm's runs of another budget of experiments; those without one are left out."""
    longer = {_name(cell): cell for cell in cells if cell["budget"] == budget}
    return [(cell, longer[_name(plain)]) for cell, plain in pairs if _name(plain) in longer]


def _name(cell: dict[str, Any]) -> tuple[Any, ...]:
    return cell["arm"], cell["preset"], cell["seed"], cell.get("variant", PLAIN)


def _by_samples(pairs: Pairs, arm: str, landscapes: str) -> list[str]:
    """Rows at equal proposals, up to the samples of the screened arm."""
    if not pairs or plain_of(arm) == arm or not all("by_samples" in cell for pair in pairs for cell in pair):
        return []
    budgets = f"{pairs[0][0]['budget']}, {pairs[0][1]['budget']}"
    lines = []
    for most in pairs[0][0]["by_samples"]:
        scores = [(cell["by_samples"][most], plain["by_samples"][most]) for cell, plain in pairs]
        gains = [own - plain for own, plain in scores]
        ended = all(int(most) >= plain["sampled"] for _, plain in pairs)
        means = f"{fmean(own for own, _ in scores):.3f} against {fmean(plain for _, plain in scores):.3f}"
        note = " (plain has ended)" if ended else ""
        better = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        start = f"| {landscapes} | {arm} | {budgets} | {len(pairs)} | {most}{note}"
        lines.append(f"{start} | {means} | {difference(gains)} | {better} |")
    return lines


def difference(gains: list[float]) -> str:
    """The mean of paired differences, with its 95 % interval (Student's t)."""
    ends = interval(gains)
    return f"{fmean(gains):+.3f}" + (f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else "")
