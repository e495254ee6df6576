"""Synthetic examples of answers to prompts that show past ideas, for a warm-up, from the environment's catalogue.

A model that only saw the bare prompt does not answer one with past ideas.  Each example shows one or more ideas and
recombines them: some of their edits, sometimes with another value, and sometimes a new edit.  Kept edits are described
in new words: with the prompt's own words, fewer ideas of a small model were coherent (docs/results/reuse.md).

Guarantees: a function of the arguments; the edits of an answer come from distinct families; at most one of them is in
no shown idea; an answer differs from the shown ideas, if the catalogue allows it.  Not guaranteed: that an answer is
good, or that its edits can be applied together (1 to 2 % cannot; checking would take longer than everything else).  The
results in the prompts are random, around a random baseline for each example: they teach the form, not what helps.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from ideator_rl.archive.prompts import parent_prompt
from ideator_rl.environments.catalogue.catalogue import THOUGHTS, Catalogue, environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import Environment

KEEP, JITTER, NEW = 0.75, 0.2, 0.3
"""Probabilities that an edit is kept, that a kept number gets another value, and that an edit is added; our choice."""
THOUGHT = 0.5
"""Share of the answers with a short thought, as in `idea_corpus`."""
MOST_EDITS = 3
SPREAD = 0.1
"""Random results differ from the baseline's by at most this fraction."""
TRIES = 20
"""Draws of an answer before a copy of a shown idea is accepted."""


def recombined_ideas(
    environment: Environment,
    preset: str,
    count: int,
    seed: int,
    kind: str = "short",
    most_parents: int = 2,
    own: str | None = None,
) -> list[tuple[str, str]]:
    """Prompts that show one to `most_parents` ideas with results, and answers that recombine them.

    Half of the answers have a short thought.

    Args:
        kind: which of the environment's prompts asks for an idea.
        own: that prompt, where it is not as the environment has it.

    Raises:
        CatalogueError: the environment has no catalogue.
    """
    environment = environment.at(preset)
    catalogue, rng = environment_catalogue(environment), random.Random(seed)
    own = environment.prompt(preset, kind) if own is None else own
    rows = []
    for _ in range(count):
        parents = [
            catalogue.sample(rng, rng.choice((1, 1, 2, 2, 3))) for _ in range(rng.randint(1, max(1, most_parents)))
        ]
        # A random baseline in the range that the environment accepts.
        low, high = environment.metric.plausible
        baseline = rng.uniform(low, high) if math.isfinite(high - low) else rng.uniform(0, 1)
        results = [
            (catalogue.describe(parent, rng).text, baseline * (1 + rng.uniform(-SPREAD, SPREAD))) for parent in parents
        ]
        child = _child(Recombination(catalogue), parents, rng)
        idea = catalogue.describe(child, rng).text
        thought = rng.choice(THOUGHTS).format(family=catalogue.edits[child[0].key].family)
        answer = f"{thought} {idea}" if rng.random() < THOUGHT else idea
        rows.append((parent_prompt(environment, own, results, baseline), answer))
    return rows


def _child(recombination: Recombination, parents: list[list[Choice]], rng: random.Random) -> list[Choice]:
    parent_edits = [set(parent) for parent in parents]
    for _ in range(TRIES):
        child = recombination.child(parents, rng)
        if set(child) not in parent_edits:
            break
    return child


@dataclass(frozen=True)
class Recombination:
    """Makes a new idea from the edits of others."""

    catalogue: Catalogue
    keep: float = KEEP
    jitter: float = JITTER
    new: float = NEW
    most_edits: int = MOST_EDITS
    one_a_family: bool = True
    """At most one edit of each family, as in a free idea; if false, no edit twice, and some may conflict."""

    def child(self, parents: list[list[Choice]], rng: random.Random) -> list[Choice]:
        """The child's edits, at least one."""
        pool = [choice for parent in parents for choice in parent]
        rng.shuffle(pool)
        edits = [self._jittered(choice, rng) for choice in pool if rng.random() < self.keep]
        if rng.random() < self.new or not edits:
            edits.insert(rng.randint(0, len(edits)), self.catalogue.sample(rng, 1)[0])
        chosen: dict[str, Choice] = {}
        for choice in edits:
            chosen.setdefault(self.catalogue.edits[choice.key].family if self.one_a_family else choice.key, choice)
        return list(chosen.values())[: self.most_edits]

    def _jittered(self, choice: Choice, rng: random.Random) -> Choice:
        parameter = self.catalogue.edits[choice.key].parameter
        values = [value for value in parameter.sample if value != choice.value] if parameter else []
        return Choice(choice.key, rng.choice(values)) if values and rng.random() < self.jitter else choice
