"""Alarms over the windows of a run: is the population collapsing, over-reaching, standing still, or cheating.

Thresholds are rules of thumb, each a named constant.  An alarm is told where it begins or rises, not in every window
that it lasts: `alarms` gives these, `active` what holds now.  What is relative is so to the run's own start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ideator_rl.diversity.window import Window

WARN, STOP = "warn", "stop"
SPAN = 10
"""Windows that the signature and standing still are judged over."""
PATIENCE = 3
"""Windows in a row that a level must hold: one alone may be chance."""
START = 2
"""First windows whose mean is the start that Vendi scores are compared with."""
LARGEST_WARN, LARGEST_STOP = 0.65, 0.85
"""Share of the ideas in one cluster."""
FEW_TREES, FEW_IDEAS = 0.5, 2.0
"""A cluster alone is no reason to stop: where one lineage leads, all ideas share words and are different experiments.
Level stop takes besides a share of distinct codebases, or a Vendi score, below these, or what `vendi` warns of; ours,
from benchmarks/collapse.py, where the largest cluster of every evolution exceeded 0.85."""
VENDI_WARN, VENDI_STOP = 0.35, 0.15
"""Vendi score over that of the start."""
SUCCESS = 0.15
"""Below it ideas reach further than they can be made to run: more free prompts."""
CORRELATION = 0.3
"""|rank correlation of thought length and success|."""
SURE = 2.0
"""Standard errors by which a trend, or a correlation over `SPAN` windows, must differ from none; ours."""

SIGNATURE, CLUSTER, VENDI = "signature", "largest_cluster", "vendi"
COLLAPSE = (SIGNATURE, CLUSTER, VENDI)
"""The kinds that mean a collapse, on which a run may act."""
OVERREACH, LENGTH, STANDSTILL, BOUND = "success", "thought_success", "standstill", "beyond_bound"
LEVELS = {"": 0, WARN: 1, STOP: 2}


@dataclass(frozen=True)
class Alarm:
    step: int
    """Last step of the window in which it begins, or rises."""
    kind: str
    level: str
    """`warn` or `stop`."""
    words: str
    """What is seen, and what may be done."""


Found = tuple[str, str] | None
"""Level and words."""


def alarms(windows: Sequence[Window]) -> list[Alarm]:
    """Every alarm of a run, where it begins or where its level rises."""
    told: list[Alarm] = []
    before: dict[str, str] = {}
    for end in range(1, len(windows) + 1):
        now = active(windows[:end])
        told += [alarm for alarm in now if LEVELS[alarm.level] > LEVELS[before.get(alarm.kind, "")]]
        before = {alarm.kind: alarm.level for alarm in now}
    return told


def active(windows: Sequence[Window]) -> list[Alarm]:
    """The alarms that hold in the last window."""
    found = ((kind, check(windows)) for kind, check in _CHECKS.items()) if windows else ()
    return [Alarm(windows[-1].last_step, kind, *each) for kind, each in found if each is not None]


def start_of(windows: Sequence[Window]) -> float | None:
    """The Vendi score of a run's start: the mean of its first `START` windows that have one, however late these are:
    of an ideator that has yet to learn the form, the first windows have too few descriptions."""
    found = _series(windows, "vendi")[:START]
    return fmean(found) if found else None


def _signature(windows: Sequence[Window]) -> Found:
    """The paper's picture: the mean rises, the best does not, thoughts shorten."""
    last = windows[-SPAN:]
    mean, best, thought = (_series(last, name) for name in ("reward_mean", "reward_best", "thought_words"))
    if len(last) < SPAN or min(map(len, (mean, best, thought))) < SPAN:
        return None
    if _trend(mean) > SURE and _slope(best) <= 0 and _trend(thought) < -SURE:
        return WARN, (
            f"Over {SPAN} windows the mean reward rose from {mean[0]:.3g} to {mean[-1]:.3g} while the best did not, "
            f"and thoughts went from {thought[0]:.1f} to {thought[-1]:.1f} words: the picture of a collapse. Reward "
            "improvement over what is known, show past ideas in prompts, or switch to max_at_k."
        )
    return None


def _largest(windows: Sequence[Window]) -> Found:
    last = _series(windows[-PATIENCE:], "largest_cluster")
    if len(last) < PATIENCE or min(last) <= LARGEST_WARN:
        return None
    said = f"For {PATIENCE} windows one cluster has held {min(last):.0%} of the ideas or more (warn above "
    said += f"{LARGEST_WARN:.0%}, stop above {LARGEST_STOP:.0%} if few are different): "
    if min(last) > LARGEST_STOP and _few(windows):
        return STOP, said + (
            "the ideator writes one idea. Raise the temperature, or go back to an earlier checkpoint with another "
            "objective."
        )
    return WARN, said + (
        "the ideator writes one idea, or one lineage leads. Look at distinct_trees and vendi: if they fall too, raise "
        "the temperature, or go back to an earlier checkpoint with another objective."
    )


