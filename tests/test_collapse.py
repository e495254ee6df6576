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
    told = cells["grpo"]
    first = told["steps"][0]
    assert at_end(told, "mean") > first["mean"] + 0.1 and at_end(told, "success") > 0.9
    assert at_end(told, "distinct") < 0.5 * first["distinct"] and at_end(told, "vendi") < 0.35 * first["vendi"]
    assert at_end(told, "simple") > 0.8 and at_end(told, "thought") < 0.5 * first["thought"]
    assert slope(told, "best") < 0.02 and told["executed"] < 0.5 * told["proposed"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_default_mix_does_not(cells):
    told, plain = cells["default"], cells["grpo"]
    assert at_end(told, "distinct") > told["steps"][0]["distinct"] and at_end(told, "simple") < 0.2
    assert told["executed"] > 2 * plain["executed"] and told["score"] > plain["score"]
    assert slope(told, "best") > slope(plain, "best")
