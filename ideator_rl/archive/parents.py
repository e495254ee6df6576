"""Prompt strategies: which past ideas every prompt shows.

Guarantees: the same archive and random numbers give the same parents; the ideas of one prompt are different codebases;
an empty archive gives empty tuples.  A strategy of your own is a class that is created as `cls(shown=…, elites=…)`,
named by its dotted path or an entry point of the group `ideator_rl.strategies`:

    class Newest:
        def __init__(self, shown: int, elites: int):
            self.shown, self.elites = shown, elites

        def parents(self, archive, count, rng):
            best = archive.elites(self.elites)
            newest = sorted(best, key=lambda record: record.finished)[-self.shown :]
            return [tuple(newest) for _ in range(count)]
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.registry import PluginError, plugin_code, require_members, resolve

Parents = tuple[Experiment, ...]


@runtime_checkable
class Strategy(Protocol):
    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[Parents]:
        """The ideas that each of `count` prompts shows; an empty tuple for a prompt without past ideas."""
        ...


@dataclass(frozen=True)
class TopK:
    """Parents drawn at random from the best elites, without repetition in a prompt."""

    shown: int = 2
    """Ideas in a prompt."""
    elites: int = 20
    """The best elites, from which parents are chosen."""

    def __post_init__(self) -> None:
        refuse_counts(self.shown, self.elites)

    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[Parents]:
        best = archive.elites(self.elites)
        size = min(self.shown, len(best))
        return [tuple(rng.sample(best, size)) for _ in range(count)]


@dataclass(frozen=True)
class Puct:
    """Parents of the highest score (TTT-Discover, arXiv 2601.16175):

        Q + c · range · P · √(1 + T) / (1 + n)

    Q      quality of the idea's best child; its own while no child succeeded
    range  of all qualities
    P      prior, falling linearly with the rank among the elites; sums to 1
    n      prompts that showed the idea or a descendant of it
    T      all prompts that showed ideas

    A chosen idea's ancestors and descendants are blocked for the rest of the batch, so that one lineage does not take
    all prompts.  Ours: a choice counts in n and T at once; when every idea is blocked, all are free again, since a
    batch may have more prompts than the archive has lineages.  Ties go to the better idea.  Uses no random numbers.
    """

    shown: int = 2
    """Ideas in a prompt."""
    elites: int = 20
    """The best elites, from which parents are chosen."""
    c: float = 1.0

    def __post_init__(self) -> None:
        refuse_counts(self.shown, self.elites)

    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[Parents]:
        del rng
        best = archive.elites(self.elites)
        size = min(self.shown, len(best))
        picker = _PuctBatch(archive, best, self.c)
        return [picker.prompt(size) for _ in range(count)]


def refuse_counts(shown: int, elites: int) -> None:
    """
    Raises:
        IdeatorError: `shown` is below 0, or `elites` below 1.
    """
    for name, value, least in (("shown", shown, 0), ("elites", elites, 1)):
        if value < least:
            raise IdeatorError(f"The strategy has {name}: {value}. Expected at least {least}.")


def puct(quality: float, weight: float, n: int, total: int) -> float:
    """The score of an idea.

    Args:
        quality: of its best child, or its own (Q).
        weight: c · range · P.
        n: prompts that showed the idea or a descendant of it.
        total: all prompts that showed ideas (T).
    """
    return quality + weight * math.sqrt(1 + total) / (1 + n)


class _PuctBatch:
    """The choices of one batch of prompts.  Lists are parallel to the elites, best first."""

    def __init__(self, archive: Archive, elites: list[Experiment], c: float):
        self._elites, span = elites, archive.span()
        width = span[1] - span[0] if span else 0.0
        ranks = range(len(elites), 0, -1)
        self._weights = [c * width * rank / sum(ranks) for rank in ranks]
        self._qualities = [archive.quality(archive.best_child(elite) or elite) or 0.0 for elite in elites]
        self._n = [archive.expansions(elite) for elite in elites]
        self._total = archive.prompts
        self._lineages = [archive.lineage(elite) for elite in elites]
        self._blocked: set[str] = set()
        """Trees of the lineages that this batch has used; emptied when no elite is left."""

    def prompt(self, size: int) -> Parents:
        picked: list[int] = []
        while len(picked) < size:
            free = [i for i, elite in enumerate(self._elites) if elite.tree not in self._blocked and i not in picked]
            # Every lineage is used: begin again, rather than show fewer ideas.
            if not free:
                self._blocked = set()
                continue
            picked.append(max(free, key=lambda i: (self._score(i), -i)))
            self._blocked |= self._lineages[picked[-1]]
        # Counted at once, so that the next prompt of this batch prefers other ideas.
        for index in picked:
            self._n[index] += 1
        self._total += 1
        return tuple(self._elites[index] for index in picked)

    def _score(self, index: int) -> float:
        return puct(self._qualities[index], self._weights[index], self._n[index], self._total)


def get_strategy(name: str, **settings: Any) -> Strategy:
    """A strategy by name (`BUILT_IN`), entry point, or dotted path of a class, created with these settings.

    Raises:
        UnknownName: no strategy has this name.
        IdeatorError: the strategy does not take these settings.
    """
    strategy_class = resolve("strategies", name, BUILT_IN)
    require_members("strategies", name, strategy_class, "parents")
    strategy: Strategy = create(name, strategy_class, settings)
    return strategy


def create(name: str, strategy_class: Any, options: dict[str, Any]) -> Any:
    """An instance of a strategy's class.

    Raises:
        IdeatorError: the class does not take these options.
    """
    try:
        with plugin_code(f"The strategy {name!r}"):
            return strategy_class(**options)
    except PluginError as error:
        if not isinstance(error.__cause__, TypeError):
            raise
        raise IdeatorError(
            f"The strategy {name} cannot be created with {', '.join(options) or 'no options'}: {error.__cause__}. "
            "Expected a class that takes these as keyword arguments."
        ) from error


BUILT_IN = {
    "top_k": "ideator_rl.archive.parents.TopK",
    "puct": "ideator_rl.archive.parents.Puct",
    "random": "ideator_rl.archive.random_past.RandomPast",
}
