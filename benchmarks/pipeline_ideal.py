"""What a pipeline could reach at best on a fleet: a simulation of clocks alone, in which deciding costs nothing."""

from __future__ import annotations

import heapq
import math
import statistics
from dataclasses import dataclass

from benchmarks.fleet_floor import Nature

ATTEMPTS = 3
"""Of an experiment that is lost."""
FILL = 6
"""Steps before the clock starts."""


@dataclass(frozen=True)
class Fleet:
    slots: int
    batch: int
    """Experiments a step."""
    nature: Nature


@dataclass
class _Floor:
    """When each slot is free again."""

    fleet: Fleet
    free: list[float]

    def ends(self, name: str, at: float) -> list[float]:
        """When the experiments of a batch that is submitted at a time have their outcomes, in order."""
        ends = []
        for row in range(self.fleet.batch):
            end = max(at, heapq.heappop(self.free))
            for attempt in range(ATTEMPTS):
                seconds, succeeds = self.fleet.nature.fate(f"{name}.{row}", attempt)
                end += seconds
                if succeeds:
                    break
            heapq.heappush(self.free, end)
            ends.append(end)
        return sorted(ends)


def _quorum(ends: list[float], quorum: float) -> float:
    return ends[math.ceil(quorum * len(ends) - 1e-9) - 1]


def quorum_seconds(fleet: Fleet, quorum: float, draws: int = 300) -> float:
    """Mean seconds until a fraction of a batch has an outcome, on an empty fleet."""
    return statistics.mean(
        _quorum(_Floor(fleet, [0.0] * fleet.slots).ends(str(number), 0.0), quorum) for number in range(draws)
    )


def ideal_seconds(fleet: Fleet, lag: int, quorum: float, g: float, steps: int = 300) -> float:
    """Seconds a step when nothing takes time but experiments, generate and update.

    Args:
        g: generate and update.
    """
    floor, ends, now = _Floor(fleet, [0.0] * fleet.slots), [], 0.0
    for batch in range(lag + 1):
        now += g
        ends.append(floor.ends(str(batch), now))
    trained = []
    for step in range(steps):
        now = max(now, _quorum(ends[step], quorum)) + g
        trained.append(now)
        ends.append(floor.ends(str(step + lag + 1), now))
    return (trained[-1] - trained[FILL - 1]) / (steps - FILL)
