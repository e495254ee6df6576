"""How many CPU seconds the scorers of a measurement may use, from what the baseline's scorers used on this machine.

Covered:
- start-up (Python and what is preloaded) is not counted: a cold start and a forked one are alike
- a scorer that ended or was killed stays counted, since it is measured until its end
- loading is limited for itself, and later passes by the tokens asked so far, at the baseline's seconds a token: a model
  that trains in its scorer has the loading share for it, and one that trains on between answers is caught by the audit
- a generator that answers longer than the baseline is asked for more tokens, and may use more seconds
- wall seconds of a whole measurement: how long a model that sleeps holds a slot

Not covered: CPU seconds where the budget is wall clock.

Nothing here depends on what an experiment does: the baseline is measured in experiments of its own.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import metadata
from itertools import zip_longest
from pathlib import Path

from ideator_rl.config.reader import read_json
from ideator_rl.environments.environment import Budget
from ideator_rl.environments.preset import ScoringLimits
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
"""Likewise, on CPUs.  Where the budget is wall clock, another measurement may cost a run of the baseline that is much
longer than scoring: all seconds of the preset's `scoring` are allowed."""


@dataclass(frozen=True)
class ScorerSeconds:
    """CPU seconds that one scorer used."""

    loading: float
    """Until its warm-up, over tokens that are not hidden, is answered."""
    passes: float
    """From then on to its end."""
    tokens: int = 0
    """Tokens of all requests after the first pass, B x T each; 0 for a scorer that was asked for none."""

    @property
    def per_token(self) -> float:
        return self.passes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class ScorerLimit:
    """The most CPU seconds that one scorer may use."""

    loading: float
    """Until its warm-up, over tokens that are not hidden, is answered."""
    passes: float
    """From then on, whatever it is asked."""
    per_token: float
    """More, for each token that it was asked for."""


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

    scorers: tuple[ScorerLimit, ...] | None
    """CPU seconds in the order of the scorers, the last for all further ones; None limits none."""
    wall: float
    """Seconds for evaluator and scorers."""


def limits(cost: ScoringCost | None, budget: Budget, seconds: float = ScoringLimits().seconds) -> Limits:
    """The limits that follow from the baseline's cost; assumed ones if it is not known.

    Args:
        seconds: wall seconds that the preset allows for scoring.
    """
    scorers = cost.scorers if cost else ()
    wall = UNMEASURED_WALL_SECONDS if budget.clock == "cpu" else seconds
    if cost:
        wall = WALL_FACTOR * cost.wall + WALL_SLACK_SECONDS
    # A scorer of the baseline that was asked for nothing has no seconds a token: those of the slowest one apply.
    slowest = max((scorer.per_token for scorer in scorers), default=0.0)
    allowed = tuple(
        ScorerLimit(
            LOADING_FACTOR * scorer.loading + SLACK_SECONDS,
            SLACK_SECONDS,
            PASSES_FACTOR * (scorer.per_token if scorer.tokens else slowest),
        )
        for scorer in scorers
    ) or (ScorerLimit(2 * SLACK_SECONDS, UNMEASURED * budget.seconds + SLACK_SECONDS, 0.0),)
    return Limits(allowed if budget.clock == "cpu" else None, wall)


def larger(cost: ScoringCost, other: ScoringCost) -> ScoringCost:
    """The larger of two measurements of one baseline, field by field."""
    nothing = ScorerSeconds(0.0, 0.0)
    scorers = []
    for one, two in zip_longest(cost.scorers, other.scorers, fillvalue=nothing):
        # An audit draws its lengths: seconds are compared a token.
        slower = max(one, two, key=lambda scorer: scorer.per_token)
        scorers.append(replace(slower, loading=max(one.loading, two.loading)))
    return ScoringCost(tuple(scorers), max(cost.wall, other.wall))


def doubled(bounds: Limits) -> Limits:
    """These limits with twice the CPU seconds."""
    if bounds.scorers is None:
        return bounds
    scorers = (ScorerLimit(2 * s.loading, 2 * s.passes, 2 * s.per_token) for s in bounds.scorers)
    return replace(bounds, scorers=tuple(scorers))


class Meter:
    """Measures one scorer against its limit.  Used by the evaluator's one thread."""

    def __init__(self, seconds: Callable[[], float], startup: Callable[[], float | None], limit: ScorerLimit | None):
        """
        Args:
            seconds: CPU seconds of all processes of the scorer so far.
            startup: those before it could import code of the experiment; None as long as it has not reported.
            limit: None to measure only.
        """
        self._seconds, self._startup, self._limit = seconds, startup, limit
        self._next_check, self._used = 0.0, 0.0
        self._loading: float | None = None
        self.tokens = 0
        """Tokens of all requests so far, those of the warm-up left out; the one who asks adds to it."""

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
            return f"took over {allowed:.2g} CPU seconds to load and to warm up"
        # Without the number: a scorer that chooses when to burn would choose it, and so write hidden text down.
        if self._used > self._limit.loading + self._limit.passes + self._limit.per_token * self.tokens:
            return "took more CPU seconds than it may for what it was asked so far"
        return ""

    def warm(self) -> str:
        """The warm-up is answered; returns what is exceeded, as `check`."""
        exceeded = self.check(now=True)
        self._loading = self._used
        return exceeded

    def seconds(self) -> ScorerSeconds:
        loading = self._used if self._loading is None else self._loading
        return ScorerSeconds(loading, self._used - loading, self.tokens)


@dataclass(frozen=True)
class Address:
    """Where a baseline's cost is stored: one file for each environment, preset, machine and software."""

    environment: str
    preset: str
    digest: str
    preload: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        name = f"{self.environment}-{self.preset}-{self.digest[:16]}-{_machine()}-{_software(self.preload)}.json"
        return cache_root() / "scoring" / name


def store_cost(address: Address, cost: ScoringCost) -> None:
    """Store the baseline's cost for this machine; replaces an earlier one."""
    write_atomic(address.path, json.dumps(asdict(cost)))


def forget_cost(address: Address) -> None:
    """Have the next baseline measured anew."""
    address.path.unlink(missing_ok=True)


def load_cost(address: Address) -> ScoringCost | None:
    """The baseline's cost on this machine for an environment of this digest; None if it was not measured."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = read_json(address.path)
        scorers = tuple(ScorerSeconds(s["loading"], s["passes"], s["tokens"]) for s in stored["scorers"])
        return ScoringCost(scorers, float(stored["wall"]))
    return None


@cache
def _machine() -> str:
    """A short name for this machine and its processor: the cache may lie on a disk that several share."""
    model = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line for line in lines if line.startswith("model name")), "")
    return hashlib.sha256(f"{platform.node()} {platform.machine()} {model}".encode()).hexdigest()[:12]


@cache
def _software(preload: tuple[str, ...]) -> str:
    """A short name for this Python and the releases of what a scorer imports: another release takes other seconds."""
    packages = sorted({"numpy", *(module.partition(".")[0] for module in preload)} - sys.stdlib_module_names)
    releases = [f"{package} {_release(package)}" for package in packages]
    return hashlib.sha256("\n".join([sys.version, sys.prefix, *releases]).encode()).hexdigest()[:12]


def _release(package: str) -> str:
    """The releases of the distributions that hold a package; empty for none."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    # The slow way: a package's name may differ from its distribution's.
    names = metadata.packages_distributions().get(package, [])
    return " ".join(sorted(f"{name} {metadata.version(name)}" for name in names))
