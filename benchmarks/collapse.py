"""Does RL on executed ideas collapse, and what helps?  Trainer and search on landscapes where the answer takes minutes.

    python benchmarks/collapse.py run [--methods grpo default …] [--landscapes s0 s1 …] [--budget N] [--hours 1.0]
    python benchmarks/collapse.py tune METHOD KEY=VALUE … [--landscapes t0 t1]      one trial, on landscapes of its own
    python benchmarks/collapse.py table                                             from the results, with tests
    python benchmarks/collapse.py figure                                            docs/assets/collapse.svg

A cell is a method on a landscape.  Each that ends appends one line to collapse_results.jsonl, a trial to
collapse_tuning.jsonl; cells in these files are not run again, so that `run` may be killed and started again.  One
thread; the cells of the main table come first, landscape by landscape.  The results are in docs/results/collapse.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml
from collapse_methods import (
    AGAIN,
    BUDGET,
    FORECAST,
    FURTHER,
    MAIN,
    METHODS,
    MIXED,
    MOST_PROPOSED,
    REFERENCE,
    SCREENED,
    SCREENING,
    TUNED,
    TUNING,
    UNSEEN,
    UPDATES,
)

HERE = Path(__file__).parent
RESULTS, TRIALS = HERE / "collapse_results.jsonl", HERE / "collapse_tuning.jsonl"
FIGURE = HERE.parent / "docs" / "assets" / "collapse.svg"


def main() -> None:
    options = _options()
    if options.command == "run":
        run(options.methods, options.landscapes, options.budget, options.hours, options.results)
    elif options.command == "tune":
        tune(options.method, options.keys, options.landscapes, options.budget)
    elif options.command == "table":
        from collapse_table import table

        print(table(read(RESULTS), read(TRIALS)))
    else:
        from collapse_figure import draw

        draw(read(RESULTS), FIGURE)


def run(
    methods: list[str] | None, landscapes: list[str] | None, budget: int, hours: float, results: Path = RESULTS
) -> None:
    """Run the cells that are not in the results yet, the main table's first.

    Args:
        results: another file repeats cells, beside those of the tables.
    """
    from collapse_cells import run_cell

    began = time.monotonic()
    finished = {(cell["method"], cell["landscape"]) for cell in read(results) if cell["budget"] == budget}
    for name, preset in wanted(methods, landscapes):
        if (name, preset) in finished:
            continue
        if time.monotonic() - began > 3600 * hours:
            print("the hours are spent; run the same command to continue")
            return
        cell = run_cell(name, preset, budget, most(budget), TUNED.get(name, {}))
        append(results, cell)
        _say(cell)


def most(budget: int) -> int:
    """Ideas after which a cell ends although it has not spent its budget."""
    return budget * MOST_PROPOSED // BUDGET


def wanted(methods: list[str] | None, landscapes: list[str] | None) -> list[tuple[str, str]]:
    """Cells in the order of importance."""
    cells = [(name, preset) for preset in UNSEEN for name in (*MAIN, *REFERENCE)]
    cells += [(name, preset) for preset in SCREENING for name in SCREENED]
    cells += [(name, preset) for preset in UNSEEN for name in UPDATES]
    cells += [(name, preset) for preset in FURTHER for name in AGAIN]
    cells += [(name, preset) for preset in (*UNSEEN, *FURTHER) for name in (*FORECAST, *MIXED)]
    chosen = [cell for cell in cells if not methods or cell[0] in methods]
    return [cell for cell in chosen if not landscapes or cell[1] in landscapes]


def tune(name: str, keys: list[str], landscapes: list[str] | None, budget: int) -> None:
    """Try a method with other keys on the tuning landscapes."""
    from collapse_cells import run_cell

    recipe_keys = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in keys)}
    finished = [(cell["method"], cell["landscape"], cell["keys"], cell["budget"]) for cell in read(TRIALS)]
    for preset in landscapes or TUNING:
        if (name, preset, recipe_keys, budget) not in finished:
            cell = run_cell(name, preset, budget, most(budget), recipe_keys)
            append(TRIALS, cell)
            _say(cell)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append(path: Path, cell: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(cell) + "\n")


def _say(cell: dict[str, Any]) -> None:
    parts = [
        f"{cell['method']:<22} {cell['landscape']:<4} score {cell['score']:.3f}  area {cell['auc']:.3f}",
        f"{cell['executed']} experiments of {cell['proposed']} ideas",
    ]
    for last in cell["steps"][-2:][:1]:
        parts.append(f"success {last['success']:.2f}  distinct {last['distinct']}  thought {last['thought']:.1f}")
    print(*parts, f"{cell['seconds']:.0f} s", cell["keys"] or "", sep="  ", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    run_ = commands.add_parser("run")
    run_.add_argument("--methods", nargs="*", choices=METHODS)
    run_.add_argument("--landscapes", nargs="*")
    run_.add_argument("--budget", type=int, default=BUDGET)
    run_.add_argument("--hours", type=float, default=24.0)
    run_.add_argument("--results", type=Path, default=RESULTS, help="repeat cells into a file of their own")
    tune_ = commands.add_parser("tune")
    tune_.add_argument("method", choices=METHODS)
    tune_.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    tune_.add_argument("--landscapes", nargs="*")
    tune_.add_argument("--budget", type=int, default=BUDGET)
    commands.add_parser("table")
    commands.add_parser("figure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
