"""MAP-Elites (Mouret & Clune, arXiv 1504.04909): keep the best idea of every cell, and vary one of them at random.

The first `start` ideas are free.  After that a question shows the best ideas of one or two cells, drawn uniformly from
the filled ones.  A cell is a tuple of labels (`descriptors`).  pyribs is not used: its archives hold vectors of numbers
in a space that is known beforehand, while these labels are open-ended, and it brings numba and scikit-learn along.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.search.descriptors import DESCRIPTORS, METRIC, Bins, descriptor, reached_bins
from ideator_rl.search.ideator import EXPLOIT, FREE, Ask
from ideator_rl.search.strategies.strategy import History


@dataclass(frozen=True)
class MapElites:
    start: int = 20
    """Records in the archive before the first variation."""
    two: float = 0.5
    """Share of the questions that show two elites."""
    free: float = 0.0
    """Share of the later questions that show none."""
    descriptors: tuple[str, ...] | list[str] = tuple(DESCRIPTORS)
    """The labels of a cell: kind, size, component, or metric:NAME for a secondary metric."""
    bins: int = 8
    """Parts of the range of a secondary metric."""
    ranges: dict[str, tuple[float, float] | list[float]] = field(default_factory=dict)
    """[lowest, highest] by name of a secondary metric; without one, what the successes reached so far."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.descriptors if name not in DESCRIPTORS and not name.startswith(METRIC)]
        if unknown:
            names = ", ".join(DESCRIPTORS)
            raise IdeatorError(f"There is no descriptor {unknown[0]!r}. Expected some of {names}, {METRIC}NAME.")
        if self.bins < 2:
            raise IdeatorError(f"MAP-Elites has bins: {self.bins}. Expected at least 2.")
        for name, bounds in self.ranges.items():
            are_numbers = [type(bound) in (int, float) and math.isfinite(bound) for bound in bounds]
            if are_numbers != [True, True] or bounds[0] >= bounds[1]:
                raise IdeatorError(f"MAP-Elites has ranges.{name}: {list(bounds)}. Expected [lowest, highest].")
            if METRIC + name not in self.descriptors:
                raise IdeatorError(f"MAP-Elites has ranges.{name}, and no descriptor {METRIC + name!r}. Add that one.")
        for name in ("two", "free"):
            if not 0 <= getattr(self, name) <= 1:
                raise IdeatorError(f"MAP-Elites has {name}: {getattr(self, name)}. Expected a number from 0 to 1.")

    def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
        cells = self.cells(history)
        # Sorted by label: the order in which cells were filled is chance, and must not change what is drawn.
        filled = [cells[key] for key in sorted(cells)]
        asks = []
        for size in history.batches(count):
            if not filled or len(history.archive) < self.start or rng.random() < self.free:
                asks.append(Ask(FREE, size))
                continue
            elites = rng.sample(filled, min(len(filled), 2 if rng.random() < self.two else 1))
            asks.append(Ask(EXPLOIT, size, tuple(elites)))
        return asks

    def cells(self, history: History) -> dict[tuple[str, ...], Experiment]:
        """The best idea of every cell."""
        best_by_cell: dict[tuple[str, ...], Experiment] = {}
        names = tuple(self.descriptors)
        bins = self._bins(history.archive)
        for record in history.archive.successes():  # best first
            best_by_cell.setdefault(descriptor(record, history.archive, history.subject, names, bins), record)
        return best_by_cell

    def _bins(self, archive: Archive) -> dict[str, Bins]:
        bins = {}
        for descriptor_name in self.descriptors:
            if descriptor_name.startswith(METRIC):
                name = descriptor_name.removeprefix(METRIC)
                bounds = self.ranges.get(name)
                reached = reached_bins(name, archive, self.bins)
                bins[descriptor_name] = Bins(name, bounds[0], bounds[1], self.bins) if bounds else reached
        return bins
