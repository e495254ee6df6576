"""Alarms over the windows of a run: collapse, too many failures, no progress, or suspiciously good results.

`alarms` returns every alarm where it begins or rises, `active` the alarms of the last window.  The thresholds are rules
of thumb, each a named constant; relative ones compare with the run's own start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ideator_rl.diversity.window import Window

WARN, STOP = "warn", "stop"
SPAN = 10
"""Windows over which the signature and a standstill are judged."""
PATIENCE = 3
"""Windows in a row for which a level must hold: a single one may be chance."""
START = 2
"""First windows, whose mean Vendi score is the start that later ones are compared with."""
LARGEST_WARN, LARGEST_STOP = 0.65, 0.85
"""Share of the ideas in one cluster."""
FEW_TREES, FEW_IDEAS = 0.5, 2.0
"""A large cluster alone is no reason to stop: the ideas of one lineage share words and are different experiments.
Level stop also needs a share of distinct codebases, or a Vendi score, below these, or below the warning level of
`vendi`.  Ours, from benchmarks/collapse.py, where the largest cluster of every evolution exceeded 0.85."""
VENDI_WARN, VENDI_STOP = 0.35, 0.15
"""Vendi score, as a fraction of the start's."""
SUCCESS = 0.15
"""Share of successes below which the ideas are too ambitious."""
CORRELATION = 0.3
"""|rank correlation of thought length and success|."""
SURE = 2.0
"""Standard errors by which a trend, or a correlation over `SPAN` windows, must differ from zero; ours."""

SIGNATURE, CLUSTER, VENDI = "signature", "largest_cluster", "vendi"
COLLAPSE = (SIGNATURE, CLUSTER, VENDI)
"""The kinds that mean a collapse, on which a run may act."""
OVERREACH, LENGTH, STANDSTILL, BOUND = "success", "thought_success", "standstill", "beyond_bound"
LEVELS = {"": 0, WARN: 1, STOP: 2}


@dataclass(frozen=True)
class Alarm:
    step: int
    """Last step of the window in which it begins or rises."""
    kind: str
    level: str
    """`warn` or `stop`."""
    text: str
    """What is measured, and what to do."""


Finding = tuple[str, str] | None
"""Level and text of an alarm; None for no alarm."""


def alarms(windows: Sequence[Window]) -> list[Alarm]:
    """Every alarm of a run, where it begins or where its level rises."""
    rising: list[Alarm] = []
    levels: dict[str, str] = {}
    for end in range(1, len(windows) + 1):
        present = active(windows[:end])
        rising += [alarm for alarm in present if LEVELS[alarm.level] > LEVELS[levels.get(alarm.kind, "")]]
        levels = {alarm.kind: alarm.level for alarm in present}
    return rising


def active(windows: Sequence[Window]) -> list[Alarm]:
    """The alarms that hold in the last window."""
    # The checks are independent: several alarms may hold in one window.
    findings = ((kind, check(windows)) for kind, check in _CHECKS.items()) if windows else ()
    return [Alarm(windows[-1].last_step, kind, *finding) for kind, finding in findings if finding is not None]


def start_of(windows: Sequence[Window]) -> float | None:
    """The Vendi score of a run's start: the mean of its first `START` windows that have one.

    These may come late: the first windows of an ideator that does not know the form yet have too few descriptions.
    """
    scores = _series(windows, "vendi")[:START]
    return fmean(scores) if scores else None


def _signature(windows: Sequence[Window]) -> Finding:
    """The collapse of Si et al.: the mean reward rises, the best does not, and thoughts get shorter."""
    last = windows[-SPAN:]
    mean, best, thought = (_series(last, name) for name in ("reward_mean", "reward_best", "thought_words"))
    if len(last) < SPAN or min(map(len, (mean, best, thought))) < SPAN:
        return None
    if trend(mean) > SURE and slope(best) <= 0 and trend(thought) < -SURE:
        return WARN, (
            f"Over {SPAN} windows the mean reward rose from {mean[0]:.3g} to {mean[-1]:.3g} while the best did not, "
            f"and thoughts went from {thought[0]:.1f} to {thought[-1]:.1f} words: the signature of a collapse. Reward "
            "improvement over past ideas, show past ideas in prompts, or switch to max_at_k."
        )
    return None


def _largest(windows: Sequence[Window]) -> Finding:
    last = _series(windows[-PATIENCE:], "largest_cluster")
    if len(last) < PATIENCE or min(last) <= LARGEST_WARN:
        return None
    measured = f"For {PATIENCE} windows one cluster has held {min(last):.0%} of the ideas or more (warn above "
    measured += f"{LARGEST_WARN:.0%}, stop above {LARGEST_STOP:.0%} if few are different): "
    if min(last) > LARGEST_STOP and _few_distinct(windows):
        return STOP, measured + (
            "the ideator writes one idea. Raise the temperature, or go back to an earlier checkpoint with another "
            "objective."
        )
    return WARN, measured + (
        "the ideator writes one idea, or one lineage leads. Look at distinct_trees and vendi: if they fall too, raise "
        "the temperature, or go back to an earlier checkpoint with another objective."
    )


