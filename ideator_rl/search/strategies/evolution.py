"""Evolution as in Si et al. (arXiv 2601.14525): sample, then exploit what beat the baseline and explore beside it.

Epoch 0 samples.  A later epoch e exploits with the share min(0.5 + 0.1·⌊e/2⌋, 0.8) of its ideas, in answer to past
ideas that are better than the baseline, shuffled; the rest explores, in answer to random past ideas, failures named.
Every question lists the ideas of its epoch so far, to be avoided.  The numbers are the paper's (80 ideas an epoch on
its pre-training environment, 50 on the other, 10 a question: keys of the recipe).  Ours: `elites`, which narrows the
parents to the best few, for budgets of dozens instead of hundreds; and while nothing beats the baseline, an epoch
explores only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import MALFORMED, Experiment
from ideator_rl.search.ideator import EXPLOIT, EXPLORE, FREE, Ask
from ideator_rl.search.strategies.strategy import History


@dataclass(frozen=True)
class Evolution:
    sampling_epochs: int = 1
    """Epochs before the first that looks back."""
    exploit_start: float = 0.5
    exploit_step: float = 0.1
    """What the share of exploitation grows by …"""
    exploit_every: int = 2
    """… after so many epochs."""
    exploit_most: float = 0.8
    parents: int = 100
    """The most ideas that a question shows which exploits."""
    elites: int | None = None
    """Parents are drawn from so many of the best; null for all that are better than the baseline."""
    past: int = 100
    """The most ideas that a question shows which explores; 0 for none."""
    avoid_similar: bool = True
    """Questions list the epoch's ideas so far."""

    def __post_init__(self) -> None:
        for name in ("exploit_start", "exploit_most"):
            if not 0 <= getattr(self, name) <= 1:
                raise IdeatorError(f"Evolution has {name}: {getattr(self, name)}. Expected a number from 0 to 1.")
        for name, least in (("exploit_every", 1), ("parents", 1), ("past", 0), ("elites", 1), ("sampling_epochs", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise IdeatorError(f"Evolution has {name}: {value}. Expected at least {least}.")

    def share(self, epoch: int) -> float:
        """The share of an epoch's ideas that exploits."""
        if epoch < self.sampling_epochs:
            return 0.0
        return min(self.exploit_start + self.exploit_step * (epoch // self.exploit_every), self.exploit_most)

    def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
        avoid = tuple(history.ideas) if self.avoid_similar else ()
        if history.epoch < self.sampling_epochs:
            return [Ask(FREE, size, avoid=avoid) for size in history.batches(count)]
        better = self._better(history.archive)
        wanted = round(self.share(history.epoch) * history.epoch_size) if better else 0
        exploit = min(count, max(0, wanted - history.asked.get(EXPLOIT, 0)))
        asks = [
            Ask(EXPLOIT, size, tuple(rng.sample(better, min(self.parents, len(better)))), avoid)
            for size in history.batches(exploit)
        ]
        for size in history.batches(count - exploit):
            known = _ordered(_ideas(history.archive)) if self.past else []
            shown = tuple(rng.sample(known, min(self.past, len(known))))
            asks.append(Ask(EXPLORE, size, shown, avoid, descends=False))
        return asks

    def _better(self, archive: Archive) -> list[Experiment]:
        """What is better than the baseline; while that is unknown, whatever succeeded."""
        floor = archive.baseline.quality if archive.baseline else float("-inf")
        return _ordered([good for good in archive.successes() if (archive.quality(good) or 0.0) > floor][: self.elites])


def _ideas(archive: Archive) -> list[Experiment]:
    """What was tried or refused; a text without an idea is none."""
    return [record for record in archive.records() if record.idea and record.status != MALFORMED]


def _ordered(records: Sequence[Experiment]) -> list[Experiment]:
    """By name: which of two experiments ended first is chance, and must not change what is drawn."""
    return sorted(records, key=lambda record: record.id)
