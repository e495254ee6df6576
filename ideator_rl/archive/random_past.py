"""Past ideas at random, failures too: the dynamic prompts that Si et al. (arXiv 2601.14525) tried against collapse.

Not a choice of good parents: what a prompt shows is a sample of what happened, so that prompts differ and tell what
works and what does not.  Among the remedies that did not help in the paper.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.parents import refuse_counts
from ideator_rl.experiment import MALFORMED, Experiment


@dataclass(frozen=True)
class RandomPast:
    """Ideas drawn from all that is known, each codebase alike however often it was proposed; an idea that never became
    a codebase stands for itself, and a text without an idea is none."""

    shown: int = 2
    """Ideas that a prompt shows."""
    elites: int = 20
    """Not used: the best are not looked for."""

    def __post_init__(self) -> None:
        refuse_counts(self.shown, 1)

    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[tuple[Experiment, ...]]:
        distinct: dict[str, Experiment] = {}
        for record in archive.records():
            if record.idea and record.status != MALFORMED:
                distinct.setdefault(record.tree or record.id, record)
        known = [*distinct.values()]
        most = min(self.shown, len(known))
        return [tuple(rng.sample(known, most)) for _ in range(count)]
