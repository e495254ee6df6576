"""One window of a run in figures, and the memory of the windows before it that some figures need.

A window is a step, or several steps of fewer than `FEW` ideas joined to at least `JOINED`.  Diversity is taken at one
number n of ideas for the whole run, so that windows can be compared: the largest of `LADDER` that is at most three
quarters of the first window's ideas, which leaves room for those without a description.  A window with fewer
gives None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ideator_rl.diversity import measures as diversity
from ideator_rl.diversity.embedding import Embedder, Thresholds, description, thresholds
from ideator_rl.diversity.environment_context import Surroundings
from ideator_rl.diversity.figure_table import FIGURES
from ideator_rl.diversity.rows import Row
from ideator_rl.experiment import MALFORMED
from ideator_rl.patch.size import patch_size

FEW, JOINED = 8, 16
"""Ideas of a step below which it is joined with the next ones, and how many a joined window has at least."""
LADDER = (64, 32, 16, 8, 4)
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Window:
    step: int
    """The first, and"""
    last_step: int
    """the last step of the window."""
    ideas: int
    """Completions whose outcome is known."""
    figures: Figures
    """By the names of `FIGURES`; None where a figure cannot be taken."""


def sample_of(ideas: int) -> int:
    """The n at which a run's windows are compared, from the ideas of its first window."""
    return next((n for n in LADDER if n <= ideas * 3 / 4), LADDER[-1])


@dataclass(frozen=True)
class Facts:
    """What a patch says of its idea."""

    lines: int
    files: int
    cell: str
    edits: frozenset[str]


class Past:
    """What earlier windows of a run had; grows by about 2 KB a different description."""

    def __init__(self) -> None:
        self.trees: set[str] = set()
        self.cells: set[str] = set()
        self.edits: set[str] = set()
        self.best: float | None = None
        self._places: dict[str, int] = {}
        self._matrix = np.zeros((0, 0), np.float32)
        self._closed = 0
        self._facts: dict[str, Facts] = {}

    @property
    def vectors(self) -> np.ndarray:
        """[M, D] of the different descriptions of earlier windows."""
        return self._matrix[: self._closed]

    def embed(self, texts: Sequence[str], embedder: Embedder) -> np.ndarray:
        """[N, D]; a text is embedded once a run."""
        new = [text for text in dict.fromkeys(texts) if text not in self._places]
        if new:
            found, filled = embedder.embed(new), len(self._places)
            self._grow(filled + len(new), found.shape[1])
            self._matrix[filled : filled + len(new)] = found
            self._places.update(zip(new, range(filled, filled + len(new)), strict=True))
        return self._matrix[np.asarray([self._places[text] for text in texts], np.int64)]

    def facts(self, row: Row, around: Surroundings) -> Facts:
        """What is read from a row's patch; once a codebase."""
        if row.tree not in self._facts:
            edits = frozenset(around.edits_in(row.patch))
            self._facts[row.tree] = Facts(*patch_size(row.patch), around.cell(row.patch), edits)
        return self._facts[row.tree]

    def close(self, rows: Sequence[Row], around: Surroundings) -> None:
        """Take a window into the past, with all that was embedded for it."""
        for row in rows:
            if row.tree:
                facts = self.facts(row, around)
                self.trees.add(row.tree)
                self.cells.add(facts.cell)
                self.edits |= facts.edits
            if row.succeeded and row.metric is not None:
                known = self.best
                self.best = row.metric if known is None or around.better(row.metric, known) else known
        self._closed = len(self._places)

    def _grow(self, rows: int, dimensions: int) -> None:
        if rows > len(self._matrix):
            grown = np.zeros((max(rows, 2 * len(self._matrix), 256), dimensions), np.float32)
            if len(self._matrix):
                grown[: len(self._matrix)] = self._matrix
            self._matrix = grown


def figures_of(rows: Sequence[Row], past: Past, embedder: Embedder, around: Surroundings, n: int) -> Figures:
    """The figures of a window; it is taken into the past afterwards.

    Args:
        n: ideas at which diversity is compared.
    """
    texts = [description(row.idea) if row.idea else "" for row in rows]
    vectors = past.embed(texts, embedder)
    worded = np.linalg.norm(vectors, axis=1) > 0.5 if len(rows) else np.zeros(0, bool)  # others have no direction
    vectors, succeeded = vectors[worded], np.asarray([row.succeeded for row in rows], bool)[worded]
    figures: Figures = dict.fromkeys(FIGURES)
    figures.update(_outcomes(rows))
    figures.update(_metrics(rows, around))
    figures.update(_codebases(rows, past, around, n))
    figures.update(_words([text for text, has in zip(texts, worded, strict=True) if has], n))
    figures.update(_meaning(vectors, succeeded, past, thresholds(embedder), n))
    figures.update(_thoughts(rows))
    past.close(rows, around)
    figures["best_so_far"] = past.best
    figures["coverage_so_far"] = len(past.edits) / len(around.edits) if around.edits else None
    return figures


