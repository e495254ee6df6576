"""A map of the ideas of a run: their embeddings in two dimensions, so that ideas of similar words lie near each other.

The plane is that of the first two principal components of all descriptions, found by subspace iteration from a fixed
start: the same ideas give the same map.  Directions and units mean nothing, and what lies far apart in the other
dimensions may lie together here; `share` is how much of the variance the plane shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ideator_rl.diversity.embedding import Embedder, description
from ideator_rl.report.run_view import Row

ROUNDS = 12
"""Of subspace iteration; the angle to the plane shrinks by the ratio of neighbouring variances in each."""
SPARE = 6
"""Directions that are followed besides the two: they speed up the iteration."""
GRID = 999
"""Positions are whole numbers from 0 to this: a map of thousands of ideas stays small."""


@dataclass(frozen=True)
class IdeaMap:
    """Positions of the rows of a run."""

    points: list[tuple[int, int] | None]
    """By row, x and y from 0 to `GRID`; None for a row without an idea."""
    share: float
    """Of the variance of the embeddings, from 0 to 1."""
    embedder: str


def idea_map(rows: Sequence[Row], embedder: Embedder) -> IdeaMap:
    """The map of a run's ideas; no position where fewer than three differ."""
    texts = {i: description(row.idea) for i, row in enumerate(rows) if row.idea and not row.is_baseline}
    places, points = list(texts), [None] * len(rows)
    if len(set(texts.values())) < 3:
        return IdeaMap(list(points), 0.0, embedder.name)
    vectors_ND = np.asarray(embedder.embed([texts[i] for i in places]), np.float64)
    plane_N2, share = _principal_plane(vectors_ND)
    low, high = plane_N2.min(axis=0), plane_N2.max(axis=0)
    # One scale for both axes, so that distances compare.
    scale = GRID / max(float((high - low).max()), 1e-12)
    whole_N2 = np.rint((plane_N2 - (low + high) / 2) * scale + GRID / 2).astype(int)
    positions = dict(zip(places, ((int(x), int(y)) for x, y in whole_N2), strict=True))
    return IdeaMap([positions.get(i) for i in range(len(rows))], share, embedder.name)


def _principal_plane(vectors_ND: np.ndarray) -> tuple[np.ndarray, float]:
    """Coordinates [N, 2] on the first two principal components, and their share of the variance."""
    centred_ND = vectors_ND - vectors_ND.mean(axis=0)
    total = float((centred_ND**2).sum())
    if total <= 0:
        return np.zeros((len(vectors_ND), 2)), 0.0
    count = min(2 + SPARE, *centred_ND.shape)
    basis_DK = np.linalg.qr(np.random.default_rng(0).standard_normal((centred_ND.shape[1], count)))[0]
    for _ in range(ROUNDS):
        basis_DK = np.linalg.qr(centred_ND.T @ (centred_ND @ basis_DK))[0]
    # Within the subspace, the two directions of the largest variance.
    turn_KK = np.linalg.svd(centred_ND @ basis_DK, full_matrices=False)[2]
    plane_N2 = centred_ND @ (basis_DK @ turn_KK[:2].T)
    return plane_N2, float((plane_N2**2).sum()) / total
