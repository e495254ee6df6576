"""Evolution as in Si et al. (arXiv 2601.14525): sample first, then exploit ideas better than the baseline and explore.

Epoch 0 samples.  A later epoch e exploits with the share min(0.5 + 0.1·⌊e/2⌋, 0.8) of its ideas: these questions show
past ideas that are better than the baseline, shuffled.  The other questions explore: they show random past ideas, with
the reason for each failure.  Every question lists the ideas of its epoch so far, to be avoided.

The defaults are the paper's, made for 800 ideas; a search scales them to its budget (`ideator_rl.search.schedule`).  80
ideas an epoch (50 on its post-training environment) and 10 a question are keys of the recipe.  Ours: `elites` draws
parents from the best few, for budgets of dozens instead of hundreds; and an epoch only explores while no idea is better
than the baseline.
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
    """Epochs whose questions show no past ideas."""
    exploit_start: float = 0.5
    exploit_step: float = 0.1
    """The share of exploitation grows by this much …"""
    exploit_every: int = 2
    """… every so many epochs."""
    exploit_most: float = 0.8
    parents: int = 100
    """Past ideas shown in an exploit prompt, at most."""
    elites: int | None = None
    """Parents are drawn from this many of the best; null for all that are better than the baseline."""
    past: int = 100
    """Past ideas shown in an explore prompt, at most; 0 for none."""
    avoid_similar: bool = True
    """Whether questions list the epoch's ideas so far."""

    def __post_init__(self) -> None:
        for name in ("exploit_start", "exploit_most"):
            if not 0 <= getattr(self, name) <= 1:
                raise IdeatorError(f"Evolution has {name}: {getattr(self, name)}. Expected a number from 0 to 1.")
        for name, least in (("exploit_every", 1), ("parents", 1), ("past", 0), ("elites", 1), ("sampling_epochs", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise IdeatorError(f"Evolution has {name}: {value}. Expected at least {least}.")

    def share(self, epoch: int) -> float:
        """The share of an epoch's ideas that exploit."""
        if epoch < self.sampling_epochs:
            return 0.0
        return min(self.exploit_start + self.exploit_step * (epoch // self.exploit_every), self.exploit_most)

    def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
        avoid = tuple(history.ideas) if self.avoid_similar else ()
        if history.epoch < self.sampling_epochs:
            return [Ask(FREE, size, avoid=avoid) for size in history.batches(count)]
        # The share holds for the whole epoch, of which some ideas were asked for already.
        better = self._better(history.archive)
        wanted = round(self.share(history.epoch) * history.epoch_size) if better else 0
        # What the epoch still lacks of its share goes first; the rest of this turn explores.
        exploit = min(count, max(0, wanted - history.ideas_by_kind.get(EXPLOIT, 0)))
        asks = [
            Ask(EXPLOIT, size, tuple(rng.sample(better, min(self.parents, len(better)))), avoid)
            for size in history.batches(exploit)
        ]
        past = _sorted(_ideas(history.archive)) if self.past else []
        for size in history.batches(count - exploit):
            sample = tuple(rng.sample(past, min(self.past, len(past))))
            asks.append(Ask(EXPLORE, size, sample, avoid, descends=False))
        return asks

    def _better(self, archive: Archive) -> list[Experiment]:
        """The ideas that are better than the baseline; all successes while the baseline is unknown."""
        floor = archive.baseline.quality if archive.baseline else float("-inf")
        better = [record for record in archive.successes() if (archive.quality(record) or 0.0) > floor]
        return _sorted(better[: self.elites])


def _ideas(archive: Archive) -> list[Experiment]:
    """All records with an idea, failures and rejected ideas too."""
    return [record for record in archive.records() if record.idea and record.status != MALFORMED]


def _sorted(records: Sequence[Experiment]) -> list[Experiment]:
    """Sorted by id: the order in which experiments end is chance, and must not change what is drawn."""
    return sorted(records, key=lambda record: record.id)
