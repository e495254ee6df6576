"""The collapse benchmark in small, by the real trainer: plain GRPO narrows down to a few simple ideas, the default mix
does not.  Makes the testbed's ideator, once, in the user's cache (minutes)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from collapse_cells import run_cell  # noqa: E402
from collapse_methods import TUNED  # noqa: E402
from collapse_table import at_end, slope  # noqa: E402

STEPS, BATCH = 24, 64


@pytest.fixture(scope="module")
def cells():
    ideas = STEPS * BATCH
    return {name: run_cell(name, "t0", ideas, ideas, TUNED.get(name, {})) for name in ("grpo", "default")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_plain_grpo_collapses_as_in_the_paper(cells):
    cell = cells["grpo"]
    first = cell["steps"][0]
    assert at_end(cell, "mean") > first["mean"] + 0.1 and at_end(cell, "success") > 0.9
    assert at_end(cell, "distinct") < 0.5 * first["distinct"] and at_end(cell, "vendi") < 0.35 * first["vendi"]
    assert at_end(cell, "simple") > 0.8 and at_end(cell, "thought") < 0.5 * first["thought"]
    assert slope(cell, "best") < 0.02 and cell["executed"] < 0.5 * cell["proposed"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_default_mix_does_not_collapse(cells):
    cell, plain = cells["default"], cells["grpo"]
    assert at_end(cell, "distinct") > cell["steps"][0]["distinct"] and at_end(cell, "simple") < 0.2
    assert cell["executed"] > 2 * plain["executed"] and cell["score"] > plain["score"]
    assert slope(cell, "best") > slope(plain, "best")
