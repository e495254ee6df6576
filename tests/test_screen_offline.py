"""The offline study of screens: which outcomes a forecast may use, and its figures, by hand-worked cases."""

import sys
from pathlib import Path

import numpy as np
import pytest
from recorded import baseline, journal, record

from ideator_rl.screen import Forecast
from ideator_rl.storage.run_reader import read_run

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import screen_offline

FORECASTS = {"idea d": (0.9, 0.5), "idea e": (0.8, 0.3), "idea f": (0.2, 0.4), "idea g": (0.5, 0.6)}
"""Chance and mean reward by idea."""


class FromTable:
    """Forecasts from the table above; remembers what it was fitted on."""

    fits = []

    def __init__(self, context):
        assert context.seed == 7 and context.environment.name == "landscape"

    def fit(self, seen):
        self.fits.append([(item.id, item.status, item.parents) for item in seen])

    def predict(self, candidates):
        chance, mean = zip(*(FORECASTS[candidate.idea] for candidate in candidates), strict=True)
        return Forecast(np.array(chance), np.array(mean), np.full(len(mean), 0.1))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Three steps: three outcomes and a lost one; three new ideas, one of them a failure, and a repeated one; one."""
    first = [record("a", value=4.0), record("b", value=2.5), record("c", "failed"), record("x", "lost")]
    second = [record("d", value=2.0), record("a", value=4.0), record("e", value=5.0), record("f", "failed")]
    journal(tmp_path, [first, second, [record("g", value=1.6)]], [baseline(0, 3.0)])
    (tmp_path / "recipe.yaml").write_text("env: landscape\npreset: t0\n")
    monkeypatch.setattr(screen_offline, "AFTER", 3)
    monkeypatch.setattr(FromTable, "fits", [])
    return read_run(tmp_path)


def test_forecasts_see_earlier_outcomes_only_and_are_of_new_ideas(run):
    pools = screen_offline.replay(run, f"{__name__}.FromTable", 7)
    assert [[id for id, _, _ in fit] for fit in FromTable.fits] == [["a", "b", "c"], ["a", "b", "c", "d", "e", "f"]]
    assert [pool.rewards for pool in pools] == [[1 / 2.0, 1 / 5.0, None], [1 / 1.6]]
    assert [pool.best for pool in pools] == [1 / 2.5, 1 / 2.0]


def test_the_figures_of_a_run_are_those_worked_out_by_hand(run):
    figures = screen_offline.measure(screen_offline.replay(run, f"{__name__}.FromTable", 7))
    assert (figures["pools"], figures["ideas"], figures["failed"], figures["improving"]) == (2, 4, 1, 2)
    # Of the successes d and e the forecasts 0.5 and 0.3 are in order, and both have the higher chance than f's.
    assert figures["pairs"] == 1.0 and figures["auc"] == 1.0
    # 1.28 × 0.1 around 0.5, 0.3 and 0.6: all three of 0.5, 0.2 and 0.625 are inside.
    assert figures["coverage"] == 1.0
    # A sixth of 3 ideas is half of d, a sixth of g itself: gains of 0.1 and 0.125.
    assert figures["kept"] == pytest.approx((0.5 * 0.1 + 0.125 / 6) / (0.1 + 0.125))
    # The bars are the upper quartiles 0.3625 of 0.25 and 0.4, and 0.425 of those with 0.2 and 0.5: d and g are above.
    # Of these two hits, half of one and a sixth of the other are in the best sixths.
    assert figures["hits"] == pytest.approx((1 / 2 + 1 / 6) / 2 * 6) and figures["lift"] is None
    # Rewards 0.5, 0.2 and 0.2 for the failure have mean 0.3 and deviation √0.02; the best half idea is d.
    assert figures["shift"] == pytest.approx(0.2 / 0.02**0.5)


def test_the_lift_of_the_gate_compares_the_best_sixth_with_all_ideas():
    rewards = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    good = [screen_offline.Pool(0.5, 0.4, rewards, ranking=rewards) for _ in range(4)]
    bad = [screen_offline.Pool(0.5, 0.4, rewards, ranking=rewards[::-1]) for _ in range(4)]
    assert screen_offline.gate_lift(good).value > 2 and screen_offline.gate_lift(bad).value < 0.5


def test_a_pool_of_two_steps_is_forecast_before_the_first_of_them(run):
    (pool,) = screen_offline.replay(run, f"{__name__}.FromTable", 7, span=2)
    assert [[id for id, _, _ in fit] for fit in FromTable.fits] == [["a", "b", "c"]]
    assert (pool.best, pool.rewards) == (1 / 2.5, [1 / 2.0, 1 / 5.0, None, 1 / 1.6])


def test_parents_rank_by_their_mean_reward_and_an_idea_without_any_comes_last(run):
    parents = {"d": ("a", "b"), "e": ("b",)}
    ranking = screen_offline.by_parents(run, [run.experiments[id] for id in "def"], parents, 0)
    assert ranking == [pytest.approx((0.25 + 0.4) / 2), 0.4, 0.0]


def test_the_table_has_intervals_over_runs_and_a_dash_for_what_does_not_exist():
    cells = [
        {"seed": seed, "predictor": "tokens", **dict.fromkeys(screen_offline.FIGURES), "pairs": 0.5 + 0.1 * seed}
        for seed in (0, 1)
    ]
    assert screen_offline.table(cells).splitlines()[-1].startswith("| tokens | 2 | 0.55 (-0.09 to 1.19) | – | –")
