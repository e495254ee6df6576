"""One table and one figure of all methods: learning, search and screens, on landscapes and on real experiments.

    python benchmarks/methods.py table [--page docs/results.md]
    python benchmarks/methods.py figure docs/assets/methods.svg

Nothing is run here.  The cells are those of `collapse.py` (landscapes), `screen.py` (changed landscapes, with a
substitute for the ideator) and `weak_ideator.py` (nanogpt), each of which resumes with the command in its docstring.

Every difference is paired, by landscape or by seed, and its interval is Student's, 95 %.  A cell without a number was
not run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from collapse_cells import HERE
from collapse_methods import BUDGET, FURTHER, LONG, METHODS, UNSEEN
from collapse_table import FEWEST, interval
from screen_landscapes import PLAIN, VARIANTS
from weak_table import cells_of, fill

ROWS = ("grpo", "best_of_n", "default", "default_screen4", "evolution", "screen4", "screen8", "oracle")
"""Methods in the order of the table; `evolution` is what each is compared with."""
AGAINST = "evolution"
WEAK_ARMS = {"default": "mix", "default_screen4": "mix_screen", "evolution": "frozen", "screen4": "frozen_screen"}
"""The arm of `weak_ideator.py` that is the same method on nanogpt."""
VARIANT_LABELS = {
    PLAIN: "as they are",
    "likely": "success + 0.1",
    "unlikely": "success − 0.1",
    "deceptive": "all modules deceptive",
    "noisy": "triple noise",
}
DASH = "–"

Cell = dict[str, Any]
Cells = dict[Any, Cell]
"""A method's cells by landscape or by seed."""


@dataclass(frozen=True)
class Difference:
    """Paired differences of a method and the one that it is compared with."""

    label: str
    gaps: list[float]

    @property
    def text(self) -> str:
        if not self.gaps:
            return DASH
        ends = " ({:+.3f} to {:+.3f})".format(*interval(self.gaps)) if len(self.gaps) > 1 else ""
        return f"{fmean(self.gaps):+.3f}{ends}, {sum(gap > 0 for gap in self.gaps)} of {len(self.gaps)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table").add_argument("--page", type=Path, help="a page whose table is to be replaced")
    commands.add_parser("figure").add_argument("path", type=Path)
    options = parser.parse_args()
    if options.command == "figure":
        draw(options.path)
        return
    text = table()
    print(text)
    if options.page:
        fill(options.page, "methods", text)


def table() -> str:
    """Methods by landscapes at two budgets and nanogpt; below, the changed landscapes."""
    budget = weak_budget()
    lines = [
        f"| method | score, {BUDGET} experiments | its difference to evolution, better on | area's difference | "
        f"score, {LONG} experiments | its difference | nanogpt, {budget} experiments: gain | its difference |",
        "|---" * 8 + "|",
    ]
    short, long, weak = landscape_cells(BUDGET), landscape_cells(LONG), weak_cells(budget)
    for name in ROWS:
        parts = [mean_of(short.get(name, {}), "score"), paired(short, name, "score").text]
        parts += [paired(short, name, "auc").text, mean_of(long.get(name, {}), "score")]
        parts += [
            paired(long, name, "score").text,
            mean_of(weak.get(name, {}), "gain"),
            paired(weak, name, "gain").text,
        ]
        lines.append(f"| {METHODS[name].label} | {' | '.join(parts)} |")
    lines += ["", "| changed landscapes, screen of 8 − evolution | score | area |", "|---|---|---|"]
    for variant in VARIANTS:
        cells = variant_cells(variant)
        both = " | ".join(paired(cells, "screen_x8", figure).text for figure in ("score", "auc"))
        lines.append(f"| {VARIANT_LABELS[variant]} | {both} |")
    return "\n".join(lines)


def mean_of(cells: Cells, figure: str) -> str:
    """Mean and interval of a figure, and the number of cells where there are too few for an interval."""
    values = [cell[figure] for cell in cells.values() if cell.get(figure) is not None]
    if not values:
        return DASH
    spread = "({:.3f} to {:.3f})".format(*interval(values)) if len(values) >= FEWEST else f"({len(values)} runs)"
    return f"{fmean(values):.3f} {spread}"


def paired(methods: dict[str, Cells], name: str, figure: str) -> Difference:
    """A method's differences to evolution, where both have the figure."""
    own, other = methods.get(name, {}), methods.get(AGAINST, {})
    pairs = [(own[key].get(figure), other[key].get(figure)) for key in own if key in other and name != AGAINST]
    return Difference(name, [a - b for a, b in pairs if a is not None and b is not None])


