"""The alarms on scripted trajectories of a run's figures."""

import pytest

from ideator_rl.diversity.alarms import (
    BOUND,
    CLUSTER,
    LENGTH,
    OVERREACH,
    SIGNATURE,
    STANDSTILL,
    VENDI,
    active,
    alarms,
)
from ideator_rl.diversity.window import Window


def windows(count=None, **series):
    """Windows with these figures; a number is for every window, a list has one value for each."""
    count = count or max(len(values) for values in series.values() if isinstance(values, list))
    return [
        Window(
            at, at, 64, {name: values[at] if isinstance(values, list) else values for name, values in series.items()}
        )
        for at in range(count)
    ]


def triples(alarms_of_run):
    return [(alarm.step, alarm.kind, alarm.level) for alarm in alarms_of_run]


RISING = [0.2 + 0.02 * at for at in range(12)]
SHORTER = [30.0 - 2 * at for at in range(12)]


def test_the_signature_of_the_paper_is_reported_after_ten_windows():
    run = windows(reward_mean=RISING, reward_best=0.5, thought_words=SHORTER)
    assert triples(alarms(run)) == [(9, SIGNATURE, "warn")]
    assert "thoughts went from 30.0 to 12.0 words" in alarms(run)[0].text


@pytest.mark.parametrize(
    "healthy",
    [
        {"reward_best": [0.5 + 0.01 * at for at in range(12)]},
        {"thought_words": [30.0] * 12},
        {"reward_mean": [0.3, 0.1, 0.2] * 4},
        {"thought_words": [None] * 12},
    ],
    ids=["the best rises too", "thoughts stay long", "the mean is noise", "no thoughts are known"],
)
def test_without_one_of_its_signs_there_is_no_signature(healthy):
    figures = {"reward_mean": RISING, "reward_best": [0.5] * 12, "thought_words": SHORTER} | healthy
    assert alarms(windows(**figures)) == []


def test_noise_rarely_looks_like_a_collapse():
    import numpy as np

    rng = np.random.default_rng(0)
    rings = 0
    for _ in range(300):
        run = windows(
            **{name: rng.normal(size=10).tolist() for name in ("reward_mean", "reward_best", "thought_words")}
        )
        rings += bool(active(run))
    assert rings <= 3  # at 2 standard errors each, and half of the bests falling: 0.2 %


def test_one_large_cluster_warns_after_three_windows_and_then_stops():
    run = windows(largest_cluster=[0.3, 0.7, 0.9, 0.7, 0.9, 0.9, 0.9, 0.2, 0.7, 0.7, 0.7])
    assert triples(alarms(run)) == [(3, CLUSTER, "warn"), (6, CLUSTER, "stop"), (10, CLUSTER, "warn")]
    assert active(run[:8]) == []


@pytest.mark.parametrize(
    ("other_figures", "level"),
    [
        ({}, "stop"),
        ({"distinct_trees": 0.97, "vendi": [20.0] * 2 + [8.0] * 8}, "warn"),
        ({"distinct_trees": 0.97}, "warn"),
        ({"distinct_trees": 0.4}, "stop"),
        ({"distinct_trees": 0.4, "vendi": 8.0}, "stop"),
        ({"distinct_trees": 0.97, "vendi": 1.8}, "stop"),
        ({"distinct_trees": 0.97, "vendi": [20.0] * 2 + [6.0] * 8}, "stop"),
    ],
)
def test_a_cluster_of_distinct_experiments_does_not_stop_a_run(other_figures, level):
    run = windows(10, largest_cluster=0.95, **other_figures)
    assert [alarm.level for alarm in active(run) if alarm.kind == CLUSTER] == [level]


def test_a_vendi_score_is_compared_with_the_run_s_own_start():
    run = windows(vendi=[22.0, 18.0, 10.0, 6.9, 6.9, 6.9, 2.9, 2.9, 2.9])  # the start is 20: 35 % is 7, 15 % is 3
    assert triples(alarms(run)) == [(5, VENDI, "warn"), (8, VENDI, "stop")]
    assert alarms(windows(vendi=[2.2, 1.8, 1.2, 1.2, 1.2])) == []  # narrow from the start, and no narrower


def test_the_start_is_the_first_measurable_window_however_late():
    late = [None] * 6 + [22.0, 18.0, 6.0, 6.0]  # of malformed texts there are too few descriptions
    assert alarms(windows(vendi=late)) == []
    assert triples(alarms(windows(vendi=[*late, 6.0]))) == [(10, VENDI, "warn")]


def test_the_texts_of_alarms_hold_the_measured_values():
    [alarm] = alarms(windows(3, largest_cluster=1.0))
    assert "held 100% of the ideas or more" in alarm.text
    [alarm] = alarms(windows(vendi=[20.0, 20.0, 4.0, 4.0, 4.0]))
    assert "has been 20% of its start, 20.0, or less" in alarm.text


def test_few_successes_are_reported_as_too_ambitious():
    run = windows(success=[0.5, 0.1, 0.14, 0.15, 0.1, 0.1, 0.14])
    assert triples(alarms(run)) == [(6, OVERREACH, "warn")]


def test_the_correlation_of_length_and_success_is_pooled_over_windows():
    assert triples(alarms(windows(6, thought_success=-0.35))) == [(2, LENGTH, "warn")]
    assert "Shorter thoughts succeed more often" in alarms(windows(6, thought_success=-0.35))[0].text
    assert alarms(windows(thought_success=[0.9, -0.9] * 5)) == []
    assert alarms(windows(3, thought_success=-0.35, malformed=0.9)) == [], "of 19 ideas the standard error is 0.24"


def test_ten_windows_without_a_better_idea_are_a_standstill():
    run = windows(best_so_far=[None, 3.0, 2.5] + [2.4] * 12)
    assert triples(alarms(run)) == [(13, STANDSTILL, "warn")]


def test_a_result_beyond_the_bound_is_reported_at_once():
    run = windows(beyond_bound=[0.0, 2.0, 1.0, 0.0])
    assert triples(alarms(run)) == [(1, BOUND, "warn")]


def test_a_run_without_figures_has_no_alarms():
    assert alarms([]) == [] and alarms(windows(12, vendi=None, success=None)) == []
