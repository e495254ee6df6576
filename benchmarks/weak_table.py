"""Tables and figure of the comparison with a weak ideator, from its lines."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from weak_arms import ALL, PAIRS

from ideator_rl.screen.accuracy import interval

Lines = list[dict[str, Any]]
Cells = dict[tuple[str, int], dict[str, Any]]
"""By arm and seed."""
SECONDS = 6.0
"""Of an experiment with its share of sampling and updates, where no cell was run yet: two shared cores under load."""
COLOURS = ("tab:gray", "tab:orange", "tab:blue", "tab:red", "tab:green", "tab:purple", "tab:brown", "tab:pink",
           "tab:olive", "tab:cyan")  # fmt: skip


def seconds_of(lines: Lines, arm: str) -> tuple[float, int]:
    """Wall seconds of one experiment of an arm, all else included, and the experiments that this was measured on."""
    whole = [line for line in lines if line["kind"] == "cell" and line["arm"] == arm and not line["resumed"]]
    # What another cell had executed already took no time.
    count = sum(line["executed"] - line["replayed"] for line in whole)
    return (sum(line["seconds"] for line in whole) / count, count) if count else (SECONDS, 0)


def table(lines: Lines) -> str:
    """Everything, as Markdown; a budget at a time."""
    ideators = [line for line in lines if line["kind"] == "ideator"]
    parts = [_ideators(ideators)] if ideators else []
    for budget in sorted({line["budget"] for line in lines if line["kind"] == "cell"}):
        cells = cells_of(lines, budget)
        seeds = len({seed for _, seed in cells})
        parts += [f"**{budget} distinct experiments a run, {seeds} seeds**", _scores(cells)]
        parts += [_differences(cells), _signs(cells)]
    return "\n\n".join(part for part in parts if part)


def fill(page: Path, name: str, text: str) -> None:
    """Replace what a page has between `<!-- name -->` and `<!-- /name -->`."""
    before, start, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not end:
        raise SystemExit(f"{page} has no lines <!-- {name} --> and <!-- /{name} -->. Add them where the table belongs.")
    page.write_text(f"{before}{start}{text}\n{end}{after}", encoding="utf-8")


def cells_of(lines: Lines, budget: int) -> Cells:
    """The cells of a budget, each with the mean gain of its best over the baseline, both run again."""
    cells = {(c["arm"], c["seed"]): dict(c) for c in lines if c["kind"] == "cell" and c["budget"] == budget}
    for line in lines:
        if line["kind"] == "rerun" and line["budget"] == budget and (line["arm"], line["seed"]) in cells:
            pairs = zip(line["baseline"], line["values"], strict=True)
            gains = [base - value for base, value in pairs if base is not None and value is not None]
            cells[line["arm"], line["seed"]]["gain"] = statistics.fmean(gains) if gains else None
            values = [value for value in line["values"] if value is not None]
            cells[line["arm"], line["seed"]]["again"] = statistics.fmean(values) if values else None
    return cells


def _ideators(lines: Lines) -> str:
    rows = ["| seed | steps of the warm-up | answers that can be run, before any training |", "|---|---|---|"]
    rows += [f"| {l['seed']} | {l['sft_steps']} | {l['runnable']:.0%} of {l['sampled']} |" for l in lines]  # noqa: E741
    return "\n".join(rows)


SCORES = {
    "success": "ideas that succeeded",
    "reward": "mean reward",
    "mean": "mean val_loss",
    "again": "best, run again",
    "gain": "its gain over the baseline",
    "area": "area: mean gain so far",
    "runnable_after": "answers that can be run, after",
}
"""A figure of a cell, and its column."""


def _scores(cells: Cells) -> str:
    rows = [f"| arm | seeds | ideas | experiments | updates | {' | '.join(SCORES.values())} |"]
    rows.append("|---" * (5 + len(SCORES)) + "|")
    for arm, own in _by_arm(cells):
        counts = [f"{_mean(own, name):.0f}" for name in ("sampled", "executed", "updates")]
        values = " | ".join(_with_deviation(own, name) for name in SCORES)
        rows.append(f"| {ALL[arm].label} | {len(own)} | {' | '.join(counts)} | {values} |")
    return "\n".join(rows)


COMPARED = ("success", "reward", "gain", "area")


def _differences(cells: Cells) -> str:
    """Paired by seed; the interval is Student's, 95 %."""
    head = " | ".join(SCORES[name] for name in COMPARED)
    rows = [f"| paired by seed | seeds | {head} |", "|---" * (2 + len(COMPARED)) + "|"]
    for first, second in PAIRS:
        seeds = [seed for arm, seed in cells if arm == first and (second, seed) in cells]
        if not seeds:
            continue
        parts = []
        for name in COMPARED:
            pairs = [(cells[first, seed].get(name), cells[second, seed].get(name)) for seed in seeds]
            parts.append(difference([a - b for a, b in pairs if a is not None and b is not None]))
        rows.append(f"| {first} − {second} | {len(seeds)} | {' | '.join(parts)} |")
    return "\n".join(rows) if len(rows) > 2 else ""


SIGNS = ("success", "reward", "distinct", "dispersion", "commonest", "thought")


def _signs(cells: Cells) -> str:
    rows = [
        "| first third of the ideas → last third | success | mean reward | distinct codebases of 16 | "
        "dispersion: mean cosine distance | share of the two commonest kinds of change | words of thought |",
        "|---" * (1 + len(SIGNS)) + "|",
    ]
    for arm, own in _by_arm(cells):
        parts = []
        for name in SIGNS:
            ends = [[cell["thirds"][at][name] for cell in own] for at in (0, -1)]
            parts.append(" → ".join(_number([value for value in values if value is not None]) for values in ends))
        rows.append(f"| {ALL[arm].label} | {' | '.join(parts)} |")
    return "\n".join(rows)


def difference(values: list[float]) -> str:
    """A mean of paired differences with its interval."""
    if not values:
        return "–"
    ends = interval(values)
    return f"{statistics.fmean(values):+.3f}" + (f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else "")


def _by_arm(cells: Cells) -> list[tuple[str, Lines]]:
    own = {name: [cell for (arm, _), cell in cells.items() if arm == name] for name in ALL}
    return [(name, arm_cells) for name, arm_cells in own.items() if arm_cells]


def _mean(cells: Lines, name: str) -> float:
    return statistics.fmean(cell[name] for cell in cells)


def _with_deviation(cells: Lines, name: str) -> str:
    values = [cell[name] for cell in cells if cell.get(name) is not None]
    spread = f" (sd {statistics.stdev(values):.3f})" if len(values) > 1 else ""
    return _number(values) + spread


def _number(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f}" if values else "–"


def draw(lines: Lines, path: Path) -> None:
    """Best so far by experiments, of the largest budget: every run, and the mean of each arm."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    budget = max(line["budget"] for line in lines if line["kind"] == "cell")
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "ideator_rl"})
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    for (arm, own), colour in zip(_by_arm(cells_of(lines, budget)), COLOURS, strict=False):
        curves = [[float("nan") if v is None else v for v in cell["curve"]] for cell in own]
        for curve in curves:
            axis.step(range(1, len(curve) + 1), curve, where="post", color=colour, alpha=0.3, linewidth=1)
        padded = [curve + curve[-1:] * (budget - len(curve)) for curve in curves if curve]
        middle = [statistics.fmean(column) for column in zip(*padded, strict=True)]
        axis.step(range(1, len(middle) + 1), middle, where="post", color=colour, linewidth=2, label=ALL[arm].label)
    axis.set(xlabel="distinct experiments", ylabel="best val_loss so far")
    axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
