"""A choice of parents for prompts, which inherits the library's checks of its numbers."""

import random

from ideator_rl.experiment import Experiment
from ideator_rl.search.archive import Archive
from ideator_rl.search.strategies import Parents, Strategy, TopK, get_strategy
from ideator_rl.search.strategies.parents import refuse_counts
from old_plugin import note


class Newest:
    def __init__(self, shown: int, elites: int):
        refuse_counts(shown, elites)
        self.shown, self.elites = shown, elites

    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[Parents]:
        best: list[Experiment] = archive.elites(self.elites)
        newest = sorted(best, key=lambda record: record.finished)[-self.shown :]
        note("newest", known=len(archive), shown=len(newest))
        return [tuple(newest) for _ in range(count)]


def reference(shown: int, elites: int) -> Strategy:
    """The library's own, under its name."""
    strategy = get_strategy("top_k", shown=shown, elites=elites)
    assert strategy == TopK(shown, elites)
    return strategy
