"""Reuse: questions that show the parents that a prompt strategy picks (`top_k`, `puct`), and a share of free ones.

The prompts of training, in a search: the same choice of parents with an ideator that does not learn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ideator_rl.archive.parents import Strategy
from ideator_rl.errors import IdeatorError
from ideator_rl.search.ideator import EXPLOIT, FREE, Ask
from ideator_rl.search.strategies.strategy import History


@dataclass(frozen=True)
class Reuse:
    picker: Strategy
    free: float = 0.25
    """Share of an epoch's ideas that answer questions without parents."""

    def __post_init__(self) -> None:
        if not 0 <= self.free <= 1:
            raise IdeatorError(f"The share of free questions is {self.free}; expected a number from 0 to 1.")

    def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
        # The share holds for the whole epoch: what earlier questions missed is made up for now.
        total = len(history.ideas) + count
        free = min(count, max(0, round(self.free * total) - history.ideas_by_kind.get(FREE, 0)))
        asks = [Ask(FREE, size) for size in history.batches(free)]
        sizes = history.batches(count - free)
        # One draw of parents for each question; before the first success the picker has none.
        parents = self.picker.parents(history.archive, len(sizes), rng)
        return asks + [Ask(EXPLOIT if ideas else FREE, size, ideas) for size, ideas in zip(sizes, parents, strict=True)]
