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
from ideator_rl.screen.acquisition import acquisition
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.screen.figures import Lift
from ideator_rl.screen.predictor import Candidate, Forecast, Predictor, Seen
from ideator_rl.storage.forecasts import ForecastRow

LEAST_SUCCESSES = 16
"""Successes without which quality cannot be ranked, but at most a quarter of the outcomes that it waits for."""


@dataclass(frozen=True)
class Pool:
    """The ideas that were sampled for one round."""

    completions: list[str]
    candidates: list[Candidate | None]
    """None for a sample that is known already, a repetition within the pool, or no idea that can be run."""

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
            best: best reward so far.
            lift: as measured up to now; None where it is not known yet.
        """
        fresh = pool.fresh
        forecast = self._forecast(seen, [candidate for candidate in pool.candidates if candidate is not None])
        worth_F = acquisition(self.config.acquisition, forecast, best, self._failure)
        # Stable: equal worth keeps the order sampled.  No number ranks last.
        order = [fresh[at] for at in np.argsort(-np.nan_to_num(worth_F, nan=-np.inf), kind="stable")]
        rank = {index: place for place, index in enumerate(order)}
        # Closed by evidence alone: a screen of no worth loses nothing but samples, and a good one may have bad luck.
        is_open = lift is None or lift.high >= self.config.gate
        share = self.config.audit if is_open else 1.0
        # Rounded up or down at random: the expected share is exact whatever the room.
        audited = set(rng.sample(fresh, min(len(fresh), room, math.floor(share * room + rng.random()))))
        chosen = [index for index in order if index not in audited][: max(0, min(room, len(fresh)) - len(audited))]
        executed = sorted(audited | set(chosen))
        position_of = {index: place for place, index in enumerate(executed)}
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
                self._predictor.fit(seen)
                self._fitted = list(seen)
            forecast = self._predictor.predict(candidates)
            arrays = [np.asarray(values, np.float64) for values in (forecast.success, forecast.mean, forecast.sd)]
        if any(values.shape != (len(candidates),) for values in arrays):
            raise PluginError(
                f"The predictor {self.config.predictor!r} returned arrays of the shapes "
                f"{', '.join(str(values.shape) for values in arrays)} for {len(candidates)} candidates. Expected a "
                "number for each in success, mean and sd."
            )
        success, mean, sd = arrays
        return Forecast(success, mean, sd, float(forecast.noise))


def _values(forecast: Forecast, worth_F: np.ndarray, at: int | None) -> dict[str, float | None]:
    """The forecast of one candidate, as columns of its row; None for each where it has none."""
    columns = {
        "success": forecast.success,
        "mean": forecast.mean,
        "sd": forecast.sd,
        "acquisition": worth_F,
    }
    return {name: None if at is None else float(values[at]) for name, values in columns.items()}
