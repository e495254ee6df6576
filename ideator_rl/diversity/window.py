"""The figures of one window of a run, and what some of them need of earlier windows.

A window is one step; steps of fewer than `FEW` ideas are joined to windows of at least `JOINED`.  All windows of a run
are compared at the same number n of ideas: the largest of `SAMPLE_SIZES` that is at most three quarters of the first
window's ideas, which leaves room for ideas without a description.  A figure of a window with fewer ideas is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ideator_rl.diversity import measures
from ideator_rl.diversity.embedding import Embedder, Thresholds, description, thresholds
from ideator_rl.diversity.environment_context import EnvironmentContext
from ideator_rl.diversity.figure_table import FIGURES
from ideator_rl.diversity.rows import Row
from ideator_rl.experiment import MALFORMED
from ideator_rl.patch.size import patch_size

FEW, JOINED = 8, 16
"""A step with fewer ideas than the first is joined with the next ones, to at least the second number of ideas."""
SAMPLE_SIZES = (64, 32, 16, 8, 4)
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Window:
    step: int
    """First step."""
    last_step: int
    ideas: int
    """Completions with a known outcome."""
    figures: Figures
    """By the names of `FIGURES`; None for a figure that cannot be computed."""


def sample_size(ideas: int) -> int:
    """The n at which a run's windows are compared, from the number of ideas in its first window."""
    return next((n for n in SAMPLE_SIZES if n <= ideas * 3 / 4), SAMPLE_SIZES[-1])


@dataclass(frozen=True)
class PatchFacts:
    """What the figures use of a patch."""

    lines: int
    files: int
    cell: str
    edits: frozenset[str]


class EarlierWindows:
    """What figures need of the earlier windows of a run; grows by about 2 KB for each distinct description."""

    def __init__(self) -> None:
        self.trees: set[str] = set()
        self.cells: set[str] = set()
        self.edits: set[str] = set()
        self.best: float | None = None
        """Best metric."""
        self._row_of: dict[str, int] = {}
        """Row in the matrix by description."""
        self._matrix = np.zeros((0, 0), np.float32)
        self._closed = 0
        """Rows of closed windows; the rows after them are of the present window, or free."""
        self._facts: dict[str, PatchFacts] = {}
        """By tree."""

    @property
    def vectors(self) -> np.ndarray:
        """[M, D] of the distinct descriptions of earlier windows."""
        return self._matrix[: self._closed]

    def embed(self, texts: Sequence[str], embedder: Embedder) -> np.ndarray:
        """[N, D]; a text is embedded once in a run."""
        new = [text for text in dict.fromkeys(texts) if text not in self._row_of]
        if new:
            vectors_ND, filled = embedder.embed(new), len(self._row_of)
            self._grow(filled + len(new), vectors_ND.shape[1])
            self._matrix[filled : filled + len(new)] = vectors_ND
            self._row_of.update(zip(new, range(filled, filled + len(new)), strict=True))
        return self._matrix[np.asarray([self._row_of[text] for text in texts], np.int64)]

    def facts(self, row: Row, context: EnvironmentContext) -> PatchFacts:
        """Facts of a row's patch, computed once for each codebase."""
        if row.tree not in self._facts:
            edits = frozenset(context.edits_in(row.patch))
            self._facts[row.tree] = PatchFacts(*patch_size(row.patch), context.cell(row.patch), edits)
        return self._facts[row.tree]

    def close(self, rows: Sequence[Row], context: EnvironmentContext) -> None:
        """Add a window, with the descriptions that were embedded for it."""
        for row in rows:
            if row.tree:
                facts = self.facts(row, context)
                self.trees.add(row.tree)
                self.cells.add(facts.cell)
                self.edits |= facts.edits
            metric = row.metric if row.succeeded else None
            if metric is not None and (self.best is None or context.better(metric, self.best)):
                self.best = metric
        self._closed = len(self._row_of)

    def _grow(self, rows: int, dimensions: int) -> None:
        if rows > len(self._matrix):
            larger = np.zeros((max(rows, 2 * len(self._matrix), 256), dimensions), np.float32)
            if len(self._matrix):
                larger[: len(self._matrix)] = self._matrix
            self._matrix = larger


def window_figures(
    rows: Sequence[Row], earlier: EarlierWindows, embedder: Embedder, context: EnvironmentContext, n: int
) -> Figures:
    """The figures of a window, which is then added to the earlier ones.

    Args:
        n: ideas at which diversity is compared.
    """
    texts = [description(row.idea) if row.idea else "" for row in rows]
    vectors = earlier.embed(texts, embedder)
    # An empty description has the zero vector, which is similar to nothing.
    has_words = np.linalg.norm(vectors, axis=1) > 0.5 if len(rows) else np.zeros(0, bool)
    vectors, succeeded = vectors[has_words], np.asarray([row.succeeded for row in rows], bool)[has_words]
    figures: Figures = dict.fromkeys(FIGURES)
    figures.update(_outcomes(rows))
    figures.update(_metrics(rows, context))
    figures.update(_codebases(rows, earlier, context, n))
    figures.update(_words([text for text, has in zip(texts, has_words, strict=True) if has], n))
    figures.update(_meaning(vectors, succeeded, earlier, thresholds(embedder), n))
    figures.update(_thoughts(rows))
    # All figures above compare with earlier windows only; now this window becomes one of them.
    earlier.close(rows, context)
    figures["best_so_far"] = earlier.best
    figures["coverage_so_far"] = len(earlier.edits) / len(context.edits) if context.edits else None
    return figures


