"""How well does a screen's lift show what forecasts are worth?  Simulated runs, normal qualities, no experiments.

    python benchmarks/lift.py                  seconds; the two tables of docs/reference/screen.md

A step samples four new ideas a place.  Forecasts have a known correlation with the qualities, and the best reward is
at two deviations.  The first table has runs whose gate follows the lift, at the default `gate` and `audit`.  The second
has forecasts of pure noise, a gate that is closed for 20 steps and then open for 40, and a pool that is better then.
"""

from __future__ import annotations

from statistics import fmean, median

import numpy as np

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.screen import ScreenConfig
from ideator_rl.screen.figures import lift_of
from ideator_rl.storage.forecasts import ForecastOutcome, ForecastRow

OVER, BEST = 4, 2.0
RUNS, DRIFT_RUNS = 30, 40


def main() -> None:
    print("| correlation | places, steps | uncut | shown | gate open at the end |\n|---|---|---|---|---|")
    for correlation in (0.0, 0.15, 0.6):
        for places, steps in ((8, 20), (64, 12)):
            runs = [simulated(seed, correlation, places, steps) for seed in range(RUNS)]
            pools = {step: (OVER * places, places) for step in range(steps)}
            uncut = median(lift.value for rows in runs if (lift := lift_of(rows)))
            shown = median(lift.value for rows in runs if (lift := lift_of(rows, pools)))
            is_open = fmean(rows[-1].forecast.is_open for rows in runs)
            print(f"| {correlation:g} | {places}, {steps} | {uncut:.1f} | {shown:.1f} | {is_open:.0%} |")
    print("\n| the pool becomes better by | median lift of noise | gate open |\n|---|---|---|")
    for drift in (-0.5, 0.0, 0.5, 1.0):
        lifts = [lift_of(simulated(seed, 0.0, 8, 60, closed=20, drift=drift)) for seed in range(DRIFT_RUNS)]
        known = [lift for lift in lifts if lift is not None]
        is_open = fmean(lift.high >= ScreenConfig().gate for lift in known)
        print(f"| {drift:g} | {median(lift.value for lift in known):.2f} | {is_open:.0%} |")


def simulated(
    seed: int, correlation: float, places: int, steps: int, closed: int | None = None, drift: float = 0.0
) -> list[ForecastOutcome]:
    """The executed ideas of a run.

    Args:
        closed: steps with a closed gate, before one that stays open; None for a gate that follows the lift.
        drift: deviations by which the pool is better once these steps are over.
    """
    config, rng, rows = ScreenConfig(), np.random.default_rng(seed), list[ForecastOutcome]()
    for step in range(steps):
        quality = rng.normal(size=OVER * places)
        forecast = correlation * quality + (1 - correlation**2) ** 0.5 * rng.normal(size=len(quality))
        rank = {int(index): place for place, index in enumerate(np.argsort(-forecast))}
        lift = lift_of(rows) if closed is None else None
        is_open = step >= closed if closed is not None else lift is None or lift.high >= config.gate
        share = config.audit if is_open else 1.0
        count = min(places, int(share * places + rng.random()))
        audited = set(rng.choice(len(quality), count, replace=False).tolist())
        chosen = [index for index in rank if index not in audited][: places - len(audited)]
        for index in sorted(audited | set(chosen)):
            row = ForecastRow(
                number=index, position=0, completion="", success=1.0, mean=0.0, sd=1.0, acquisition=0.0,
                rank=rank[index], executed=True, audited=index in audited, preferred=rank[index] < places, version="",
                best=BEST, is_open=is_open,
            )  # fmt: skip
            shift = drift if closed is not None and is_open else 0.0
            rows.append(ForecastOutcome(step, row, SUCCEEDED, float(quality[index]) + shift, 0.0))
    return rows


if __name__ == "__main__":
    main()
