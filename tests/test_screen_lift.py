"""The lift of a screen on simulated runs of known worth, and the alarm on ideas that please the predictor."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from lift import simulated  # noqa: E402

from ideator_rl.screen import ScreenConfig  # noqa: E402
from ideator_rl.screen.alarms import active_screen_alarms  # noqa: E402
from ideator_rl.screen.figures import ScreenStep, lift_of, screen_steps  # noqa: E402


@pytest.mark.parametrize("drift", [-0.5, 0.0, 0.5, 1.0])
def test_a_pool_that_changes_is_no_sign_of_good_forecasts(drift):
    noise = [lift_of(simulated(seed, 0.0, 8, 60, closed=20, drift=drift)) for seed in range(12)]
    assert 0.7 < np.median([lift.value for lift in noise]) < 1.6
    assert np.mean([lift.high >= 2 for lift in noise]) < 0.5
    good = [lift_of(simulated(seed, 0.5, 8, 60, closed=20, drift=drift)) for seed in range(12)]
    assert min(lift.high for lift in good) >= 2 and np.median([lift.value for lift in good]) > 2


def test_few_places_do_not_hide_good_forecasts_from_a_closed_gate():
    """Of single steps with two places, those with a preferred idea among the audited ones are an unfair sample."""
    lifts = [lift_of(simulated(seed, 0.5, 2, 160, closed=160)) for seed in range(12)]
    assert np.median([lift.value for lift in lifts]) > 2.8


def test_a_lift_reads_as_many_steps_as_its_window_has():
    rows = simulated(0, 0.3, 8, 60, closed=20)
    assert lift_of(rows) == lift_of([replace(row, step=row.step + 10**6) for row in rows])
    unread = [replace(rows[0], step=-1 - step, status="not read") for step in range(3)]
    many = [replace(row, step=100 * repeat + row.step) for repeat in range(8) for row in rows]
    assert lift_of(many) == lift_of([*unread, *many]), "older steps do not count"
    steps = screen_steps(many)
    assert screen_steps(many, last=5)[-5:] == steps[-5:] and screen_steps(many, last=5)[0].lift is None


def gaming_alarms(forecast_rise, quality_rise, chance, seed):
    """In how many of 60 steps the alarm holds; one idea is audited in each."""
    rng, steps, count = np.random.default_rng(seed), [], 0
    for step in range(60):
        result = 0.3 + quality_rise * step + rng.normal(0, 0.05) if rng.random() < chance else 0.0
        forecast = chance * (0.3 + forecast_rise * step) + rng.normal(0, 0.005)
        steps.append(ScreenStep(step, 8, 8, 1, 1.0, forecast, result, None, None, True))
        count += any(alarm.kind == "screen_gaming" for alarm in active_screen_alarms(steps, ScreenConfig()))
    return count


@pytest.mark.parametrize("chance", [0.6, 0.97])
def test_forecasts_that_rise_with_the_results_are_no_gaming(chance):
    healthy = [gaming_alarms(0.003, 0.003, chance, seed) for seed in range(30)]
    assert sum(count > 0 for count in healthy) <= 4
    gaming = [gaming_alarms(0.01, -0.003, chance, seed) for seed in range(30)]
    assert sum(count > 0 for count in gaming) >= 26
