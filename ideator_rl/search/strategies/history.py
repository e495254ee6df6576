"""What a search strategy sees, and what it answers with.

Guarantees asked of a strategy: pure selection.  The same history and the same random numbers give the same questions;
it keeps no state of its own, so that a search which was killed goes on from its records.  One of your own is a class
with `asks`, named by its dotted path or an entry point in the group `ideator_rl.search_strategies`, and made with the
recipe's `strategy_options` by name.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ideator_rl.search.archive import Archive
from ideator_rl.search.asking import Ask, Subject


@dataclass(frozen=True)
class History:
    archive: Archive
    """What is known: every record, failures too; in a search by epochs, as it was when the epoch began."""
    epoch: int = 0
    epoch_size: int = 80
    """Ideas of an epoch."""
    batch: int = 10
    """The most ideas of one question."""
    ideas: Sequence[str] = ()
    """Of this epoch, those that were proposed already, in their order."""
    asked: Mapping[str, int] = field(default_factory=dict)
    """How many of them answer questions of each kind."""
    subject: Subject | None = None

    def batches(self, count: int) -> list[int]:
        """`count` ideas in questions of at most a batch."""
        whole, rest = divmod(count, self.batch)
        return [self.batch] * whole + ([rest] if rest else [])


class SearchStrategy(Protocol):
    def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
        """The next questions, for `count` ideas in all; fewer are possible, none is not."""
        ...
