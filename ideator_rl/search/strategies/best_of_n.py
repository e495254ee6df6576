"""Best of N: independent ideas, of which the best counts.  The baseline for every other strategy."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ideator_rl.search.ideator import FREE, Ask
from ideator_rl.search.strategies.strategy import History


@dataclass(frozen=True)
class BestOfN:
    def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
        del rng
        return [Ask(FREE, size) for size in history.batches(count)]
