"""The ideator `catalogue`: samples and recombines the edits of the environment's catalogue; calls no model.

free      edits drawn at random
exploit   a recombination of one or two shown ideas: some of their edits, sometimes with another value, sometimes a new
          edit
explore   edits that the shown ideas use least

The offline default, and a baseline for other ideators: it can name every edit and does not learn which of them help.

Guarantees: a question with its salt has one answer for one archive; the edits of an idea can be applied together and
change the baseline.  Codebases in the archive and earlier answers, also those that a screen did not run, are not
repeated while the catalogue has others.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic.dataclasses import dataclass

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.idea_edits import IdeaEdits
from ideator_rl.archive.recombination import Recombination
from ideator_rl.config.base import Config, Count, Fraction, read_config
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.experiment import Experiment
from ideator_rl.patch import PatchError, tree_hash
from ideator_rl.search.ideator import EXPLORE, Answer, Ask, Ideator, Subject
from ideator_rl.storage.ledger import Ledger

TRIES = 30
"""Draws of one idea: of a recombination before a free idea replaces it, of a free one before it may be a repeat."""
DRAWS = 4
"""Fresh draws of an explore question, of which the one with the least used edits is taken."""
SIZES = (1, 1, 1, 2, 2, 3)
"""Numbers of edits that a free idea draws from: those of the warm-up's corpus."""


@dataclass(frozen=True)
class CatalogueSettings(Config):
    """How shown ideas are recombined."""

    keep: Fraction = 0.75
    """Chance that an edit of a shown idea is kept."""
    jitter: Fraction = 0.2
    """Chance that a kept number gets another value."""
    new: Fraction = 0.3
    """Chance that an edit of none of the shown ideas is added."""
    two: Fraction = 0.5
    """Chance that two shown ideas are crossed, where several are shown."""
    most_edits: Count = 6
    """Edits of an idea that recombines others, at most."""


class CatalogueIdeator(Ideator):
    name = "catalogue"

    def __init__(self, settings: CatalogueSettings, subject: Subject):
        """
        Raises:
            CatalogueError: the environment has no catalogue.
        """
        self._settings = settings
        self._edits = IdeaEdits(subject.environment, subject.preset)
        self._base = tree_hash(self._edits.base)
        self._recombination = Recombination(
            self._edits.catalogue, settings.keep, settings.jitter, settings.new, settings.most_edits, False
        )
        self._used_trees: set[str] = set()
        """Trees of earlier answers and of ideas to avoid."""
        self._remembered: set[str] = set()
        """Texts whose trees are in `_used_trees`."""

    @classmethod
    def from_settings(cls, settings: dict[str, Any], subject: Subject, ledger: Ledger) -> CatalogueIdeator:
        """
        Raises:
            IdeatorError: an unknown setting, or one that is no chance or count.
        """
        return cls(read_config(CatalogueSettings, settings, "The settings of the ideator catalogue have"), subject)

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        # Seeded by the question alone: asked again after a kill, it has the same answer.
        rng = random.Random(ask.salt)
        self.remember(ask.avoid)
        if ask.kind == EXPLORE:
            uses = Counter(choice.key for record in ask.shown for choice in self._edits.of(record.idea))
            return [Answer(self._describe(self._draw(rng, archive, uses), rng), ()) for _ in range(ask.count)]
        # Only ideas that the catalogue can read can be recombined.
        parents = [record for record in ask.shown if self._edits.of(record.idea)]
        return [self._answer(parents, archive, rng) for _ in range(ask.count)]

    def remember(self, texts: Sequence[str]) -> None:
        """Do not propose these again."""
        for text in texts:
            if text not in self._remembered and (choices := self._edits.of(text)):
                self._remembered.add(text)
                self._used_trees.add(self._tree(list(choices)))

    def _answer(self, candidates: Sequence[Experiment], archive: Archive, rng: random.Random) -> Answer:
        """A recombination of one or two of the candidates; a free idea if all recombinations are repeats."""
        if not candidates:
            return Answer(self._describe(self._draw(rng, archive), rng), ())
        # New parents at every try: the recombinations of one pair may all be known.
        count = 2 if len(candidates) > 1 and rng.random() < self._settings.two else 1
        for _ in range(TRIES):
            parents = rng.sample(candidates, count)
            child = self._recombination.child([list(self._edits.of(parent.idea)) for parent in parents], rng)
            if self._is_new(child, archive):
                return Answer(self._describe(child, rng), parents)
        return Answer(self._describe(self._draw(rng, archive), rng), ())

    def _draw(self, rng: random.Random, archive: Archive, uses: Counter[str] | None = None) -> list[Choice]:
        """Edits at random.

        Args:
            uses: by edit; of `DRAWS` new draws, the one with the least used edits is returned.
        """
        new_draws: list[list[Choice]] = []
        for _ in range(TRIES):
            choices = self._edits.catalogue.sample(rng, rng.choice(SIZES))
            if self._is_new(choices, archive):
                new_draws.append(choices)
            if len(new_draws) == (DRAWS if uses else 1):
                break
        return min(new_draws, key=lambda choices: _mean_uses(choices, uses or Counter()), default=choices)

    def _is_new(self, choices: list[Choice], archive: Archive) -> bool:
        """Whether these edits can be applied together and lead to a codebase that was not proposed before."""
        tree = self._tree(choices)
        return tree not in ("", self._base) and tree not in self._used_trees and not archive.knows(tree)

    def _tree(self, choices: list[Choice]) -> str:
        """Hash of the codebase with these edits; empty if they cannot be applied together."""
        try:
            return tree_hash(self._edits.catalogue.apply(self._edits.base, choices))
        except PatchError:
            return ""

    def _describe(self, choices: list[Choice], rng: random.Random) -> str:
        self._used_trees.add(self._tree(choices))
        return self._edits.catalogue.describe(choices, rng).text


def _mean_uses(choices: list[Choice], uses: Counter[str]) -> float:
    return sum(uses[choice.key] for choice in choices) / len(choices)
