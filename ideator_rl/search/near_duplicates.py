"""Near-duplicates: ideas that say, in other words, what an idea of this search said before.

By the cosine of their descriptions' embeddings (`diversity.embedding`), from the similarity on at which the embedder
was calibrated.  Numbers hardly move an embedding, so that another learning rate is a near-duplicate too.  The same text
once more is what it was the first time: none, since it leads to the same codebase and costs nothing as it is, or again
one of the same idea, so that what was rejected is not run when it is repeated.

Guarantees: a function of the texts in their order; a text that holds no idea is like no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ideator_rl.diversity.embedding import Embedder, description, thresholds
from ideator_rl.storage.journal import sections

Where = tuple[int, int]
"""Step and position of an idea."""


class NearDuplicates:
    def __init__(self, embedder: Embedder, similarity: float | None = None):
        """Args:
        similarity: cosine from which on two ideas say the same; None for what the embedder was calibrated at.
        """
        self.embedder = embedder
        self.similarity = thresholds(embedder).duplicate if similarity is None else similarity
        self._known_ND: np.ndarray | None = None
        self._count = 0
        self._places: list[Where] = []
        self._texts: dict[str, tuple[Where, float] | None] = {}
        """Ideas that were looked at, each with what it said again."""

    def look(self, texts: Sequence[str], step: int, first: int) -> dict[int, tuple[Where, float]]:
        """Which of these ideas say what one before them said: by index, the nearest one's place and the similarity.

        They are remembered, at positions from `first` on.
        """
        found: dict[int, tuple[Where, float]] = {}
        vectors_ND = self.embedder.embed([description(text) for text in texts])
        self._make_room(len(texts), vectors_ND.shape[1])
        assert self._known_ND is not None
        for index, (text, vector_D) in enumerate(zip(texts, vectors_ND, strict=True)):
            idea = sections(text)[1]
            if not idea:
                continue
            if idea not in self._texts:
                self._texts[idea] = self._nearest(vector_D)
            if (like := self._texts[idea]) is not None:
                found[index] = like
            self._known_ND[self._count] = vector_D
            self._places.append((step, first + index))
            self._count += 1
        return found

    def _nearest(self, vector_D: np.ndarray) -> tuple[Where, float] | None:
        """The idea before this one that is most like it, if it says the same."""
        if self._known_ND is None or not self._count:
            return None
        similarity_N = self._known_ND[: self._count] @ vector_D
        nearest = int(similarity_N.argmax())
        similarity = float(similarity_N[nearest])
        return (self._places[nearest], similarity) if similarity >= self.similarity else None

    def _make_room(self, more: int, dimensions: int) -> None:
        if self._known_ND is None:
            self._known_ND = np.zeros((max(256, more), dimensions), np.float32)
        while self._count + more > len(self._known_ND):
            self._known_ND = np.concatenate([self._known_ND, np.zeros_like(self._known_ND)])
