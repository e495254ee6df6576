"""The interface of a search strategy: what it sees, and the questions it answers with.

A strategy is pure: the same history and random numbers give the same questions.  It keeps no state, so that a killed
search goes on from its records; `rng` is seeded by the question's number.

A strategy of your own is a class with `asks`, created with the recipe's `strategy_options` as keyword arguments, and
named by its dotted path or an entry point of the group `ideator_rl.search_strategies`:

    @dataclass(frozen=True)
    class Greedy:
        shown: int = 1  # strategy_options: {shown: 2}

        def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
            best = tuple(history.archive.elites(self.shown))
            return [Ask(EXPLOIT if best else FREE, size, best) for size in history.batches(count)]
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.search.ideator import Ask, Subject, plugin_errors


@dataclass(frozen=True)
class History:
    """What a search knows when it asks."""

    archive: Archive
    """Every record, failures too; with `flow: epochs` as it was when the epoch began."""
    epoch: int = 0
    epoch_size: int = 80
    """Ideas of an epoch."""
    batch: int = 10
    """Ideas of one question, at most."""
    ideas: Sequence[str] = ()
    """The completions of this epoch so far, in the order of proposal."""
    ideas_by_kind: Mapping[str, int] = field(default_factory=dict)
    """How many of them answer questions of each kind."""
    subject: Subject | None = None

    @property
    def asked(self) -> Mapping[str, int]:
        """The name of `ideas_by_kind` in version 0.1.0."""
        return self.ideas_by_kind

    def batches(self, count: int) -> list[int]:
        """`count` ideas, split into questions of at most `batch`."""
        full, rest = divmod(count, self.batch)
        return [self.batch] * full + ([rest] if rest else [])


@runtime_checkable
class SearchStrategy(Protocol):
    def asks(self, history: History, count: int, rng: random.Random) -> list[Ask]:
        """The next questions, at least one, for `count` ideas in all; ideas beyond `count` are not asked for."""
        ...


def ask_strategy(strategy: SearchStrategy, name: str, history: History, room: int, rng: random.Random) -> list[Ask]:
    """The strategy's questions, cut to `room` ideas: an idea that would not be run is not paid for.

    Raises:
        IdeatorError: the strategy failed, returned objects that are no questions, or none.
    """
    with plugin_errors(f"The strategy {name}"):
        asks = list(strategy.asks(history, room, rng))
    # A plugin's questions are checked and cut here, so that the engine never exceeds a budget.
    fitting: list[Ask] = []
    wanted = room
    for ask in asks:
        if not _is_question(ask):
            raise IdeatorError(
                f"The strategy {name} returned {str(ask)[:200]}. Expected an Ask: a kind, a whole number of ideas, a "
                "tuple of experiments to show, and one of texts to avoid."
            )
        if (count := min(ask.count, room)) > 0:
            fitting.append(replace(ask, count=count))
            room -= count
    if not fitting:
        raise IdeatorError(f"The strategy {name} returned no question where {wanted} ideas were wanted.")
    return fitting


def _is_question(ask: object) -> bool:
    if not isinstance(ask, Ask) or not isinstance(ask.kind, str) or type(ask.count) is not int:
        return False
    if not isinstance(ask.shown, list | tuple) or not isinstance(ask.avoid, list | tuple):
        return False
    return all(isinstance(record, Experiment) for record in ask.shown) and all(isinstance(t, str) for t in ask.avoid)
