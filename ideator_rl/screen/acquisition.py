"""Acquisition functions: how much a forecast is worth, for the choice of what to run.

success_ei   p · EI        ei   EI        ucb   μ + σ        mean   p · μ + (1 − p) · failure reward

EI = E[max(q − τ, 0)] for q ~ N(μ, σ²) = (μ − τ) Φ(z) + σ φ(z),  z = (μ − τ) / σ   (Jones et al., J. Global
Optimization 13, 1998); τ is the best reward so far.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erfcx, log_ndtr

from ideator_rl.screen.predictor import Forecast

UCB_DEVIATIONS = 1.0
IMPROVEMENTS = ("success_ei", "ei")
"""Acquisitions with a natural zero: no improvement."""


def acquisition(name: str, forecast: Forecast, best: float, failure: float = 0.0) -> np.ndarray:
    """The worth of each candidate; higher is better.  [N]

    Args:
        name: a value of the key `screen.acquisition`.
        best: τ, on the reward scale.
        failure: reward of a failure.
    """
    return _FUNCTIONS[name](forecast, best, failure)


def ranking(name: str, forecast: Forecast, best: float, failure: float = 0.0) -> np.ndarray:
    """As `acquisition`, on a scale on which no candidate ties with another for lack of digits.  [N]

    After many outcomes the doubt is small, and the best reward, by its noise, above all that is expected: then each
    expected improvement is too small for a float, and only its logarithm still has an order.
    """
    if name not in IMPROVEMENTS:
        return acquisition(name, forecast, best, failure)
    score_N = log_expected_improvement(forecast.mean, forecast.doubt, best)
    if name == "success_ei":
        # A chance of 0 is worth nothing: it ranks last.
        with np.errstate(divide="ignore"):
            score_N = score_N + np.log(forecast.success)
    return score_N


def log_expected_improvement(mean: np.ndarray, sd: np.ndarray, best: float) -> np.ndarray:
    """log EI, exact also where EI is too small for a float: hopeless candidates still have an order.  [N]"""
    sd = np.maximum(sd, 1e-12)
    z = (mean - best) / sd
    # EI / σ = φ(z) + z Φ(z).  Far below τ the two terms cancel: there it is φ(z) (1 − |z| · Φ(z)/φ(z)).
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    # Each branch gets arguments of its own range, since both are computed for all.
    high = np.where(z > -1, z, 0.0)
    plain = np.log(np.exp(-0.5 * high**2) / np.sqrt(2 * np.pi) + high * np.exp(log_ndtr(high)))
    low = np.where(z > -1, -1.0, z)
    ratio = np.sqrt(np.pi / 2) * erfcx(-low / np.sqrt(2))
    # Beyond 1,000 deviations the difference has no digits left; its limit is 1 / z².
    tail = np.where(low < -1e3, -2 * np.log(-low), np.log1p(np.maximum(low * ratio, -1 + 1e-12)))
    return np.asarray(np.where(z > -1, plain, log_density + tail) + np.log(sd))


def _success_ei(forecast: Forecast, best: float, failure: float) -> np.ndarray:
    del failure
    return np.asarray(forecast.success * np.exp(log_expected_improvement(forecast.mean, forecast.doubt, best)))


def _ei(forecast: Forecast, best: float, failure: float) -> np.ndarray:
    del failure
    return np.asarray(np.exp(log_expected_improvement(forecast.mean, forecast.doubt, best)))


def _ucb(forecast: Forecast, best: float, failure: float) -> np.ndarray:
    del best, failure
    return np.asarray(forecast.mean + UCB_DEVIATIONS * forecast.doubt)


def _mean(forecast: Forecast, best: float, failure: float) -> np.ndarray:
    del best
    return np.asarray(forecast.success * forecast.mean + (1 - forecast.success) * failure)


_FUNCTIONS: dict[str, Callable[[Forecast, float, float], np.ndarray]] = {
    "success_ei": _success_ei,
    "ei": _ei,
    "ucb": _ucb,
    "mean": _mean,
}