FigurePairs = Iterator[tuple[str, float | None]]


def _outcomes(rows: Sequence[Row]) -> FigurePairs:
    rewards = [row.reward for row in rows if row.reward is not None]
    gained = [row.reward for row in rows if row.succeeded and row.reward is not None]
    yield "success", _share(row.succeeded for row in rows)
    yield "malformed", _share(row.status == MALFORMED for row in rows)
    yield "reward_mean", _mean(rewards)
    yield "reward_of_successes", _mean(gained)
    yield "reward_best", max(rewards, default=None)
    yield "reward_spread", measures.spread(rewards)


def _metrics(rows: Sequence[Row], context: EnvironmentContext) -> FigurePairs:
    metrics = [row.metric for row in rows if row.succeeded and row.metric is not None]
    best = min if context.direction == "min" else max
    bound = context.bound
    yield "metric_mean", _mean(metrics)
    yield "metric_best", best(metrics) if metrics else None
    yield "metric_spread", measures.spread(metrics)
    yield "beyond_bound", None if bound is None else float(sum(context.better(metric, bound) for metric in metrics))


def _codebases(rows: Sequence[Row], earlier: EarlierWindows, context: EnvironmentContext, n: int) -> FigurePairs:
    patched = [row for row in rows if row.tree]
    facts = [earlier.facts(row, context) for row in patched]
    edits = Counter(edit for patch in facts for edit in patch.edits)
    expected_edits = measures.expected_seen(list(edits.values()), len(patched), n)
    half = max(1, n // 2)
    yield "distinct_trees", _distinct([row.tree for row in patched], n)
    yield "distinct_trees_succeeded", _distinct([row.tree for row in patched if row.succeeded], half)
    yield "known_trees", _share(row.tree in earlier.trees for row in patched)
    yield "parent_copies", _share(row.tree in row.parents for row in patched if row.parents)
    yield "new_cells", float(len({patch.cell for patch in facts} - earlier.cells))
    yield "patch_lines", _mean([patch.lines for patch in facts])
    yield "patch_files", _mean([patch.files for patch in facts])
    yield "coverage", None if expected_edits is None or not context.edits else expected_edits / len(context.edits)


def _words(texts: Sequence[str], n: int) -> FigurePairs:
    yield "distinct_1", measures.distinct_ngrams(texts, 1, n)
    yield "distinct_2", measures.distinct_ngrams(texts, 2, n)


def _meaning(
    vectors: np.ndarray, succeeded: np.ndarray, earlier: EarlierWindows, cut: Thresholds, n: int
) -> FigurePairs:
    successes, half = vectors[succeeded], max(1, n // 2)
    # With fewer than n ideas a window has no clusters to compare; successes are compared at half of n.
    counts = measures.clusters(vectors, cut.cluster) if len(vectors) >= n else []
    success_counts = measures.clusters(successes, cut.cluster) if len(successes) >= half else []
    yield "distance", measures.mean_distance(vectors)
    yield "vendi", measures.vendi_score(vectors, n)
    yield "vendi_succeeded", measures.vendi_score(successes, half)
    yield "clusters", measures.distinct(counts, n)
    yield "cluster_entropy", measures.entropy(counts)
    yield "largest_cluster", measures.largest_share(counts)
    yield "largest_cluster_succeeded", measures.largest_share(success_counts)
    if len(earlier.vectors):
        duplicates = measures.nearest(vectors, earlier.vectors) >= cut.duplicate
        yield "past_duplicates", _share(duplicates)
        yield "past_duplicates_succeeded", _share(duplicates[succeeded])


def _thoughts(rows: Sequence[Row]) -> FigurePairs:
    """Only completions with an idea count: in others the end of the thought is unknown."""
    lengths = [len(row.thought.split()) for row in rows if row.idea]
    yield "thought_words", _mean(lengths)
    yield (
        "thought_success",
        measures.rank_correlation(lengths, [float(row.succeeded) for row in rows if row.idea]),
    )


def _distinct(trees: Sequence[str], n: int) -> float | None:
    expected = measures.distinct(list(Counter(trees).values()), n)
    return None if expected is None else expected / n


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _share(truths: Iterable[bool]) -> float | None:
    values = [bool(value) for value in truths]
    return sum(values) / len(values) if values else None
