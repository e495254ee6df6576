"""The search strategy of docs/search.md of 0.1.0, beside one that falls back on the library's own."""

import random
from dataclasses import dataclass

from ideator_rl.search.archive import Archive
from ideator_rl.search.asking import EXPLOIT, EXPLORE, FREE, Ask
from ideator_rl.search.strategies import History, SearchStrategy
from ideator_rl.search.strategies.best_of_n import BestOfN
from old_plugin import note


@dataclass(frozen=True)
class Greedy:
    shown: int = 1

    def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
        archive: Archive = history.archive
        best = tuple(archive.elites(self.shown))
        note("greedy", known=len(archive), shown=self.shown)
        if not best:
            fallback: SearchStrategy = BestOfN()
            return fallback.asks(history, count, rng)
        kinds = [EXPLOIT, EXPLORE] if len(archive) > 100 else [EXPLOIT]
        assert FREE not in kinds
        return [Ask(kinds[0], size, best) for size in history.batches(count)]