def landscape_cells(budget: int) -> dict[str, Cells]:
    """Cells of the testbed with the trained prior and seed 0: s0 to s15, and s0 to s7 with the long budget."""
    landscapes = UNSEEN if budget == LONG else (*UNSEEN, *FURTHER)
    methods: dict[str, Cells] = {}
    for cell in read("collapse_results.jsonl"):
        if cell["budget"] == budget and cell["seed"] == 0 and cell["landscape"] in landscapes:
            methods.setdefault(cell["method"], {})[cell["landscape"]] = cell
    return methods


def variant_cells(variant: str) -> dict[str, Cells]:
    """Cells with the substitute ideator at 2048 experiments: s0 to s15 as they are, s0 to s7 changed."""
    arms: dict[str, Cells] = {}
    for cell in read("screen_results.jsonl"):
        here = cell["preset"].startswith("s") and cell["seed"] == 0 and cell["budget"] == BUDGET
        if here and cell.get("variant", PLAIN) == variant:
            arms.setdefault(cell["arm"], {})[cell["preset"]] = cell
    return arms


def weak_budget() -> int:
    """The largest budget of experiments at which two seeds of nanogpt have all methods; else the smallest."""
    lines = read("weak_results.jsonl")
    budgets = sorted({line["budget"] for line in lines if line["kind"] == "cell"}, reverse=True)
    for budget in budgets:
        gains = {key for key, cell in cells_of(lines, budget).items() if cell.get("gain") is not None}
        seeds = {seed for _, seed in gains}
        if sum(all((arm, seed) in gains for arm in WEAK_ARMS.values()) for seed in seeds) >= 2:
            return budget
    return budgets[-1] if budgets else 0


def weak_cells(budget: int) -> dict[str, Cells]:
    """Cells of nanogpt by seed, under the names of the testbed's methods."""
    by_arm_seed = cells_of(read("weak_results.jsonl"), budget)
    return {
        name: {seed: cell for (cell_arm, seed), cell in by_arm_seed.items() if cell_arm == arm}
        for name, arm in WEAK_ARMS.items()
    }


def read(name: str) -> list[Cell]:
    path = HERE / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def draw(path: Path) -> None:
    """Differences to evolution with their intervals: a panel for each column of the table."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    budget = weak_budget()
    short, long, weak = landscape_cells(BUDGET), landscape_cells(LONG), weak_cells(budget)
    names = [name for name in ROWS if name != AGAINST]
    panels: list[tuple[str, list[Difference]]] = [
        (f"{BUDGET} experiments, score", relabelled(names, lambda name: paired(short, name, "score"))),
        (f"{BUDGET} experiments, area", relabelled(names, lambda name: paired(short, name, "auc"))),
        (f"{LONG} experiments, score", relabelled(names, lambda name: paired(long, name, "score"))),
        (
            "changed landscapes, score, screen of 8",
            [Difference(VARIANT_LABELS[v], paired(variant_cells(v), "screen_x8", "score").gaps) for v in VARIANTS],
        ),
        (f"nanogpt, {budget} experiments, gain", relabelled(names, lambda name: paired(weak, name, "gain"))),
    ]
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "methods", "svg.fonttype": "none", "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False})
    figure, axes = plt.subplots(len(panels), 1, figsize=(7, 9), layout="constrained",
                                height_ratios=[max(1, len(shown)) for _, shown in panels])  # fmt: skip
    for axis, (title, differences) in zip(axes, panels, strict=True):
        for row, difference in enumerate(reversed(differences)):
            low, high = interval(difference.gaps)
            axis.plot([low, high], [row, row], color="#2e5eaa", linewidth=2)
            axis.plot([fmean(difference.gaps)], [row], "o", color="#2e5eaa")
        axis.axvline(0, color="#8d99ae", linewidth=1)
        axis.set(title=title, ylim=(-0.6, len(differences) - 0.4))
        axis.set_yticks(range(len(differences)), [difference.label for difference in reversed(differences)])
    figure.suptitle("Difference to evolution with the frozen ideator, 95 % intervals")
    figure.savefig(path, metadata={"Date": None})


def relabelled(names: list[str], of: Callable[[str], Difference]) -> list[Difference]:
    """The differences that have an interval, under the methods' labels."""
    differences = [(METHODS[name].label, of(name).gaps) for name in names]
    return [Difference(label, gaps) for label, gaps in differences if len(gaps) > 1]


if __name__ == "__main__":
    main()
