"""The table of the collapse benchmark: scores with intervals, paired tests, and what became of the populations."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from collapse_methods import (
    AGAIN,
    BATCH,
    BUDGET,
    FORECAST,
    FURTHER,
    LONG,
    LONG_METHODS,
    MAIN,
    METHODS,
    MIXED,
    MOST_PROPOSED,
    REFERENCE,
    SCREENED,
    SCREENING,
    UNSEEN,
    UPDATES,
)
from scipy.stats import t as student
from scipy.stats import wilcoxon

LEVEL, FEWEST = 0.95, 5
"""Of fewer landscapes there is no interval and no test."""
PAIRS = (
    ("default", "grpo"), ("default", "evolution"), ("default", "best_of_n"), ("grpo", "best_of_n"),
    ("fours", "evolution"), ("fours", "default"), ("screen4", "evolution"), ("screen8", "evolution"),
    ("screen8", "default"), ("screen8", "oracle"), ("default_screen4", "default"), ("default_screen4", "evolution"),
    ("default_screen4", "screen4"), ("default_screen8", "screen8"),
    ("default_twice", "default"), ("default_small", "default"),
)  # fmt: skip
"""Of a table, where it has them; its p-values of scores are corrected together, and so are those of areas (Holm
1979)."""
POOLED = ("grpo", "default", "evolution", "best_of_n", "oracle")
END = 0.25
"""The last share of a run's steps, whose mean is called its end."""

Cells = dict[str, dict[str, Any]]
"""A method's cells by landscape."""


def table(results: list[dict[str, Any]], trials: list[dict[str, Any]]) -> str:
    """Everything, as Markdown."""
    lines = [
        f"{BATCH} ideas a step; at most {MOST_PROPOSED / BUDGET:g} ideas for each experiment of the budget. "
        "0 is the baseline, 1 the best idea there is.",
        "",
        *_section(results, BUDGET, (*MAIN, *UPDATES, *REFERENCE), UNSEEN, tests=True),
        *_section(results, LONG, (*LONG_METHODS, *REFERENCE), UNSEEN, tests=True),
        "Eight more landscapes, added when the first eight were known:",
        "",
        *_section(results, BUDGET, AGAIN, FURTHER, tests=True),
        "All sixteen:",
        "",
        *_section(results, BUDGET, POOLED, (*UNSEEN, *FURTHER), tests=True),
        *_screens(results),
        *_alarms(results),
        "Screening, no claim.",
        "",
        *_section(results, BUDGET, (*MAIN, *SCREENED), SCREENING, tests=False),
        _hours("cells", results),
        _hours("trials of tuning", trials),
        "",
        *_trials(trials),
    ]
    return "\n".join(lines)


def _screens(results: list[dict[str, Any]]) -> list[str]:
    """Evolution with a screen beside what it has to beat; nothing before such a cell was run."""
    if not any(cell["method"] in FORECAST for cell in results):
        return []
    names = (*FORECAST, *MIXED, "evolution", "default", "oracle")
    return ["With a screen, on all sixteen:", "", *_section(results, BUDGET, names, (*UNSEEN, *FURTHER), tests=True)]


def _section(
    results: list[dict[str, Any]], budget: int, names: tuple[str, ...], landscapes: tuple[str, ...], tests: bool
) -> list[str]:
    by_method: dict[str, Cells] = {}
    for cell in results:
        if cell["budget"] == budget and cell["landscape"] in landscapes:
            by_method.setdefault(cell["method"], {})[cell["landscape"]] = cell
    lines = [f"**{budget} unique experiments**, on {landscapes[0]} to {landscapes[-1]}:", ""]
    lines += [*_scores(by_method, names, landscapes), "", *_populations(by_method, names, landscapes), ""]
    comparisons = _tests({name: by_method.get(name, {}) for name in names}, landscapes) if tests else []
    return [*lines, *comparisons, ""] if comparisons else lines


def interval(values: list[float]) -> tuple[float, float]:
    """Student's interval of a mean, over landscapes.  A percentile bootstrap of eight values contains the mean in some
    87 of 100 cases instead of 95."""
    middle, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return middle - half, middle + half


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979)."""
    order, out, largest = sorted(range(len(p_values)), key=p_values.__getitem__), [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        out[at] = largest
    return out


def at_end(cell: dict[str, Any], name: str) -> float | None:
    """A figure's mean over the last steps of a run."""
    steps = cell["steps"]
    values = [step[name] for step in steps[int((1 - END) * len(steps)) :] if step[name] is not None]
    return statistics.fmean(values) if values else None


def slope(cell: dict[str, Any], name: str = "best") -> float | None:
    """Of a figure over a run: its change from first to last step by least squares."""
    points = [(step["step"], step[name]) for step in cell["steps"] if step[name] is not None]
    if len(points) < 3:
        return None
    x, y = (np.asarray(side, float) for side in zip(*points, strict=True))
    return float(np.polyfit((x - x[0]) / (x[-1] - x[0]), y, 1)[0])


