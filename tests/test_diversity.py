"""Each measure against a value computed by hand or by a published implementation."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from ideator_rl.diversity import measures


def points(*angles):
    """Unit vectors of three dimensions."""
    return np.array([[math.cos(a), math.sin(a) * math.cos(b), math.sin(a) * math.sin(b)] for a, b in angles])


FIVE = points((0.1, 0.2), (0.5, 1.0), (1.2, 2.0), (2.0, 0.3), (2.9, 1.5))


def test_rarefaction_equals_the_mean_over_all_subsamples():
    kinds = [0, 0, 0, 1, 1, 2]
    for n in range(1, 7):
        by_hand = np.mean([len(set(subset)) for subset in itertools.combinations(kinds, n)])
        assert measures.distinct([3, 2, 1], n) == pytest.approx(by_hand)
    assert measures.distinct([3, 2, 1]) == 3 and measures.distinct([3, 2, 1], 7) is None
    assert measures.distinct([], 1) is None


def test_an_idea_may_have_several_kinds_or_none():
    has = [{"a"}, {"a", "b"}, set(), {"c"}]
    by_hand = np.mean([len(set().union(*subset)) for subset in itertools.combinations(has, 2)])
    assert measures.expected_seen([2, 1, 1], 4, 2) == pytest.approx(by_hand)


def test_distinct_n_is_the_share_of_different_ngrams():
    # Li et al.: different n-grams over all n-grams. {a, b, c} of 5 words; {ab, ba, ac} of 3 pairs.
    assert measures.distinct_ngrams(["a b a", "a c"], 1) == pytest.approx(3 / 5)
    assert measures.distinct_ngrams(["a b a", "A c."], 2) == pytest.approx(1.0)
    # of one text: 2 different words expected ({a, b} or {a, c}), 2.5 words expected
    assert measures.distinct_ngrams(["a b a", "a c"], 1, 1) == pytest.approx(2 / 2.5)
    assert measures.distinct_ngrams(["a", "b"], 2) is None and measures.distinct_ngrams([], 1, 1) is None


def test_repeated_texts_have_fewer_distinct_ngrams_at_equal_n():
    few = ["raise the learning rate", "use more layers", "drop the bias", "tie the weights"]
    assert measures.distinct_ngrams(few, 1, 4) > measures.distinct_ngrams([few[0]] * 3 + few[1:2], 1, 4)


def test_mean_distance_is_over_pairs_of_different_ideas():
    first, second = np.eye(2)
    assert measures.mean_distance(np.array([first, first, second])) == pytest.approx(2 / 3)
    assert measures.mean_distance(np.array([first, -first])) == pytest.approx(2.0)
    assert measures.mean_distance(np.array([first])) is None


def test_the_vendi_score_equals_its_authors_implementation():
    # vendi-score 0.0.3, `vendi.score_X(X)` of these five points, and of three orthogonal ones, one of them twice
    assert measures.vendi_score(FIVE) == pytest.approx(2.5389179833282665)
    assert measures.vendi_score(np.eye(3)[[0, 0, 1, 2]]) == pytest.approx(2.82842712474619)


def test_the_vendi_score_counts_equal_ideas_once_and_orthogonal_ideas_each():
    assert measures.vendi_score(np.eye(7)) == pytest.approx(7.0)
    assert measures.vendi_score(np.eye(7)[[2] * 5]) == pytest.approx(1.0)
    assert measures.vendi_score(np.zeros((0, 3))) is None


def test_the_vendi_score_of_rounded_rows_is_at_least_one():
    rows = np.full((8, 3), np.float32(3**-0.5) * np.float32(0.9999999), np.float32)
    assert [measures.vendi_score(rows, n) for n in (None, 4)] == pytest.approx([1.0, 1.0], abs=1e-12)


def test_the_vendi_score_is_the_same_from_either_matrix():
    wide = np.pad(FIVE, ((0, 0), (0, 9)))  # five ideas in twelve dimensions: the 5 × 5 matrix; above: the 3 × 3 one
    assert measures.vendi_score(wide) == pytest.approx(measures.vendi_score(FIVE))


def test_the_vendi_score_at_fixed_n_does_not_grow_with_the_sample():
    rows = np.random.default_rng(0).normal(size=(300, 40))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    few, many = rows[:40], rows
    assert measures.vendi_score(many) > 1.5 * measures.vendi_score(few)
    assert measures.vendi_score(many, 16) == pytest.approx(measures.vendi_score(few, 16), rel=0.02)
    assert measures.vendi_score(many, 16) == measures.vendi_score(many, 16)  # seeded
    assert measures.vendi_score(few, 41) is None


def test_clusters_are_cut_at_a_mean_cosine_distance():
    angles = np.radians([0, 10, 20, 90, 95, 180])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # Between 0–20 and 90–95 degrees the mean cosine distance is 0.79, within them at most 0.06.
    assert measures.clusters(rows, 0.3) == [3, 2, 1]
    assert measures.clusters(rows, 0.001) == [1] * 6
    assert measures.clusters(rows, 2.0) == [6]
    assert measures.clusters(rows[:1], 0.3) == [1] and measures.clusters(rows[:0], 0.3) == []


def test_clusters_equal_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(40, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # scikit-learn 1.9.1, AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=…)
    assert measures.clusters(rows, 0.5) == [7, 4, 4, 3, 3, 3, 3, 2, 2, 2, 2, 2, 1, 1, 1]
    assert measures.clusters(rows, 0.8) == [9, 7, 6, 6, 5, 5, 2]


def test_of_very_many_ideas_a_sample_is_clustered(monkeypatch):
    monkeypatch.setattr(measures, "MOST_CLUSTERED", 10)
    assert sum(measures.clusters(np.eye(3)[np.arange(30) % 3], 0.5)) == 10


def test_the_entropy_estimate_corrects_its_bias_to_first_order():
    assert measures.entropy([2, 2]) == pytest.approx(math.log(2) + 1 / 8)
    assert measures.entropy([5]) == 0.0 and measures.entropy([]) is None
    rng = np.random.default_rng(0)
    truth, plain, corrected = math.log(4), [], []
    for _ in range(400):
        counts = np.bincount(rng.integers(0, 4, 24), minlength=4)
        shares = counts[counts > 0] / 24
        plain.append(-(shares * np.log(shares)).sum())
        corrected.append(measures.entropy(counts.tolist()))
    assert abs(np.mean(corrected) - truth) < 0.2 * abs(np.mean(plain) - truth)


def test_shares_and_spreads_of_too_few_values_are_none():
    assert measures.largest_share([3, 1]) == 0.75 and measures.largest_share([]) is None
    assert measures.spread([1.0, 3.0]) == pytest.approx(math.sqrt(2)) and measures.spread([1.0]) is None


def test_nearest_returns_the_largest_similarity_to_a_past_idea():
    past = np.eye(3)[:2]
    assert measures.nearest(np.array([[0, 0, 1.0], [0.6, 0.8, 0]]), past) == pytest.approx([0.0, 0.8])
    assert measures.nearest(np.eye(3), np.zeros((0, 0))).tolist() == [-1, -1, -1]


def test_rank_correlation_equals_scipy():
    lengths, worked = [3, 9, 9, 40, 1, 7, 7, 0], [0, 1, 0, 1, 0, 1, 1, 0]
    assert measures.rank_correlation(lengths, worked) == pytest.approx(spearmanr(lengths, worked).statistic)
    assert measures.rank_correlation([1, 2, 3], [1, 1, 1]) is None
    assert measures.rank_correlation([1, 2], [0, 1]) is None