def _few(windows: Sequence[Window]) -> bool:
    """Whether the last windows hold few different ideas, by other signs than clusters; true where there are none."""
    start = start_of(windows)
    trees, vendi = (_series(windows[-PATIENCE:], name) for name in ("distinct_trees", "vendi"))
    if not trees and not vendi:
        return True
    narrow = bool(vendi) and max(vendi) < max(FEW_IDEAS, VENDI_WARN * (start or 0.0))
    return narrow or bool(trees) and max(trees) < FEW_TREES


def _vendi(windows: Sequence[Window]) -> Found:
    start, last = start_of(windows), _series(windows[-PATIENCE:], "vendi")
    early = len(_series(windows, "vendi")) < START + PATIENCE
    if start is None or early or len(last) < PATIENCE or max(last) >= VENDI_WARN * start:
        return None
    level = STOP if max(last) < VENDI_STOP * start else WARN
    return level, (
        f"For {PATIENCE} windows the Vendi score has been {max(last) / start:.0%} of its start, {start:.1f}, or less "
        f"(warn below {VENDI_WARN:.0%}, stop below {VENDI_STOP:.0%}): few different ideas are left. Raise the "
        "temperature, or switch to an objective that rewards what is new."
    )


def _success(windows: Sequence[Window]) -> Found:
    last = _series(windows[-PATIENCE:], "success")
    if len(last) < PATIENCE or max(last) >= SUCCESS:
        return None
    return WARN, (
        f"For {PATIENCE} windows at most {max(last):.0%} of the ideas succeeded (warn below {SUCCESS:.0%}): ideas "
        "reach further than they can be made to run. Raise free_prompts, or warm up longer."
    )


def _length(windows: Sequence[Window]) -> Found:
    known = [w for w in windows[-SPAN:] if w.figures.get("thought_success") is not None]
    counts = [w.ideas * (1 - (w.figures.get("malformed") or 0.0)) for w in known]  # the others have no known thought
    ideas = sum(counts)
    if len(known) < PATIENCE or ideas < 2:
        return None
    mean = sum((w.figures["thought_success"] or 0.0) * count for w, count in zip(known, counts, strict=True)) / ideas
    if abs(mean) <= CORRELATION or abs(mean) <= SURE / (ideas - 1) ** 0.5:
        return None
    way = "Longer" if mean > 0 else "Shorter"
    return WARN, (
        f"{way} thoughts succeed more often: rank correlation {mean:+.2f} over {len(known)} windows (warn beyond "
        f"±{CORRELATION}). Whoever is paid for success learns the length first; look at what the thoughts say."
    )


def _standstill(windows: Sequence[Window]) -> Found:
    last = _series(windows[-SPAN - 1 :], "best_so_far")
    if len(last) < SPAN + 1 or last[0] != last[-1]:
        return None
    return WARN, (
        f"No better idea for {SPAN} windows: the best stays at {last[-1]:.4g}. Widen the search (temperature, free "
        "prompts), or stop and spend the rest elsewhere."
    )


def _bound(windows: Sequence[Window]) -> Found:
    if not (beyond := windows[-1].figures.get("beyond_bound")):
        return None
    return WARN, (
        f"{beyond:.0f} results are better than what the environment believes of one run (its `suspicious.beyond`): "
        "a find, or a hole in the evaluator. Read their patches before more is trained on them."
    )


_CHECKS: dict[str, Callable[[Sequence[Window]], Found]] = {
    SIGNATURE: _signature,
    CLUSTER: _largest,
    VENDI: _vendi,
    OVERREACH: _success,
    LENGTH: _length,
    STANDSTILL: _standstill,
    BOUND: _bound,
}


def _series(windows: Sequence[Window], name: str) -> list[float]:
    """The values of a figure, without windows that have none."""
    return [value for window in windows if (value := window.figures.get(name)) is not None]


def _slope(values: Sequence[float]) -> float:
    """Of the least-squares line, a window; 0 where it is lost in rounding."""
    x, y = np.arange(len(values)), np.asarray(values, np.float64)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return slope if abs(slope) > 1e-9 * float(np.abs(y).max()) else 0.0


def _trend(values: Sequence[float]) -> float:
    """The slope over its standard error, of at least three values; infinite for a perfect line, 0 for a flat one."""
    x, y, slope = np.arange(len(values)), np.asarray(values, np.float64), _slope(values)
    if slope == 0:
        return 0.0
    left = float(((y - y.mean() - slope * (x - x.mean())) ** 2).sum())
    error = (left / (len(y) - 2) / float(((x - x.mean()) ** 2).sum())) ** 0.5
    return slope / error if error > 0 else float(np.sign(slope) * np.inf)