def _few_distinct(windows: Sequence[Window]) -> bool:
    """Whether the last windows hold few distinct ideas by other figures than clusters; true without such figures."""
    start = start_of(windows)
    trees, vendi = (_series(windows[-PATIENCE:], name) for name in ("distinct_trees", "vendi"))
    if not trees and not vendi:
        return True
    narrow = bool(vendi) and max(vendi) < max(FEW_IDEAS, VENDI_WARN * (start or 0.0))
    return narrow or bool(trees) and max(trees) < FEW_TREES


def _vendi(windows: Sequence[Window]) -> Finding:
    start, last = start_of(windows), _series(windows[-PATIENCE:], "vendi")
    # The windows of the start are not compared with themselves.
    early = len(_series(windows, "vendi")) < START + PATIENCE
    if start is None or early or len(last) < PATIENCE or max(last) >= VENDI_WARN * start:
        return None
    level = STOP if max(last) < VENDI_STOP * start else WARN
    return level, (
        f"For {PATIENCE} windows the Vendi score has been {max(last) / start:.0%} of its start, {start:.1f}, or less "
        f"(warn below {VENDI_WARN:.0%}, stop below {VENDI_STOP:.0%}): few different ideas are left. Raise the "
        "temperature, or switch to an objective that rewards what is new."
    )


def _success(windows: Sequence[Window]) -> Finding:
    last = _series(windows[-PATIENCE:], "success")
    if len(last) < PATIENCE or max(last) >= SUCCESS:
        return None
    return WARN, (
        f"For {PATIENCE} windows at most {max(last):.0%} of the ideas succeeded (warn below {SUCCESS:.0%}): the ideas "
        "are too ambitious for the implementer. Raise free_prompts, or warm up longer."
    )


def _length(windows: Sequence[Window]) -> Finding:
    # One window has too few ideas for a correlation: the windows are pooled, weighted by their ideas.
    correlated = [w for w in windows[-SPAN:] if w.figures.get("thought_success") is not None]
    counts = [w.ideas * (1 - (w.figures.get("malformed") or 0.0)) for w in correlated]  # ideas with a known thought
    ideas = sum(counts)
    if len(correlated) < PATIENCE or ideas < 2:
        return None
    pairs = zip(correlated, counts, strict=True)
    mean = sum((w.figures["thought_success"] or 0.0) * count for w, count in pairs) / ideas
    if abs(mean) <= CORRELATION or abs(mean) <= SURE / (ideas - 1) ** 0.5:
        return None
    way = "Longer" if mean > 0 else "Shorter"
    return WARN, (
        f"{way} thoughts succeed more often: rank correlation {mean:+.2f} over {len(correlated)} windows (warn beyond "
        f"±{CORRELATION}). A policy that is rewarded for success learns the length first; read the thoughts."
    )


def _standstill(windows: Sequence[Window]) -> Finding:
    last = _series(windows[-SPAN - 1 :], "best_so_far")
    if len(last) < SPAN + 1 or last[0] != last[-1]:
        return None
    return WARN, (
        f"No better idea for {SPAN} windows: the best stays at {last[-1]:.4g}. Widen the search (temperature, free "
        "prompts), or stop and spend the rest elsewhere."
    )


def _bound(windows: Sequence[Window]) -> Finding:
    if not (beyond := windows[-1].figures.get("beyond_bound")):
        return None
    return WARN, (
        f"{beyond:.0f} results are better than what the environment believes of one run (its `suspicious.beyond`): "
        "a discovery, or a hole in the evaluator. Read their patches before you train on them."
    )


_CHECKS: dict[str, Callable[[Sequence[Window]], Finding]] = {
    SIGNATURE: _signature,
    CLUSTER: _largest,
    VENDI: _vendi,
    OVERREACH: _success,
    LENGTH: _length,
    STANDSTILL: _standstill,
    BOUND: _bound,
}


def _series(windows: Sequence[Window], name: str) -> list[float]:
    """The values of a figure, from the windows that have it."""
    return [value for window in windows if (value := window.figures.get(name)) is not None]


def slope(values: Sequence[float]) -> float:
    """Slope of the least-squares line, per window; 0 if it is within rounding."""
    x, y = np.arange(len(values)), np.asarray(values, np.float64)
    change = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return change if abs(change) > 1e-9 * float(np.abs(y).max()) else 0.0


def trend(values: Sequence[float]) -> float:
    """The slope over its standard error, for at least three values; infinite for a perfect line, 0 for a flat one."""
    x, y, change = np.arange(len(values)), np.asarray(values, np.float64), slope(values)
    if change == 0:
        return 0.0
    residual = float(((y - y.mean() - change * (x - x.mean())) ** 2).sum())
    error = (residual / (len(y) - 2) / float(((x - x.mean()) ** 2).sum())) ** 0.5
    return change / error if error > 0 else float(np.sign(change) * np.inf)
