"""Random past ideas, failures too: the dynamic prompts that Si et al. (arXiv 2601.14525) tried against collapse.

A prompt shows a sample of what happened, not good parents, so that prompts differ and show what works and what does
not.  One of the remedies that did not help in the paper.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.parents import refuse_counts
from ideator_rl.experiment import MALFORMED, Experiment


@dataclass(frozen=True)
class RandomPast:
    """Ideas drawn uniformly from the distinct codebases of the archive, and from the ideas without a codebase."""

    shown: int = 2
    """Ideas in a prompt."""
    elites: int = 20
    """Not used; accepted since every prompt strategy is created with it."""

    def __post_init__(self) -> None:
        refuse_counts(self.shown, 1)

    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[tuple[Experiment, ...]]:
        distinct: dict[str, Experiment] = {}
        for record in archive.records():
            if record.idea and record.status != MALFORMED:
                distinct.setdefault(record.tree or record.id, record)
        ideas = [*distinct.values()]
        size = min(self.shown, len(ideas))
        return [tuple(rng.sample(ideas, size)) for _ in range(count)]
