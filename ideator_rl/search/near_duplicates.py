"""Finds near-duplicates: ideas that mean, in other words, the same as an earlier idea of this search.

Compares descriptions by the cosine of their embeddings (`diversity.embedding`), from the similarity that the embedder
was calibrated at.  Numbers hardly move an embedding, so another learning rate is a near-duplicate too.

Guarantees: a function of the texts in their order; a text without an idea has no duplicate.  A repeated text gets the
answer of its first time: none if it was new (it leads to the same codebase, which costs nothing), or the same duplicate
(so that a rejected idea is rejected again).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ideator_rl.diversity.embedding import Embedder, description, get_embedder, thresholds
from ideator_rl.experiment import NEAR_DUPLICATE, REJECTED, Experiment, proposal_id
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.config import SearchConfig
from ideator_rl.storage.journal import sections
from ideator_rl.storage.search_journal import SearchJournal

IdeaKey = tuple[int, int]
"""Step and position of an idea."""
Duplicate = tuple[IdeaKey, float]
"""The earlier idea, and the cosine similarity to it."""


class NearDuplicates:
    def __init__(self, embedder: Embedder, similarity: float | None = None):
        """Args:
        similarity: cosine from which on two ideas are duplicates; None for the embedder's calibrated value.
        """
        self.embedder = embedder
        self.similarity = thresholds(embedder).duplicate if similarity is None else similarity
        self._vectors_ND: np.ndarray | None = None
        """Embeddings of all ideas so far in the first `len(self._keys)` rows; the rows after them are room."""
        self._keys: list[IdeaKey] = []
        self._duplicate_of: dict[str, Duplicate | None] = {}
        """By idea text."""

    def add(self, texts: Sequence[str], step: int, first: int) -> dict[int, Duplicate]:
        """Remember these completions, at positions from `first` on; returns the nearest earlier idea by index, for
        those that have a duplicate."""
        duplicates: dict[int, Duplicate] = {}
        # A batch is compared with itself as well: each idea sees all before it, in the order of proposal.
        new_ND = self.embedder.embed([description(text) for text in texts])
        vectors_ND = self._with_room(len(texts), new_ND.shape[1])
        for index, (text, vector_D) in enumerate(zip(texts, new_ND, strict=True)):
            idea = sections(text)[1]
            if not idea:
                continue
            # A repeated text gets its first answer: compared again, it would be a duplicate of itself.
            if idea not in self._duplicate_of:
                self._duplicate_of[idea] = self._nearest(vector_D)
            if (duplicate := self._duplicate_of[idea]) is not None:
                duplicates[index] = duplicate
            vectors_ND[len(self._keys)] = vector_D
            self._keys.append((step, first + index))
        return duplicates

    def duplicates_among(self, texts: Sequence[str]) -> set[int]:
        """Indices of the completions that `add` would call duplicates; it remembers none of them."""
        ideas, answers = len(self._keys), dict(self._duplicate_of)
        duplicates = self.add(texts, 0, 0) if texts else {}
        # Rows of the matrix after the last key are room.
        del self._keys[ideas:]
        self._duplicate_of = answers
        return set(duplicates)

    def _nearest(self, vector_D: np.ndarray) -> Duplicate | None:
        """The most similar earlier idea, if it is similar enough."""
        if self._vectors_ND is None or not self._keys:
            return None
        similarity_N = self._vectors_ND[: len(self._keys)] @ vector_D
        nearest = int(similarity_N.argmax())
        similarity = float(similarity_N[nearest])
        return (self._keys[nearest], similarity) if similarity >= self.similarity else None

    def _with_room(self, count: int, dimensions: int) -> np.ndarray:
        """The matrix with `count` free rows; its length doubles, so that a row costs constant time on average."""
        if self._vectors_ND is None:
            self._vectors_ND = np.zeros((max(256, count), dimensions), np.float32)
        while len(self._keys) + count > len(self._vectors_ND):
            self._vectors_ND = np.concatenate([self._vectors_ND, np.zeros_like(self._vectors_ND)])
        return self._vectors_ND


def read_near_duplicates(config: SearchConfig, journal: SearchJournal) -> NearDuplicates | None:
    """The detector with the ideas of earlier sessions in it; None where the recipe asks for none."""
    if config.near_duplicates is None:
        return None
    detector = NearDuplicates(get_embedder(config.embedder), config.near_duplicate_similarity)
    for step, rows in groupby(journal.completions(), key=lambda row: row[0]):
        detector.add([text for _, text in rows], step, 0)
    return detector


def rejected_record(text: str, duplicate: Duplicate, buffer: RewardBuffer) -> Experiment:
    """The record of an idea that is not run because an earlier idea means the same."""
    (step, position), similarity = duplicate
    environment, config = buffer.executor.environment, buffer.config
    idea = sections(text)[1] or text
    message = (
        f"It means the same as idea {position + 1} of epoch {step + 1} (similarity {similarity:.2f}); with "
        "near_duplicates: reject it is not run."
    )
    return Experiment(
        id=proposal_id(idea, "near_duplicate", config.run_dir or "", config.preset),
        status=REJECTED,
        idea=idea,
        environment=environment.name,
        preset=config.preset,
        seed=config.seed,
        reward=environment.failure_reward,
        error={"kind": NEAR_DUPLICATE, "message": message},
        created=time.time(),
        finished=time.time(),
    )
