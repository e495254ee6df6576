"""How parents are chosen for prompts: a strategy looks at the archive and names, for every prompt, the ideas it shows.

Guarantees: pure selection; the same archive and the same random numbers give the same parents; the ideas of one prompt
are different codebases; an empty archive gives empty tuples.  A strategy of one's own is a class that is made as
`cls(shown=…, elites=…)` and has the method of `Strategy`, named by its dotted path or an entry point in the group
`ideator_rl.strategies`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.registry import resolve

Parents = tuple[Experiment, ...]


@runtime_checkable
class Strategy(Protocol):
    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[Parents]:
        """For each of `count` prompts, the ideas that it shows; none for a prompt without."""
        ...


@dataclass(frozen=True)
class TopK:
    """Parents drawn at random, without repetition in a prompt, from the best distinct elites."""

    shown: int = 2
    """Ideas that a prompt shows."""
    elites: int = 20
    """How many of the best elites it chooses from."""

    def __post_init__(self) -> None:
        refuse_counts(self.shown, self.elites)

    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[Parents]:
        best = archive.elites(self.elites)
        most = min(self.shown, len(best))
        return [tuple(rng.sample(best, most)) for _ in range(count)]


@dataclass(frozen=True)
class Puct:
    """Parents of the highest score (TTT-Discover, arXiv 2601.16175):

        Q + c · range · P · √(1 + T) / (1 + n)

    Q is the quality of an idea's best child, its own while no child succeeded; range that of all qualities; P the
    prior, which falls linearly with the rank among the elites and sums to 1; n the prompts that showed the idea or a
    descendant of it; T all prompts that showed ideas.  Once an idea is chosen, its ancestors and descendants are out
    for the rest of the batch, so that one lineage does not take all.  Ours: a choice counts in n and T at once, and
    when nobody is left all are in again, since a batch may have more prompts than the archive has lineages.  Ties go
    to the better idea; no random number is used.
    """

    shown: int = 2
    """Ideas that a prompt shows."""
    elites: int = 20
    """How many of the best elites it chooses from."""
    c: float = 1.0

    def __post_init__(self) -> None:
        refuse_counts(self.shown, self.elites)

    def parents(self, archive: Archive, count: int, rng: random.Random) -> list[Parents]:
        del rng
        best = archive.elites(self.elites)
        most = min(self.shown, len(best))
        picker = _Picker(archive, best, self.c)
        return [picker.prompt(most) for _ in range(count)]


def refuse_counts(shown: int, elites: int) -> None:
    """
    Raises:
        IdeatorError: fewer ideas are to be shown than none, or chosen from none.
    """
    for name, value, least in (("shown", shown, 0), ("elites", elites, 1)):
        if value < least:
            raise IdeatorError(f"The strategy has {name}: {value}. Expected at least {least}.")


def puct(quality: float, weight: float, n: int, total: int) -> float:
    """The score of an idea.

    Args:
        quality: of its best child, or its own.
        weight: c · range · P.
    """
    return quality + weight * math.sqrt(1 + total) / (1 + n)


class _Picker:
    """The choices of one batch, best elite first."""

    def __init__(self, archive: Archive, elites: list[Experiment], c: float):
        self._elites, span = elites, archive.span()
        width = span[1] - span[0] if span else 0.0
        ranks = range(len(elites), 0, -1)
        self._weights = [c * width * rank / sum(ranks) for rank in ranks]
        self._qualities = [archive.quality(archive.best_child(elite) or elite) or 0.0 for elite in elites]
        self._n = [archive.expansions(elite) for elite in elites]
        self._total = archive.prompts
        self._kin = [archive.kin(elite) for elite in elites]
        self._blocked: set[str] = set()

    def prompt(self, most: int) -> Parents:
        picked: list[int] = []
        while len(picked) < most:
            free = [i for i, elite in enumerate(self._elites) if elite.tree not in self._blocked and i not in picked]
            if not free:
                self._blocked = set()
                continue
            picked.append(max(free, key=lambda i: (self._score(i), -i)))
            self._blocked |= self._kin[picked[-1]]
        for index in picked:
            self._n[index] += 1
        self._total += 1
        return tuple(self._elites[index] for index in picked)

    def _score(self, index: int) -> float:
        return puct(self._qualities[index], self._weights[index], self._n[index], self._total)


def get_strategy(name: str, **settings: Any) -> Strategy:
    """A strategy by name (`BUILT_IN`), entry point, or dotted path of a class, made with the settings given.

    Raises:
        UnknownName: nothing is known by that name.
        IdeatorError: it does not take these settings.
    """
    made = resolve("strategies", name, BUILT_IN)
    try:
        strategy: Strategy = made(**settings)
    except TypeError as error:
        raise IdeatorError(
            f"The strategy {name} cannot be made with {', '.join(settings) or 'no settings'}: {error}. Expected a "
            "class that takes these by name."
        ) from error
    return strategy


BUILT_IN = {
    "top_k": "ideator_rl.archive.parents.TopK",
    "puct": "ideator_rl.archive.parents.Puct",
    "random": "ideator_rl.archive.random_past.RandomPast",
}
