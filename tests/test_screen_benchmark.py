"""The benchmark of the screen: a cell of each kind, and the table of its results."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import screen as benchmark


@pytest.mark.parametrize("arm", ["evolution", "noise"])
def test_a_cell_runs_its_budget(arm):
    cell = benchmark.run_cell(arm, "t0", 40, 0)
    assert cell["executed"] == 40 and cell["arm"] == arm


def test_the_table_pairs_by_landscape():
    cells = [
        {"arm": arm, "preset": f"t{number}", "budget": 9, "seed": 0, "score": 0.2 * number + bonus, "auc": 0.1}
        for number in range(3)
        for arm, bonus in (("evolution", 0.0), ("screen_x8", 0.1))
    ]
    lines = benchmark.table(cells).splitlines()
    assert lines[2:] == [
        "| 9 | evolution | 3 | 0.200 | 0.100 |  |  |",
        "| 9 | screen_x8 | 3 | 0.300 | 0.100 | +0.100 (0.100 to 0.100) | 3 of 3 |",
    ]
