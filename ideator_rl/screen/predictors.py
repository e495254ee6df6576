"""The predictors of this library: ridge regressions on tokens, or on embeddings of the description.

Success is a logistic regression, quality given success a Bayesian ridge regression (`screen.regression`).  Both also
see the number of tokens.

The rewards of parents are no feature: with them, a search ran the children of its best lineage alone, and got stuck.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from ideator_rl.archive.idea_edits import idea_edits
from ideator_rl.diversity.embedding import Embedder, description, get_embedder
from ideator_rl.experiment import LOST
from ideator_rl.patch.paths import Tree
from ideator_rl.screen.features import tokens_of
from ideator_rl.screen.predictor import Candidate, Forecast, PredictorContext, Seen
from ideator_rl.screen.regression import BayesianRidge, LogisticRidge

MAX_TOKENS = 600
"""Tokens that are features: the most frequent ones."""
LEAST_COUNT = 2
"""Ideas that a token must be in: a token of one idea is no evidence about another."""
COMPONENTS = 64
"""Directions of the embeddings that are features: those in which the fitted ideas differ most …"""
MAX_ROWS = 4096
"""… as far as this many of them show."""


class RidgePredictor(ABC):
    """What all predictors share: the two regressions, and the number of tokens as a feature.

    An idea further out than the fitted ones counts as one at their edge.  The doubt of a linear fit grows without bound
    and the expected improvement with it, so that the longest nonsense would be the most promising idea.
    """

    margin = 0.0
    """How far this edge is beyond their numbers of tokens, in widths of the range of these numbers."""

    def __init__(self, context: PredictorContext):
        self.context = context
        self._success, self._quality = LogisticRidge(), BayesianRidge()
        self._constant: tuple[float, float] | None = (0.5, 0.0)
        """Mean and deviation of the quality where fewer than two successes are known; None with a fit."""
        self._centre, self._spread = 0.0, 1.0
        """Of the number of tokens, over the fitted ideas …"""
        self._range = 0.0, 0.0
        """… and what it is at least and at most, for any idea."""

    @abstractmethod
    def fit_features(self, seen: Sequence[Seen]) -> None:
        """Choose the features from the ideas to be fitted."""

    @abstractmethod
    def features(self, candidates: Sequence[Candidate]) -> tuple[Any, Sequence[int]]:
        """[N, D] features, dense or sparse, and the number of tokens of each idea."""

    def fit(self, seen: Sequence[Seen]) -> None:
        # Sorted, so that the order in which experiments ended cannot change a rounding.
        seen = sorted((item for item in seen if item.status != LOST), key=lambda item: (item.id, item.replicate))
        successes = [item for item in seen if item.succeeded]
        rewards = [float(item.reward or 0.0) for item in successes]
        self.fit_features(seen)
        features_ND, counts = self.features(seen)
        self._centre = float(np.mean(counts)) if seen else 0.0
        # A number that is the same for all outcomes is no evidence, however much other ideas differ in it.
        self._spread = float(np.std(counts)) if seen and np.std(counts) > 1e-9 else math.inf
        low, high = min(counts, default=0), max(counts, default=0)
        self._range = low - self.margin * (high - low), high + self.margin * (high - low)
        rows_ND = self._rows(features_ND, counts)
        self._success.fit(rows_ND, np.array([item.succeeded for item in seen], np.float64))
        self._constant = None
        if len(successes) < 2:
            self._constant = rewards[0] if rewards else 0.0, 1.0
            return
        chosen = np.array([index for index, item in enumerate(seen) if item.succeeded])
        self._quality.fit(rows_ND[chosen], np.array(rewards))

    def predict(self, candidates: Sequence[Candidate]) -> Forecast:
        if not candidates:
            return Forecast(np.zeros(0), np.zeros(0), np.zeros(0))
        rows_ND = self._rows(*self.features(candidates))
        success_N = self._success.predict(rows_ND)
        if self._constant is not None:
            level, deviation = self._constant
            return Forecast(success_N, np.full(len(candidates), level), np.full(len(candidates), deviation))
        mean_N, sd_N = self._quality.predict(rows_ND)
        noise = self._quality.noise
        return Forecast(success_N, mean_N, np.sqrt(sd_N**2 + noise**2), noise)

    def _rows(self, features_ND: Any, counts: Sequence[int]) -> Any:
        """[N, D + 1] features, and the number of tokens in units of its spread."""
        numbers_N1 = (np.clip(counts, *self._range)[:, None] - self._centre) / self._spread
        if sparse.issparse(features_ND):
            return sparse.hstack([features_ND, numbers_N1], format="csr")
        return np.hstack([features_ND, numbers_N1])


class TokensPredictor(RidgePredictor):
    """Features are the tokens of `screen.features`."""

    def __init__(self, context: PredictorContext):
        super().__init__(context)
        environment = context.environment
        self._edits = idea_edits(environment, context.preset) if environment else None
        self._base: Tree | None = environment.baseline(context.preset) if environment else None
        self._vocabulary: dict[str, int] = {}
        self._most_known, self._most_unknown = 0, 0
        """Tokens of one idea that count, at most: those that are features, and others."""
        self._tokens: dict[Candidate, frozenset[str]] = {}
        """Tokens of the fitted ideas, and of those forecast since: reading a patch costs more than a fit."""

    def fit_features(self, seen: Sequence[Seen]) -> None:
        self._tokens = {_key(item): self._tokens_of(item) for item in seen}
        counts = Counter(token for item in seen for token in self._tokens_of(item))
        # The most frequent first; ties in the order of the alphabet, so that the choice is no matter of hashing.
        ranked = sorted((token for token in counts if counts[token] >= LEAST_COUNT), key=lambda t: (-counts[t], t))
        self._vocabulary = {token: column for column, token in enumerate(ranked[:MAX_TOKENS])}
        # A child of two large patches changes more than all before, by up to a half where it was measured, and is no
        # outlier.  A text that is longer is only wordier.
        self.margin = 1.0 if any(item.patch for item in seen) else 0.0
        known = [len(self._tokens_of(item) & self._vocabulary.keys()) for item in seen]
        self._most_known = round((1 + self.margin) * max(known, default=0))
        unknown = [len(self._tokens_of(item)) - count for item, count in zip(seen, known, strict=True)]
        self._most_unknown = max(unknown, default=0)

    def features(self, candidates: Sequence[Candidate]) -> tuple[Any, Sequence[int]]:
        tokens = [self._tokens_of(candidate) for candidate in candidates]
        known = [sorted(self._vocabulary[token] for token in row if token in self._vocabulary) for row in tokens]
        columns = [row[: self._most_known] for row in known]
        indptr = np.cumsum([0, *map(len, columns)])
        indices = np.array([column for row in columns for column in row], np.int64)
        shape = (len(candidates), len(self._vocabulary))
        # Tokens that no two outcomes share add no length beyond that of a fitted idea: nonsense has nothing else.
        counts = [
            len(own) + min(len(row) - len(own), self._most_unknown) for row, own in zip(tokens, known, strict=True)
        ]
        return sparse.csr_matrix((np.ones(len(indices)), indices, indptr), shape=shape), counts

    def _tokens_of(self, candidate: Candidate) -> frozenset[str]:
        key = _key(candidate)
        if key not in self._tokens:
            self._tokens[key] = frozenset(tokens_of(key, self._edits, self._base))
        return self._tokens[key]


def _key(candidate: Candidate) -> Candidate:
    """What its tokens depend on."""
    return Candidate(candidate.idea, candidate.patch)


class VectorPredictor(RidgePredictor):
    """Features are the main directions of a vector of each idea's text."""

    is_standardised = False
    """Whether each number of the vectors is taken in units of its spread over the fitted ideas."""

    def __init__(self, context: PredictorContext):
        super().__init__(context)
        self._mean_D = np.zeros(1)
        self._directions_DK = np.zeros((1, 1))
        self._reach = 0.0
        """Length of an idea's features at most."""
        self._texts: dict[str, str] = {}
        """By idea: of the same ideas as the vectors."""
        self._vectors: dict[str, np.ndarray] = {}
        """By text: of the fitted ideas, and of those forecast since."""

    @abstractmethod
    def text_of(self, candidate: Candidate) -> str:
        """The text whose vector is taken."""

    @abstractmethod
    def vectors_of(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D] vectors of N texts, at least one."""

    def fit_features(self, seen: Sequence[Seen]) -> None:
        if not seen:
            self._mean_D, self._directions_DK = np.zeros(1), np.zeros((1, 0))
            return
        vectors_ND = self._stacked(seen)
        # Ideas that were sampled and not run are not asked for again, and vectors can be large.
        self._texts = {item.idea: self._text(item) for item in seen}
        self._vectors = {text: self._vectors[text] for text in self._texts.values()}
        self._mean_D = vectors_ND.mean(axis=0)
        scale_D = vectors_ND.std(axis=0) if self.is_standardised else np.ones(vectors_ND.shape[1])
        # A number that is the same in all fitted ideas is no evidence, however much it differs in another.
        scale_D[scale_D < 1e-6 * max(float(scale_D.max()), 1e-12)] = math.inf
        centred_MD = (vectors_ND[:: len(seen) // MAX_ROWS + 1] - self._mean_D) / scale_D
        # The directions of the largest variance, from the smaller of the two products.
        is_wide = centred_MD.shape[0] < centred_MD.shape[1]
        product = centred_MD @ centred_MD.T if is_wide else centred_MD.T @ centred_MD
        squares, vectors = np.linalg.eigh(product)
        keep = np.flatnonzero(squares > 1e-9 * max(squares[-1], 1e-12))[-COMPONENTS:]
        directions_DK = vectors[:, keep]
        if is_wide:
            directions_DK = centred_MD.T @ directions_DK / np.sqrt(squares[keep])
        # Scaled as one, so that a unit is the spread in the first direction.
        self._directions_DK = directions_DK / np.sqrt(max(squares[-1], 1e-12) / len(centred_MD)) / scale_D[:, None]
        lengths_N = np.linalg.norm((vectors_ND - self._mean_D) @ self._directions_DK, axis=1)
        # A little more than the longest, so that no rounding changes a fitted idea.
        self._reach = max(float(lengths_N.max()) * (1 + 1e-9), 1e-12)

    def features(self, candidates: Sequence[Candidate]) -> tuple[Any, Sequence[int]]:
        counts = [len(self._text(candidate).split()) for candidate in candidates]
        if not self._directions_DK.shape[1]:
            return np.zeros((len(candidates), 0)), counts
        features_NK = (self._stacked(candidates) - self._mean_D) @ self._directions_DK
        lengths_N1 = np.linalg.norm(features_NK, axis=1, keepdims=True)
        return features_NK * (self._reach / np.maximum(lengths_N1, self._reach)), counts

    def _stacked(self, candidates: Sequence[Candidate]) -> np.ndarray:
        texts = [self._text(candidate) for candidate in candidates]
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors |= dict(zip(new, self.vectors_of(new), strict=True))
        return np.stack([self._vectors[text] for text in texts]).astype(np.float64)

    def _text(self, candidate: Candidate) -> str:
        if candidate.idea not in self._texts:
            self._texts[candidate.idea] = self.text_of(candidate)
        return self._texts[candidate.idea]


class EmbeddingPredictor(VectorPredictor):
    """Features are the main directions of the descriptions' embeddings."""

    def __init__(self, context: PredictorContext):
        super().__init__(context)
        self._embedder: Embedder = get_embedder(context.embedder)

    def text_of(self, candidate: Candidate) -> str:
        return description(candidate.idea)

    def vectors_of(self, texts: Sequence[str]) -> np.ndarray:
        return self._embedder.embed(list(texts))