Pairs = Iterator[tuple[str, float | None]]


def _outcomes(rows: Sequence[Row]) -> Pairs:
    rewards = [row.reward for row in rows if row.reward is not None]
    gained = [row.reward for row in rows if row.succeeded and row.reward is not None]
    yield "success", _share(row.succeeded for row in rows)
    yield "malformed", _share(row.status == MALFORMED for row in rows)
    yield "reward_mean", _mean(rewards)
    yield "reward_of_successes", _mean(gained)
    yield "reward_best", max(rewards, default=None)
    yield "reward_spread", diversity.spread(rewards)


def _metrics(rows: Sequence[Row], around: Surroundings) -> Pairs:
    metrics = [row.metric for row in rows if row.succeeded and row.metric is not None]
    best = min if around.direction == "min" else max
    bound = around.bound
    yield "metric_mean", _mean(metrics)
    yield "metric_best", best(metrics) if metrics else None
    yield "metric_spread", diversity.spread(metrics)
    yield "beyond_bound", None if bound is None else float(sum(around.better(each, bound) for each in metrics))


def _codebases(rows: Sequence[Row], past: Past, around: Surroundings, n: int) -> Pairs:
    patched = [row for row in rows if row.tree]
    facts = [past.facts(row, around) for row in patched]
    edits = Counter(edit for each in facts for edit in each.edits)
    seen = diversity.expected_seen(list(edits.values()), len(patched), n)
    half = max(1, n // 2)
    yield "distinct_trees", _distinct([row.tree for row in patched], n)
    yield "distinct_trees_succeeded", _distinct([row.tree for row in patched if row.succeeded], half)
    yield "known_trees", _share(row.tree in past.trees for row in patched)
    yield "parent_copies", _share(row.tree in row.parents for row in patched if row.parents)
    yield "new_cells", float(len({each.cell for each in facts} - past.cells))
    yield "patch_lines", _mean([each.lines for each in facts])
    yield "patch_files", _mean([each.files for each in facts])
    yield "coverage", None if seen is None or not around.edits else seen / len(around.edits)


def _words(texts: Sequence[str], n: int) -> Pairs:
    yield "distinct_1", diversity.distinct_ngrams(texts, 1, n)
    yield "distinct_2", diversity.distinct_ngrams(texts, 2, n)


def _meaning(vectors: np.ndarray, succeeded: np.ndarray, past: Past, cut: Thresholds, n: int) -> Pairs:
    worked, half = vectors[succeeded], max(1, n // 2)
    counts = diversity.clusters(vectors, cut.cluster) if len(vectors) >= n else []
    fewer = diversity.clusters(worked, cut.cluster) if len(worked) >= half else []
    yield "distance", diversity.mean_distance(vectors)
    yield "vendi", diversity.vendi_score(vectors, n)
    yield "vendi_succeeded", diversity.vendi_score(worked, half)
    yield "clusters", diversity.distinct(counts, n)
    yield "cluster_entropy", diversity.entropy(counts)
    yield "largest_cluster", diversity.largest_share(counts)
    yield "largest_cluster_succeeded", diversity.largest_share(fewer)
    if len(past.vectors):
        again = diversity.nearest(vectors, past.vectors) >= cut.duplicate
        yield "past_duplicates", _share(again)
        yield "past_duplicates_succeeded", _share(again[succeeded])


def _thoughts(rows: Sequence[Row]) -> Pairs:
    """Of completions with an idea: of others it is not known where a thought would have ended."""
    lengths = [len(row.thought.split()) for row in rows if row.idea]
    yield "thought_words", _mean(lengths)
    yield (
        "thought_success",
        diversity.rank_correlation(lengths, [float(row.succeeded) for row in rows if row.idea]),
    )


def _distinct(trees: Sequence[str], n: int) -> float | None:
    found = diversity.distinct(list(Counter(trees).values()), n)
    return None if found is None else found / n


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _share(truths: Iterable[bool]) -> float | None:
    found = [bool(each) for each in truths]
    return sum(found) / len(found) if found else None
