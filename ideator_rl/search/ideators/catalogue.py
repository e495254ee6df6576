"""The ideator `catalogue`: samples and recombines the environment's known edits in words; no model is asked.

A question that shows nothing is answered with edits drawn at random; one that is to be improved on with a
recombination of one or two of the ideas shown: some of their edits, at times with another value, at times a new edit.
One that explores is answered with edits that the ideas shown use least.  It is the offline default, and a floor to
beat: it knows what can be said, and nothing of what helps.

Guarantees: a question with its salt has one answer, given what is known; edits stand together and change the
baseline; what is known or was answered before by this ideator is avoided, as long as the catalogue allows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.idea_edits import KnownEdits
from ideator_rl.archive.recombination import Recombination
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.experiment import Experiment
from ideator_rl.patch import PatchError, tree_hash
from ideator_rl.search.ideator import EXPLORE, Answer, Ask, Subject
from ideator_rl.search.ideators.settings import Check, checked, number
from ideator_rl.storage.ledger import Ledger

TRIES = 30
"""Draws of one idea: of a recombination before a free idea takes its place, of a free one before it may be known."""
DRAWS = 4
"""Of so many the one whose edits were used least is said, where a question explores."""
SIZES = (1, 1, 1, 2, 2, 3)
"""How many edits a free idea has, drawn from these: those of the warm-up's corpus."""


@dataclass(frozen=True)
class Settings:
    keep: float = 0.75
    """Chance that an edit of a shown idea is kept."""
    jitter: float = 0.2
    """Chance that a kept number gets another value."""
    new: float = 0.3
    """Chance that an edit of none of them is added."""
    two: float = 0.5
    """Chance that two of the shown ideas are crossed, where several are shown."""
    most_edits: int = 6
    """Of an idea that recombines others."""


_CHANCE: Check = (lambda value: number(0)(value) and value <= 1, "a number from 0 to 1")
CHECKS: dict[str, Check] = {
    **dict.fromkeys(("keep", "jitter", "new", "two"), _CHANCE),
    "most_edits": (number(1, whole=True), "a whole number of at least 1"),
}


class CatalogueIdeator:
    name = "catalogue"

    def __init__(self, settings: Settings, subject: Subject):
        """
        Raises:
            CatalogueError: the environment has no catalogue.
        """
        self._settings = settings
        self._known = KnownEdits(subject.environment, subject.preset)
        self._base = tree_hash(self._known.base)
        self._recombination = Recombination(
            self._known.catalogue, settings.keep, settings.jitter, settings.new, settings.most_edits, False
        )
        self._said: set[str] = set()
        """Trees of what was answered before, or is to be avoided."""
        self._avoided: set[str] = set()

    @classmethod
    def from_settings(cls, settings: dict[str, Any], subject: Subject, ledger: Ledger) -> CatalogueIdeator:
        """
        Raises:
            IdeatorError: an unknown setting, or one that is no chance or count.
        """
        return cls(Settings(**checked(cls.name, settings, CHECKS)), subject)

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        rng = random.Random(ask.salt)
        self.remember(ask.avoid)
        if ask.kind == EXPLORE:
            used = Counter(choice.key for shown in ask.shown for choice in self._known.of(shown.idea))
            return [Answer(self._say(self._new(rng, archive, used), rng), ()) for _ in range(ask.count)]
        shown = [record for record in ask.shown if self._known.of(record.idea)]
        return [self._answer(shown, archive, rng) for _ in range(ask.count)]

    def close(self) -> None:
        pass

    def remember(self, texts: Sequence[str]) -> None:
        """Say none of these again; what a search answered in earlier sittings is told by it."""
        for text in texts:
            if text not in self._avoided and (choices := self._known.of(text)):
                self._avoided.add(text)
                self._said.add(self._tree(list(choices)))

    def _answer(self, shown: Sequence[Experiment], archive: Archive, rng: random.Random) -> Answer:
        if not shown:
            return Answer(self._say(self._new(rng, archive), rng), ())
        many = 2 if len(shown) > 1 and rng.random() < self._settings.two else 1
        for _ in range(TRIES):
            parents = rng.sample(shown, many)
            child = self._recombination.child([list(self._known.of(parent.idea)) for parent in parents], rng)
            if self._fresh(child, archive):
                return Answer(self._say(child, rng), parents)
        return Answer(self._say(self._new(rng, archive), rng), ())  # all that they lead to is known

    def _new(self, rng: random.Random, archive: Archive, used: Counter[str] | None = None) -> list[Choice]:
        """Edits at random; of several draws that of which the fewest were used, where that is asked for."""
        fresh: list[list[Choice]] = []
        for _ in range(TRIES):
            drawn = self._known.catalogue.sample(rng, rng.choice(SIZES))
            if self._fresh(drawn, archive):
                fresh.append(drawn)
            if len(fresh) == (DRAWS if used else 1):
                break
        return min(fresh, key=lambda choices: _use(choices, used or Counter()), default=drawn)

    def _fresh(self, choices: list[Choice], archive: Archive) -> bool:
        """Whether these edits stand together and lead to a codebase that nobody tried."""
        tree = self._tree(choices)
        return tree not in ("", self._base) and tree not in self._said and not archive.knows(tree)

    def _tree(self, choices: list[Choice]) -> str:
        """The codebase that these edits lead to; empty where they do not stand together."""
        try:
            return tree_hash(self._known.catalogue.apply(self._known.base, choices))
        except PatchError:
            return ""

    def _say(self, choices: list[Choice], rng: random.Random) -> str:
        self._said.add(self._tree(choices))
        return self._known.catalogue.describe(choices, rng).text


def _use(choices: list[Choice], used: Counter[str]) -> float:
    """How often edits were used, the mean of them."""
    return sum(used[choice.key] for choice in choices) / len(choices)
