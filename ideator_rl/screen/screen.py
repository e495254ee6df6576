"""One round of a screen: forecasts for a pool of sampled ideas, and which of them are run.

    outcomes so far → fit;  pool → forecasts → acquisition → the best by acquisition, and an audited random share

Guarantees: a pure function of the outcomes, the pool and the seed of the round.  Repeated after a kill it makes the
same picks.  Audited ideas are drawn before the forecasts choose, so that they are an unbiased sample of the pool.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from ideator_rl.registry import PluginError, plugin_code
from ideator_rl.screen.acquisition import acquisition, ranking
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.screen.figures import Lift
from ideator_rl.screen.outliers import pulled_in
from ideator_rl.screen.predictor import Candidate, Forecast, Predictor, Seen
from ideator_rl.storage.forecasts import ForecastRow

LARGEST = 1e100
"""Of a forecast reward: its square and sums of it are numbers as well."""
RANGES = {"success": (0.0, 1.0), "mean": (-LARGEST, LARGEST), "sd": (0.0, LARGEST), "noise": (0.0, LARGEST)}
"""Of the parts of a forecast."""
LEAST_SUCCESSES = 16
"""Successes without which quality cannot be ranked, but at most a quarter of the outcomes that it waits for."""


@dataclass(frozen=True)
class Pool:
    """The ideas that were sampled for one round."""

    completions: list[str]
    candidates: list[Candidate | None]
    """None for a sample that is known already, a repetition within the pool, or no idea that is to be run."""

    @property
    def fresh(self) -> list[int]:
        return [index for index, candidate in enumerate(self.candidates) if candidate is not None]


@dataclass(frozen=True)
class Picks:
    """What a round runs."""

    indices: list[int]
    """Into the pool, in the order sampled."""
    rows: list[ForecastRow]
    """One for each sample; `position` counts from 0 within the round."""


class Screen:
    """Args:
    after: outcomes before it ranks.
    failure: reward of a failure.
    """

    def __init__(self, config: ScreenConfig, predictor: Predictor, after: int, failure: float = 0.0):
        self.config, self._predictor, self._after, self._failure = config, predictor, after, failure
        self._fitted: list[Seen] | None = None
        """The outcomes of the last fit: rounds of one epoch share it."""

    def ranks(self, seen: list[Seen]) -> bool:
        """Whether there are enough outcomes to rank ideas."""
        successes = sum(item.succeeded for item in seen)
        return len(seen) >= self._after and successes >= min(LEAST_SUCCESSES, max(2, self._after // 4))

    def choose(
        self, pool: Pool, room: int, seen: list[Seen], best: float, lift: Lift | None, rng: random.Random
    ) -> Picks:
        """Pick at most `room` ideas of a pool.

        Args:
            seen: outcomes, in the order in which they became known.
            best: best reward so far.  The bar for improvements is at most the fence beyond which rewards are outliers.
            lift: as measured up to now; None where it is not known yet.
        """
        fresh = pool.fresh
        # A best that is an outlier is no bar: all expected improvements over it would be nothing, or the doubt alone.
        best = float(
            pulled_in([*(item.reward for item in seen if item.succeeded and item.reward is not None), best])[-1]
        )
        forecast = self._forecast(seen, [candidate for candidate in pool.candidates if candidate is not None])
        worth_F = acquisition(self.config.acquisition, forecast, best, self._failure)
        score_F = ranking(self.config.acquisition, forecast, best, self._failure)
        # Stable: equal scores keep the order sampled.
        order = [fresh[at] for at in np.argsort(-score_F, kind="stable")]
        rank = {index: position for position, index in enumerate(order)}
        # Closed by evidence alone: a screen of no worth loses nothing but samples, and a good one may have bad luck.
        is_open = lift is None or lift.high >= self.config.gate
        share = self.config.audit if is_open else 1.0
        # Rounded up or down at random: the expected share is exact whatever the room.
        audited = set(rng.sample(fresh, min(len(fresh), room, math.floor(share * room + rng.random()))))
        # Audited ideas keep their places, also those that the forecasts would have chosen.
        chosen = [index for index in order if index not in audited][: max(0, min(room, len(fresh)) - len(audited))]
        executed = sorted(audited | set(chosen))
        # In the order sampled, which is the order of the journal's rollouts.
        position_of = {index: position for position, index in enumerate(executed)}
        # Every sample gets a row, also one that is not run: the report shows what the screen chose from.
        version = f"{self.config.predictor}:{len(seen)}"
        rows = []
        at_of = {index: at for at, index in enumerate(fresh)}
        for index, completion in enumerate(pool.completions):
            rows.append(
                ForecastRow(
                    number=index,
                    position=position_of.get(index),
                    completion=completion,
                    rank=rank.get(index),
                    executed=index in position_of,
                    audited=index in audited,
                    preferred=index in rank and rank[index] < room,
                    version=version,
                    best=best,
                    is_open=is_open,
                    **_values(forecast, worth_F, at_of.get(index)),
                )
            )
        return Picks(executed, rows)

    def _forecast(self, seen: list[Seen], candidates: list[Candidate]) -> Forecast:
        """
        Raises:
            PluginError: the predictor failed, or its arrays have another length.
        """
        with plugin_code(f"The predictor {self.config.predictor!r}"):
            if self._fitted is None or self._fitted != seen:
                # A copy: a predictor that sorts or empties its list must not change what comes after.
                self._predictor.fit(list(seen))
                self._fitted = list(seen)
            forecast = self._predictor.predict(candidates)
        return checked_forecast(forecast, len(candidates), f"The predictor {self.config.predictor!r}")


def checked_forecast(forecast: object, count: int, subject: str) -> Forecast:
    """A predictor's forecast as arrays of numbers that can be ranked, stored and averaged.

    Args:
        count: candidates.
        subject: begins a message.

    Raises:
        PluginError: it is no forecast of so many candidates, or a number is missing or out of its range.
    """
    if not isinstance(forecast, Forecast):
        raise PluginError(
            f"{subject} returned {type(forecast).__name__}. Expected an ideator_rl.screen.Forecast: success, mean, sd."
        )
    columns = {"success": forecast.success, "mean": forecast.mean, "sd": forecast.sd}
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    if any(values.shape != (count,) for values in arrays.values()):
        raise PluginError(
            f"{subject} returned arrays of the shapes {', '.join(str(values.shape) for values in arrays.values())} for "
            f"{count} candidates. Expected a number for each in success, mean and sd."
        )
    arrays["noise"] = np.asarray([forecast.noise])
    for name, values in arrays.items():
        low, high = RANGES[name]
        try:
            # Complex numbers and text that reads as a number are mistakes of the predictor, and not converted.
            numbers = values.astype(np.float64, casting="same_kind" if values.dtype != object else "unsafe")
        except (TypeError, ValueError):
            numbers = np.full(values.shape, np.nan)
        # Not a number compares as false.
        wrong = np.flatnonzero(~((low <= numbers) & (numbers <= high)))
        if len(wrong):
            share = "" if name == "noise" else f" for {len(wrong)} of {count} candidates"
            raise PluginError(
                f"{subject} returned {name} {values[wrong[0]]}{share}. Expected numbers from {low:g} to {high:g}."
            )
        arrays[name] = numbers
    return Forecast(arrays["success"], arrays["mean"], arrays["sd"], float(arrays["noise"][0]))


def _values(forecast: Forecast, worth_F: np.ndarray, at: int | None) -> dict[str, float | None]:
    """The forecast of one candidate, as columns of its row; None for each where it has none."""
    columns = {
        "success": forecast.success,
        "mean": forecast.mean,
        "sd": forecast.sd,
        "acquisition": worth_F,
    }
    return {name: None if at is None else float(values[at]) for name, values in columns.items()}
