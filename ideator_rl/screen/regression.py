"""Two small regressions on features of ideas: chance of success, and quality of a success.

    success   ridge logistic regression; the posterior is Gaussian around its mode (Laplace)
    quality   Bayesian ridge regression

Both choose how strongly they shrink by marginal likelihood (MacKay, Neural Computation 4(3), 1992).  Features are
sparse: a fit costs as much as the pairs of features that occur together, and a matrix decomposition.

Guarantees: the same rows in the same order give the same numbers; no random numbers are drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg, sparse
from scipy.special import expit

from ideator_rl.screen.outliers import pulled_in

NEWTON_STEPS, EVIDENCE_STEPS = 25, 50
TOLERANCE = 1e-4
PRECISIONS = 0.3, 1e4
"""Range of a weight's prior precision: few rows leave it open."""


class LogisticRidge:
    """P(success) from features, an unpenalised intercept included."""

    def __init__(self) -> None:
        self.weights_D = np.zeros(0)
        self.intercept = 0.0
        self.covariance_DD = np.zeros((0, 0))

    def fit(self, features_ND: Any, successes_N: np.ndarray) -> None:
        """Args:
        features_ND: sparse or dense.
        successes_N: 0 or 1; with a single class, that class's share is forecast for every row.
        """
        count, size = features_ND.shape
        # One success and one failure more: no forecast is 0 or 1 however few rows there are.
        share = (successes_N.sum() + 1) / (count + 2)
        design = _with_intercept(features_ND)
        weights = np.zeros(size + 1)
        weights[-1] = np.log(share / (1 - share))
        precision = 4.0
        posterior = np.eye(size + 1)
        for _ in range(NEWTON_STEPS if 0 < successes_N.sum() < count else 0):
            chances_N = expit(design @ weights)
            # The intercept has a weak prior as well, so that its posterior is always proper.
            penalty = np.append(np.full(size, precision), 1e-2)
            gradient = design.T @ (successes_N - chances_N) - penalty * weights
            hessian = _gram(design, chances_N * (1 - chances_N)) + np.diag(penalty)
            posterior = linalg.inv(hessian)
            step = posterior @ gradient
            weights = weights + step
            # MacKay's update: the number of weights that the rows determine, over their squared length.
            determined = size - precision * float(np.trace(posterior[:size, :size]))
            before = precision
            squares = float(weights[:size] @ weights[:size])
            precision = float(np.clip(max(determined, 1e-3) / max(squares, 1e-9), *PRECISIONS))
            if np.abs(step).max() < TOLERANCE and abs(np.log(precision / before)) < 0.01:
                break
        self.weights_D, self.intercept = weights[:size], float(weights[-1])
        self.covariance_DD = posterior if 0 < successes_N.sum() < count else np.zeros((size + 1, size + 1))

    def predict(self, features_ND: Any) -> np.ndarray:
        """[N] chances, averaged over the posterior by MacKay's approximation: rarely seen features are less certain."""
        design = _with_intercept(features_ND)
        weights = np.append(self.weights_D, self.intercept)
        variances_N = _quadratic(design, self.covariance_DD)
        return np.asarray(expit(design @ weights / np.sqrt(1 + np.pi * variances_N / 8)))


class BayesianRidge:
    """A number from features, with its uncertainty."""

    def __init__(self) -> None:
        self.weights_D = np.zeros(0)
        self.means_D = np.zeros(0)
        self.level, self.scale, self.noise = 0.0, 1.0, 1.0
        """Mean and standard deviation of the fitted values; standard deviation around the fit, in their unit."""
        self.covariance_DD = np.zeros((0, 0))
        self._count = 1

    def fit(self, features_ND: Any, values_N: np.ndarray) -> None:
        """At least two rows; equal values give that value with a deviation of almost 0.  Outliers are pulled in."""
        values_N = pulled_in(values_N)
        self._count, size = features_ND.shape
        self.level, spread = float(values_N.mean()), float(values_N.std())
        self.scale = spread if spread > 1e-12 else max(abs(self.level), 1.0) * 1e-9
        targets_N = (values_N - self.level) / self.scale
        self.means_D = np.asarray(features_ND.mean(axis=0)).ravel()
        gram = _gram(features_ND, np.ones(self._count)) - self._count * np.outer(self.means_D, self.means_D)
        # Targets have mean 0, so that features need not be centred in this product.
        moments_D = np.asarray(features_ND.T @ targets_N).ravel()
        eigenvalues, vectors = linalg.eigh(gram)
        eigenvalues = np.clip(eigenvalues, 0.0, None)
        projected = vectors.T @ moments_D
        precision, noise_precision = 10.0, 2.0
        total = float(targets_N @ targets_N)
        for _ in range(EVIDENCE_STEPS):
            before = precision, noise_precision
            shrunk = noise_precision * projected / (noise_precision * eigenvalues + precision)
            determined = float((noise_precision * eigenvalues / (noise_precision * eigenvalues + precision)).sum())
            residual = max(total - 2 * float(shrunk @ projected) + float(eigenvalues @ shrunk**2), 1e-9)
            precision = float(np.clip(max(determined, 1e-3) / max(float(shrunk @ shrunk), 1e-9), *PRECISIONS))
            # A floor of half a row: a fit through all points must not claim to be exact.
            noise_precision = max(self._count - 1 - determined, 0.5) / residual
            if max(abs(np.log(precision / before[0])), abs(np.log(noise_precision / before[1]))) < 1e-3:
                break
        variances = 1 / (noise_precision * eigenvalues + precision)
        self.weights_D = vectors @ (noise_precision * projected * variances)
        self.covariance_DD = (vectors * variances) @ vectors.T
        self.noise = self.scale / float(np.sqrt(noise_precision))

    def predict(self, features_ND: Any) -> tuple[np.ndarray, np.ndarray]:
        """[N] means and [N] standard deviations of the true value, without the noise around the fit."""
        means_N = np.asarray(features_ND @ self.weights_D).ravel() - float(self.means_D @ self.weights_D)
        rows_ND = _dense(features_ND) - self.means_D
        variances_N = _quadratic(rows_ND, self.covariance_DD) * self.scale**2 + self.noise**2 / self._count
        return self.level + self.scale * means_N, np.sqrt(np.clip(variances_N, 0.0, None))


def _with_intercept(features_ND: Any) -> Any:
    ones_N1 = np.ones((features_ND.shape[0], 1))
    if sparse.issparse(features_ND):
        return sparse.hstack([features_ND, ones_N1], format="csr")
    return np.hstack([features_ND, ones_N1])


def _gram(features_ND: Any, weights_N: np.ndarray) -> np.ndarray:
    """Σ w · x xᵀ  [D, D]"""
    if sparse.issparse(features_ND):
        return np.asarray((features_ND.T @ features_ND.multiply(weights_N[:, None])).todense())
    return np.asarray(features_ND.T @ (weights_N[:, None] * features_ND))


def _quadratic(features_ND: Any, matrix_DD: np.ndarray) -> np.ndarray:
    """xᵀ M x of each row  [N]"""
    rows_ND = _dense(features_ND)
    return np.asarray(np.einsum("nd,nd->n", rows_ND @ matrix_DD, rows_ND))


def _dense(features_ND: Any) -> np.ndarray:
    return np.asarray(features_ND.todense() if sparse.issparse(features_ND) else features_ND)
