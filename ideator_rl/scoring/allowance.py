"""How many CPU seconds the scorers of a measurement may use, from what the baseline's scorers used on this machine.

Covered:
- start-up (Python and what is preloaded) is not counted: a cold start and a forked one are alike
- a scorer that ended or was killed stays counted, since it is measured until its end
- loading is limited for itself, and later passes in proportion to the tokens asked so far: a model that trains in its
  scorer has the loading share for it, and one that trains on between answers is caught by the audit
- wall seconds of a whole measurement: how long a model that sleeps holds a slot

Not covered: CPU seconds where the budget is wall clock.

Nothing here depends on what an experiment does: the baseline is measured in experiments of its own.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ideator_rl.environments.environment import Budget
from ideator_rl.files import cache_root, write_atomic

CHECK_SECONDS = 0.05
"""Wall seconds between two looks at a scorer."""
LOADING_FACTOR, PASSES_FACTOR = 2.0, 5.0
"""Times the baseline's CPU seconds.  Passes of an honest model four times as large must fit; training does not fit
there, since the first answer is due when a small part of the passes is allowed."""
SLACK_SECONDS = 0.25
"""CPU seconds added to each, for what a clock of 10 ms and a busy machine add."""
WALL_FACTOR, WALL_SLACK_SECONDS = 10.0, 30.0
UNMEASURED = 0.1
"""Where the baseline was not measured: the share of the budget that stands for its passes."""
UNMEASURED_WALL_SECONDS = 60.0


@dataclass(frozen=True)
class ScorerSeconds:
    """CPU seconds of one scorer, or the most that it may use."""

    loading: float
    """Until its first pass, over tokens that are not hidden, is answered."""
    passes: float
    """From then on to its end."""


@dataclass(frozen=True)
class ScoringCost:
    """What one measurement took."""

    scorers: tuple[ScorerSeconds, ...]
    """In the order in which they were started."""
    wall: float
    """Seconds."""


@dataclass(frozen=True)
class Limits:
    """What one measurement may use."""

    scorers: tuple[ScorerSeconds, ...] | None
    """CPU seconds in the order of the scorers, the last for all further ones; None limits none."""
    wall: float
    """Seconds for evaluator and scorers."""
    assumed: bool = False
    """The baseline was not measured on this machine: what breaks these limits is judged again after that."""


def limits(cost: ScoringCost | None, budget: Budget) -> Limits:
    """The limits that follow from the baseline's cost; assumed ones if it is not known."""
    by_default = ScorerSeconds(SLACK_SECONDS / 2, UNMEASURED * budget.seconds / PASSES_FACTOR)
    scorers = (cost.scorers if cost else ()) or (by_default,)
    wall = WALL_FACTOR * cost.wall + WALL_SLACK_SECONDS if cost else UNMEASURED_WALL_SECONDS
    allowed = tuple(
        ScorerSeconds(
            LOADING_FACTOR * scorer.loading + SLACK_SECONDS,
            PASSES_FACTOR * scorer.passes + SLACK_SECONDS,
        )
        for scorer in scorers
    )
    return Limits(allowed if budget.clock == "cpu" else None, wall, assumed=cost is None)


class Meter:
    """Measures one scorer against its limit.  Used by the evaluator's one thread."""

    def __init__(self, seconds: Callable[[], float], startup: Callable[[], float | None], limit: ScorerSeconds | None):
        """
        Args:
            seconds: CPU seconds of all processes of the scorer so far.
            startup: those before it could import code of the experiment; None as long as it has not reported.
            limit: None to measure only.
        """
        self._seconds, self._startup, self._limit = seconds, startup, limit
        self._next_check, self._used = 0.0, 0.0
        self._loading: float | None = None
        self.progress = 1.0
        """Share of the tokens of all requests that was asked for so far; the one who asks writes it."""

    def check(self, now: bool = False) -> str:
        """What is exceeded, as a sentence without a subject; empty if nothing is.  Looks at most every 50 ms."""
        startup = self._startup()
        if startup is None or (not now and time.monotonic() < self._next_check):
            return ""
        self._next_check = time.monotonic() + CHECK_SECONDS
        # The time of a process can vanish from the sum while it ends: what was seen once stays counted.
        self._used = max(self._used, self._seconds() - startup)
        if self._limit is None:
            return ""
        if self._used > (allowed := self._limit.loading) and self._loading is None:
            return f"took over {allowed:.2g} CPU seconds to load and for its first pass"
        if self._used > (allowed := self._limit.loading + self._limit.passes * self.progress):
            return f"took over {allowed:.2g} CPU seconds for what it was asked so far"
        return ""

    def warm(self) -> str:
        """The first pass is answered; returns what is exceeded, as `check`."""
        exceeded = self.check(now=True)
        self._loading = self._used
        return exceeded

    def seconds(self) -> ScorerSeconds:
        loading = self._used if self._loading is None else self._loading
        return ScorerSeconds(loading, self._used - loading)


def store_cost(environment: str, preset: str, digest: str, cost: ScoringCost) -> None:
    """Store the baseline's cost for this machine; replaces an earlier one."""
    write_atomic(_path(environment, preset, digest), json.dumps(asdict(cost)))


def forget_cost(environment: str, preset: str, digest: str) -> None:
    """Have the next baseline measured anew."""
    _path(environment, preset, digest).unlink(missing_ok=True)


def load_cost(environment: str, preset: str, digest: str) -> ScoringCost | None:
    """The baseline's cost on this machine for an environment of this digest; None if it was not measured."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(_path(environment, preset, digest).read_text())
        return ScoringCost(tuple(ScorerSeconds(**scorer) for scorer in stored["scorers"]), float(stored["wall"]))
    return None


def _path(environment: str, preset: str, digest: str) -> Path:
    return cache_root() / "scoring" / f"{environment}-{preset}-{digest[:16]}-{_machine()}.json"


@cache
def _machine() -> str:
    """A short name for this machine and its processor: the cache may lie on a disk that several share."""
    model = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line for line in lines if line.startswith("model name")), "")
    return hashlib.sha256(f"{platform.node()} {platform.machine()} {model}".encode()).hexdigest()[:12]
