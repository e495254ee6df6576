"""Measures of diversity, each a pure function, with its formula, source, and what the size of a sample does to it.

Counts, entropies and the Vendi score grow with the number of ideas: populations are compared at the same n only.  An
expectation over all subsamples of n ideas is exact where a closed form exists (rarefaction), else the mean over `DRAWS`
seeded subsamples.  A measure that cannot be computed (too few ideas) is None, never a magic number.

Letters in names: N ideas, D dimensions of their vectors, n ideas of a subsample.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.special import gammaln
from scipy.stats import rankdata

DRAWS = 20
"""Subsamples for an expectation without a closed form."""
MOST_CLUSTERED = 1024
"""Ideas that are clustered, at most; of more, a seeded sample: the memory of linkage grows with the square."""


def distinct(counts: Sequence[int], n: int | None = None) -> float | None:
    """Expected number of distinct kinds among n ideas drawn without replacement.

        E[S_n] = Σ_i 1 − C(N − N_i, n) / C(N, n)

    Rarefaction (Hurlbert 1971, The nonconcept of species diversity, eq. 6), exact for every n ≤ N.

    Sample size: grows with n, hence the fixed n.  Within one N it is unbiased for the n-idea number of the population.

    Args:
        counts: ideas of each kind.
        n: None for all of them.
    """
    total = int(sum(counts))
    return expected_seen(counts, total, total if n is None else n)


def expected_seen(counts: Sequence[int], total: int, n: int) -> float | None:
    """`distinct` where an idea may have several kinds, or none: N_i of `total` ideas have kind i.

    Sample-based rarefaction, the same sum over kinds (Colwell, Mao & Chang 2004); exact, and unbiased as above.
    """
    return float(_probability_drawn(np.asarray(counts, np.int64), total, n).sum()) if 0 < n <= total else None


def distinct_ngrams(texts: Sequence[str], length: int, n: int | None = None) -> float | None:
    """distinct-n: different n-grams of words over all n-grams (Li et al. 2016, arXiv 1510.03055).

    Sample size: falls with the number of words, as common n-grams repeat.  Therefore the value for n texts: the
    expected number of different n-grams in n of the N texts, exact by sample-based rarefaction over texts (Colwell, Mao
    & Chang 2004), over the expected number of all n-grams, n / N of the total.

    Args:
        length: words of an n-gram.
        n: texts; None for all of them.
    """
    n = len(texts) if n is None else n
    if not 0 < n <= len(texts):
        return None
    kinds: dict[tuple[str, ...], int] = {}
    kind, owner = [], []
    for index, text in enumerate(texts):
        for gram in ngrams(text, length):
            kind.append(kinds.setdefault(gram, len(kinds)))
            owner.append(index)
    if not kind:
        return None
    # Each n-gram once for each text: rarefaction counts the texts that hold it.
    pairs = np.unique(np.asarray(kind, np.int64) * len(texts) + np.asarray(owner))
    texts_of_kind = np.bincount(pairs // len(texts))
    return float(_probability_drawn(texts_of_kind, len(texts), n).sum()) / (len(kind) * n / len(texts))


def ngrams(text: str, length: int) -> tuple[tuple[str, ...], ...]:
    """Runs of `length` words in lower case; punctuation counts only inside words and numbers."""
    tokens = re.findall(r"\w+(?:[.'-]\w+)*", text.lower())
    return tuple(zip(*(tokens[start:] for start in range(length)), strict=False))


def mean_distance(vectors_ND: np.ndarray) -> float | None:
    """Mean cosine distance of two different ideas, 0 to 2.

        1 − (‖Σ_i x_i‖² − Σ_i ‖x_i‖²) / (N (N − 1))

    for rows of unit length.  Sample size: a mean over pairs (a U-statistic), unbiased at every N ≥ 2.
    """
    count = len(vectors_ND)
    if count < 2:
        return None
    rows = vectors_ND.astype(np.float64)
    same = float((rows**2).sum())
    return 1.0 - (float((rows.sum(axis=0) ** 2).sum()) - same) / (count * (count - 1))


def vendi_score(vectors_ND: np.ndarray, n: int | None = None, seed: int = 0) -> float | None:
    """The effective number of different ideas: 1 if all are the same, N if all are orthogonal.

        exp(−Σ_i λ_i ln λ_i),  λ the eigenvalues of K / N,  K = X Xᵀ the cosine similarities

    Friedman & Dieng 2023, arXiv 2210.02410.  For D < N, λ come from the D × D matrix Xᵀ X / N, which has the same
    non-zero eigenvalues.

    Sample size: at most N, and biased downward: it grows with N.  With n it is the mean over `DRAWS` subsamples of n.

    Args:
        vectors_ND: rows of unit length.
        n: None for all rows.
    """
    count = len(vectors_ND)
    n = count if n is None else n
    if not 0 < n <= count:
        return None
    rows = vectors_ND.astype(np.float64)
    subsets = [np.arange(count)] if n == count else draws(count, n, seed)
    # Of the two Gram matrices the smaller one: both have the same non-zero eigenvalues.
    if rows.shape[1] < n:
        matrices = np.stack([rows[subset].T @ rows[subset] for subset in subsets])
    else:
        gram_NN = rows @ rows.T
        matrices = np.stack([gram_NN[np.ix_(subset, subset)] for subset in subsets])
    values = np.clip(np.linalg.eigvalsh(matrices / n), 0.0, None)
    values /= values.sum(axis=1, keepdims=True)  # removes rounding: equal rows are exactly one idea
    logs = np.log(values, out=np.zeros_like(values), where=values > 0)
    return float(np.exp(-(values * logs).sum(axis=1)).mean())


def cluster_labels(vectors_ND: np.ndarray, distance: float) -> list[int]:
    """The cluster of each idea: average linkage (UPGMA, Sokal & Michener 1958) cut at a cosine distance.

    Sample size: more ideas open more clusters.
    """
    if len(vectors_ND) < 2:
        return [1] * len(vectors_ND)
    rows = vectors_ND.astype(np.float64)
    distance_NN = np.clip(1.0 - rows @ rows.T, 0.0, None)
    np.fill_diagonal(distance_NN, 0.0)
    tree = linkage(squareform(distance_NN, checks=False), "average")
    labels: list[int] = fcluster(tree, distance, "distance").tolist()
    return labels


def clusters(vectors_ND: np.ndarray, distance: float, seed: int = 0) -> list[int]:
    """The size of each cluster, largest first: the counts for `distinct`, `entropy` and `largest_share`.

    Sample size: see those functions.  Of more than `MOST_CLUSTERED` ideas a sample is clustered.
    """
    if len(vectors_ND) > MOST_CLUSTERED:
        vectors_ND = vectors_ND[draws(len(vectors_ND), MOST_CLUSTERED, seed, 1)[0]]
    return sorted(Counter(cluster_labels(vectors_ND, distance)).values(), reverse=True)


def entropy(counts: Sequence[int]) -> float | None:
    """Entropy of the kinds, in nats, by the Miller–Madow estimate.

        H = −Σ_i p_i ln p_i + (K − 1) / 2N,  p_i = N_i / N,  K kinds seen

    Miller 1955.  Sample size: the plain estimate is too low by about (K − 1) / 2N, which the second term corrects to
    first order.  With N near K it stays too low: compare at equal N then.
    """
    positive = np.asarray([count for count in counts if count > 0], np.float64)
    if not len(positive):
        return None
    shares = positive / positive.sum()
    return float(-(shares * np.log(shares)).sum() + (len(positive) - 1) / (2 * positive.sum()))


def largest_share(counts: Sequence[int]) -> float | None:
    """Share of the ideas that have the most common kind.

    Sample size: never below 1/N, and too high if no kind is common (a maximum over noise); above about a third, where
    alarms look, the excess is small.
    """
    return max(counts) / sum(counts) if sum(counts) else None


def nearest(vectors_ND: np.ndarray, past_MD: np.ndarray) -> np.ndarray:
    """Every idea's largest cosine similarity to a past idea, [N]; −1 without past ideas.

    Sample size: the past only grows, so the share of near-duplicates rises even for an ideator that does not change;
    compare with a frozen ideator at the same number of past ideas.
    """
    if not len(past_MD) or not len(vectors_ND):
        return np.full(len(vectors_ND), -1.0, np.float32)
    return np.asarray((vectors_ND @ past_MD.T).max(axis=1))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's ρ, −1 to 1: Pearson's correlation of mid-ranks (Spearman 1904); None if x or y is constant.

    Sample size: unbiased around 0, with standard error about 1/√(N − 1): 0.13 of 64 ideas.  Ranks because lengths have
    long tails; with outcomes of 0 and 1 it is the rank-biserial correlation up to a factor of the tie structure.
    """
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def spread(values: Iterable[float]) -> float | None:
    """Standard deviation with N − 1, whose square is unbiased at every N; None for fewer than two values."""
    sample = list(values)
    return float(np.std(sample, ddof=1)) if len(sample) > 1 else None


def draws(count: int, n: int, seed: int = 0, samples: int = DRAWS) -> list[np.ndarray]:
    """Subsamples of n of `count` rows, without replacement; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.choice(count, n, replace=False)) for _ in range(samples)]


def _probability_drawn(counts: np.ndarray, total: int, n: int) -> np.ndarray:
    """For every kind, the probability that n of `total` draws hold it: 1 − C(total − count, n) / C(total, n)."""
    without = total - counts
    can_miss = without >= n
    remaining = np.where(can_miss, without, n)
    log_ratio = gammaln(remaining + 1) - gammaln(remaining - n + 1) - gammaln(total + 1) + gammaln(total - n + 1)
    return np.asarray(np.where(counts > 0, 1.0 - np.where(can_miss, np.exp(log_ratio), 0.0), 0.0))
