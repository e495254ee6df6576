"""The map of the ideas: two dimensions of their embeddings."""

from types import SimpleNamespace

import numpy as np

from ideator_rl.diversity.embedding import HashedNGrams
from ideator_rl.report.idea_map import GRID, idea_map


class Table:
    """An embedder with a row for each text."""

    name = "table"

    def __init__(self, vectors):
        self.vectors = vectors

    def embed(self, texts):
        return np.array([self.vectors[text] for text in texts], np.float32)


def row(idea, is_baseline=False):
    return SimpleNamespace(idea=idea, is_baseline=is_baseline)


def test_the_plane_is_that_of_the_largest_variance():
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    flat = rng.standard_normal((30, 40)) * np.array([9, 4, *[0.1] * 38])
    vectors = {f"idea {i}": vector for i, vector in enumerate(flat @ turn)}
    result = idea_map([row(text) for text in vectors], Table(vectors))
    points = np.array(result.points, float)
    sides, sizes, _ = np.linalg.svd(flat - flat.mean(axis=0))
    for axis in range(2):
        assert abs(np.corrcoef(points[:, axis], sides[:, axis])[0, 1]) > 0.999
    assert abs(result.share - (sizes[:2] ** 2).sum() / (sizes**2).sum()) < 1e-3
    assert points.min() >= 0 and points.max() == GRID


def test_ideas_of_like_words_lie_together_and_rows_without_an_idea_nowhere():
    texts = [f"Warm the learning rate up over {n} steps" for n in range(5)]
    texts += [f"Replace attention by a convolution of width {n}" for n in range(5)]
    rows = [row("", True), row(""), *map(row, texts)]
    result = idea_map(rows, HashedNGrams())
    assert result.points[:2] == [None, None] and result.points == idea_map(rows, HashedNGrams()).points
    points = np.array(result.points[2:], float)
    inside = max(np.ptp(points[:5, 0]), np.ptp(points[5:, 0]))
    assert inside < abs(points[:5, 0].mean() - points[5:, 0].mean())


def test_fewer_than_three_different_ideas_have_no_map():
    assert idea_map([row("a"), row("b"), row("a")], HashedNGrams()).points == [None] * 3
    assert idea_map([], HashedNGrams()).points == []
