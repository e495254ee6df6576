"""Figures of forecasts against cases worked out by hand."""

import numpy as np
import pytest

from ideator_rl.screen.accuracy import (
    coverage,
    gains,
    interval,
    kept,
    kept_share,
    pair_accuracy,
    pair_counts,
    reliability,
)


def test_pairs_are_counted_within_a_pool_and_equal_forecasts_count_as_half():
    # Pairs: (1, 2) right, (1, 3) wrong, (2, 3) has equal forecasts.
    assert pair_counts([1.0, 2.0, 2.0], [5.0, 6.0, 4.0]) == (1.5, 3)
    # Equal outcomes are no pair; a second pool adds one right pair, and nothing across the pools is compared.
    assert pair_counts([1.0, 2.0], [5.0, 5.0]) == (0.0, 0)
    pools = [([1.0, 2.0, 2.0], [5.0, 6.0, 4.0]), ([9.0, 8.0], [0.2, 0.1])]
    assert pair_accuracy(pools) == pytest.approx(2.5 / 4)
    assert pair_accuracy([([1.0], [1.0]), ([1.0, 2.0], [3.0, 3.0])]) is None


def test_pairs_are_counted_as_by_comparing_each_with_each():
    rng = np.random.default_rng(0)
    for size in (2, 3, 17, 60):
        for levels in (2, 3, 1000):
            forecast, outcome = rng.integers(levels, size=size) / 7, rng.integers(levels, size=size) / 3
            signs = [
                float(np.sign(forecast[i] - forecast[j]) * np.sign(outcome[i] - outcome[j]))
                for i in range(size)
                for j in range(i)
                if outcome[i] != outcome[j]
            ]
            assert pair_counts(forecast, outcome) == (sum(sign + 1 for sign in signs) / 2, len(signs))


def test_pairs_of_many_ideas_need_no_memory_for_each_pair():
    rng = np.random.default_rng(0)
    chances = rng.random(200_000)
    right, pairs = pair_counts(chances, rng.random(200_000) < chances)
    # The chance that a success has the higher forecast, for uniform right forecasts.
    assert pairs > 9_000_000_000 and right / pairs == pytest.approx(5 / 6, abs=0.005)


def test_pairs_of_chances_and_outcomes_are_the_area_under_the_roc_curve():
    chances, succeeded = [0.9, 0.8, 0.7, 0.6, 0.55], [1.0, 1.0, 0.0, 1.0, 0.0]
    # Six pairs of a success and a failure; 0.6 against 0.7 is the wrong one.
    assert pair_accuracy([(chances, succeeded)]) == pytest.approx(5 / 6)


def test_coverage_counts_outcomes_inside_the_interval_with_its_bounds():
    # 80 % of a normal lie within 1.2816 standard deviations.
    assert coverage([0, 0, 0, 0], [1, 1, 1, 2], [1.28, -1.29, 0.0, 2.5]) == 0.75
    assert coverage([0, 0], [1, 1], [0.6, 0.7], level=0.5) == 0.5
    assert coverage([], [], []) is None


def test_a_gain_is_what_a_success_adds_to_the_best_so_far():
    assert gains([1.0, 2.5, None, 1.5], 1.5) == [0.0, 1.0, 0.0, 0.0]
    assert gains([1.0, None], None) == [0.0, 0.0]


def test_the_best_share_of_a_pool_takes_its_last_idea_in_part():
    values = [4.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    # A sixth of 8 ideas: the first whole, and a third of the second.
    assert kept([8, 7, 6, 5, 4, 3, 2, 1], values) == pytest.approx(4.0)
    assert kept([8, 1, 7, 2, 3, 4, 5, 6], values) == pytest.approx(4.0 + 2.0 / 3)
    # All ranks equal: exactly the share of the sum.
    assert kept([1.0] * 8, values) == pytest.approx(6.0 / 6)
    assert kept([1, 2, 3], [1.0, 2.0, 4.0], share=1.0) == 7.0


def test_the_kept_share_is_of_all_value_and_chance_for_equal_ranks():
    first = ([6, 5, 4, 3, 2, 1], [0.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    second = ([6, 5, 4, 3, 2, 1], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert kept_share([first, second]) == pytest.approx(1 / 4)
    assert kept_share([([0] * 6, first[1]), ([0] * 6, second[1])]) == pytest.approx(1 / 6)
    assert kept_share([(first[0], [0.0] * 6)]) is None


def test_a_reliability_diagram_has_the_last_bin_closed_and_no_empty_ones():
    bins = reliability([0.0, 0.05, 0.95, 1.0, 1.0, 0.5], [False, True, True, True, False, True])
    assert [(b.low, b.high, b.count) for b in bins] == [(0.0, 0.1, 2), (0.5, 0.6, 1), (0.9, 1.0, 3)]
    assert [b.observed for b in bins] == [0.5, 1.0, pytest.approx(2 / 3)]
    assert bins[2].forecast == pytest.approx((0.95 + 2) / 3)
    assert reliability([], []) == []


def test_an_interval_is_student_s():
    low, high = interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.3027, standard error 1/√3.
    assert (low, high) == (pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4), pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4))
    assert interval([1.0]) is None
