"""Alarms over the steps of a screen: forecasts that cannot be trusted, and a pool that runs dry.

coverage   fewer than half of the audited successes are inside their forecasts' 80 % intervals
lift       for five steps, preferred ideas were no better than audited ones
fresh      for three steps, too few of the samples were new ideas
gaming     forecasts of the pool rise, audited results do not, and the difference is no chance: the ideator learns what
           the predictor likes
"""

from __future__ import annotations

from collections.abc import Sequence

from ideator_rl.diversity.alarms import PATIENCE, SPAN, SURE, WARN, Alarm, slope, trend
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.screen.figures import ScreenStep

LEAST_COVERAGE, CHANCE, LIFT_STEPS = 0.5, 1.0, 5
GAMING_STEPS, GAMING_SURE = 30, 3.0
"""Steps: one may have one audited idea, whose noise would hide over fewer steps what forecasts gain.  And the standard
errors above which that counts: it is looked at in every step, and 2 are reached by chance in many runs."""
ALARM_STEPS = 2 * GAMING_STEPS
"""How far back alarms look; some of these steps have no audited outcome."""
COVERAGE, LIFT, FRESH, GAMING = "screen_coverage", "screen_lift", "screen_fresh", "screen_gaming"


def active_screen_alarms(steps: Sequence[ScreenStep], config: ScreenConfig) -> list[Alarm]:
    """The alarms that hold in the last step."""
    if not steps:
        return []
    texts = {
        COVERAGE: _coverage(steps),
        LIFT: _lift(steps),
        FRESH: _fresh(steps, config.fresh),
        GAMING: _gaming(steps),
    }
    return [Alarm(steps[-1].step, kind, WARN, text) for kind, text in texts.items() if text is not None]


def screen_alarms(steps: Sequence[ScreenStep], config: ScreenConfig) -> list[Alarm]:
    """Every alarm of a run, where it begins."""
    beginnings: list[Alarm] = []
    before: set[str] = set()
    for end in range(1, len(steps) + 1):
        present = active_screen_alarms(steps[:end], config)
        beginnings += [alarm for alarm in present if alarm.kind not in before]
        before = {alarm.kind for alarm in present}
    return beginnings


def _coverage(steps: Sequence[ScreenStep]) -> str | None:
    coverage = steps[-1].coverage
    if coverage is None or coverage >= LEAST_COVERAGE:
        return None
    return (
        f"{coverage:.0%} of the audited successes are inside the 80 % intervals of their forecasts (warn below "
        f"{LEAST_COVERAGE:.0%}): the predictor is too sure. Raise screen.audit, or try another predictor."
    )


def _lift(steps: Sequence[ScreenStep]) -> str | None:
    # One step of bad luck is no evidence; five steps in a row at chance are.
    last = [step.lift.value for step in steps[-LIFT_STEPS:] if step.lift is not None]
    if len(last) < LIFT_STEPS or max(last) > CHANCE:
        return None
    return (
        f"For {LIFT_STEPS} steps ideas with the best forecasts were no better than random ones (lift {last[-1]:.2f}, "
        "chance 1): the predictor has learnt nothing here. Try another predictor, or turn the screen off and save the "
        "samples."
    )


def _fresh(steps: Sequence[ScreenStep], least: float) -> str | None:
    last = [step.fresh for step in steps[-PATIENCE:]]
    if len(last) < PATIENCE or max(last) >= least:
        return None
    return (
        f"For {PATIENCE} steps at most {max(last):.0%} of the sampled ideas were new and could be run (warn below "
        f"{least:.0%}): the pool runs dry. Raise the temperature, show other parents, or lower screen.over."
    )


def _gaming(steps: Sequence[ScreenStep]) -> str | None:
    # Steps in which nothing was audited or nothing was fresh show neither side.
    pairs = [
        (step.forecast, step.audited_mean)
        for step in steps
        if step.forecast is not None and step.audited_mean is not None
    ]
    last = pairs[-GAMING_STEPS:]
    if len(last) < SPAN:
        return None
    forecasts, results = ([pair[side] for pair in last] for side in (0, 1))
    excess = [forecast - result for forecast, result in last]
    # Rising forecasts alone are what a search is for; it is the audited results that must not rise with them.  And one
    # audited idea a step often falls by chance: the forecasts must rise above them by more than their noise.
    if trend(forecasts) <= SURE or slope(results) > 0 or trend(excess) <= GAMING_SURE:
        return None
    return (
        f"Over {len(last)} steps the pool's mean forecast rose from {forecasts[0]:.3g} to {forecasts[-1]:.3g} while "
        f"audited ideas went from {results[0]:.3g} to {results[-1]:.3g}: new ideas please the predictor and not the "
        "experiment. Raise screen.audit, or learn from executed ideas only."
    )
