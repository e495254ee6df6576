"""What a search strategy sees, and what it answers with.

Guarantees asked of a strategy: pure selection.  The same history and the same random numbers give the same questions;
it keeps no state of its own, so that a search which was killed goes on from its records.  One of your own is a class
with `asks`, named by its dotted path or an entry point in the group `ideator_rl.search_strategies`, and made with the
recipe's `strategy_options` by name.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.search.ideator import Ask, Subject, blamed


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


def asks_of(strategy: SearchStrategy, name: str, history: History, room: int, rng: random.Random) -> list[Ask]:
    """What a strategy asks for, as far as there is room: nothing is asked, and paid for, that would not be run.

    Raises:
        IdeatorError: it failed, or gave something else than questions, or none.
    """
    with blamed(f"The strategy {name}"):
        asks = list(strategy.asks(history, room, rng))
    fitting: list[Ask] = []
    for ask in asks:
        if not _is_question(ask):
            raise IdeatorError(
                f"The strategy {name} gave {str(ask)[:200]}. Expected an Ask: a kind, a whole number of ideas, a tuple "
                "of experiments that are shown, and one of texts to avoid."
            )
        if (count := min(ask.count, room)) > 0:
            fitting.append(replace(ask, count=count))
            room -= count
    if not fitting:
        raise IdeatorError(f"The strategy {name} asked for nothing where {room} ideas were wanted.")
    return fitting


def _is_question(ask: object) -> bool:
    if not isinstance(ask, Ask) or not isinstance(ask.kind, str) or type(ask.count) is not int:
        return False
    if not isinstance(ask.shown, list | tuple) or not isinstance(ask.avoid, list | tuple):
        return False
    return all(isinstance(each, Experiment) for each in ask.shown) and all(isinstance(each, str) for each in ask.avoid)