def _scores(by_method: dict[str, Cells], names: tuple[str, ...], landscapes: tuple[str, ...]) -> list[str]:
    lines = [
        "| method | landscapes | score | area under the curve | experiments | ideas |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        cells = [by_method[name][landscape] for landscape in landscapes if landscape in by_method.get(name, {})]
        if cells:
            cells_text = [_mean_interval([cell[field] for cell in cells]) for field in ("score", "auc")]
            executed = statistics.fmean(cell["executed"] for cell in cells)
            # Cells from before there was a screen have no samples that were not run.
            ideas = statistics.fmean(cell.get("sampled", cell["proposed"]) for cell in cells)
            spent = f"{executed:.0f} | {ideas:.0f}"
            lines.append(f"| {METHODS[name].label} | {len(cells)} | {' | '.join(cells_text)} | {spent} |")
    return lines


def _mean_interval(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return "{} ({:.3f} to {:.3f})".format(mean, *interval(values)) if len(values) >= FEWEST else mean


def _populations(by_method: dict[str, Cells], names: tuple[str, ...], landscapes: tuple[str, ...]) -> list[str]:
    fields = ("mean", "success", "simple", "thought", "distinct", "largest")
    lines = [
        "| first step → end | mean reward | success | simple ideas | thought | distinct | largest cluster | Vendi, "
        "share of its start | change of the best of a step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        cells = [by_method[name][landscape] for landscape in landscapes if landscape in by_method.get(name, {})]
        if not any(cell["steps"] for cell in cells):
            continue
        parts = []
        for field in fields:
            start = _mean([cell["steps"][0][field] for cell in cells])
            parts.append(f"{_number(start)} → {_number(_mean([at_end(cell, field) for cell in cells]))}")
        first, last = (_mean([cell["steps"][0]["vendi"] for cell in cells]), _mean([at_end(c, "vendi") for c in cells]))
        parts.append(_number(last / first if first and last else None))
        parts.append(_number(_mean([slope(cell) for cell in cells]), sign=True))
        lines.append(f"| {METHODS[name].label} | {' | '.join(parts)} |")
    return lines


def _tests(by_method: dict[str, Cells], landscapes: tuple[str, ...]) -> list[str]:
    comparisons = []
    for first, second in PAIRS:
        first_cells, second_cells = by_method.get(first, {}), by_method.get(second, {})
        shared = [landscape for landscape in landscapes if landscape in first_cells and landscape in second_cells]
        for field in ("score", "auc"):
            gaps = [first_cells[landscape][field] - second_cells[landscape][field] for landscape in shared]
            if len(gaps) >= FEWEST and any(gaps):
                comparisons.append((first, second, field, gaps, float(wilcoxon(gaps).pvalue)))
    if not comparisons:
        return []
    corrected = {
        field: iter(holm([comparison[4] for comparison in comparisons if comparison[2] == field]))
        for field in ("score", "auc")
    }
    lines = [
        "| paired, over landscapes | figure | difference | better on | Wilcoxon p | Holm |",
        "|---|---|---|---|---|---|",
    ]
    for first, second, field, gaps, p in comparisons:
        wins = f"{sum(gap > 0 for gap in gaps)} of {len(gaps)}"
        figure = "score" if field == "score" else "area"
        both_p = f"{_p(p)} | {_p(next(corrected[field]))}"
        lines.append(f"| {first} − {second} | {figure} | {_mean_interval(gaps)} | {wins} | {both_p} |")
    return lines


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _alarms(results: list[dict[str, Any]]) -> list[str]:
    """In how many runs each alarm of docs/reference/diversity.md rang, and when first; of cells that have noted it."""
    cells = [cell for cell in results if cell.get("alarms") is not None and cell["landscape"] in FURTHER]
    kinds = sorted({f"{kind} {level}" for cell in cells for _, kind, level in cell["alarms"]})
    lines = ["Alarms on s8 to s15: runs in which they rang, and the step of the first ring (median).", ""]
    lines += [f"| method | experiments | runs | {' | '.join(kinds)} |", f"|---|---|---|{'---|' * len(kinds)}"]
    for budget in (BUDGET, LONG):
        for name in METHODS:
            own = [cell["alarms"] for cell in cells if cell["method"] == name and cell["budget"] == budget]
            if own:
                cells_text = " | ".join(_rang(own, kind) for kind in kinds)
                lines.append(f"| {METHODS[name].label} | {budget} | {len(own)} | {cells_text} |")
    return [*lines, ""] if kinds else []


def _rang(runs: list[list[list[Any]]], kind: str) -> str:
    first = [min(steps) for run in runs if (steps := [at for at, name, level in run if f"{name} {level}" == kind])]
    return f"{len(first)}, step {statistics.median(first):.0f}" if first else "–"


def _trials(trials: list[dict[str, Any]]) -> list[str]:
    """Every set of keys that was tried, and how it did on how many landscapes."""
    tried: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for cell in trials:
        keys = {**cell["keys"], **cell["keys"].get("strategy_options", {})}
        keys_text = ", ".join(f"{key} {value}" for key, value in keys.items() if key != "strategy_options")
        tried.setdefault((cell["method"], keys_text or "the recipe's", cell["budget"]), []).append(cell)
    lines = ["| method | keys | experiments | landscapes | score | area |", "|---|---|---|---|---|---|"]
    for (name, keys_text, budget), cells in sorted(tried.items()):
        score, area = (statistics.fmean(cell[field] for cell in cells) for field in ("score", "auc"))
        where = f"t0 to t{len(cells) - 1}" if len(cells) > 1 else "t0"
        lines.append(f"| {name} | {keys_text} | {budget} | {where} | {score:.3f} | {area:.3f} |")
    return lines


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def _number(value: float | None, sign: bool = False) -> str:
    return "–" if value is None else f"{value:+.2f}" if sign else f"{value:.2f}"


def _hours(field: str, cells: list[dict[str, Any]]) -> str:
    wall, cpu = (sum(cell[name] for cell in cells) / 3600 for name in ("seconds", "cpu_seconds"))
    return f"{len(cells)} {field}: {wall:.2f} hours by the clock, {cpu:.2f} CPU hours on one thread."
