"""Examples of answers to prompts that show past ideas, made up from the environment's catalogue, for a warm-up.

A model that only ever saw the bare prompt does not answer one that carries ideas.  Each example shows one or more ideas
and recombines them: some of their edits, at times with another value, and at times a new one.  What is kept is said
anew: in a trial of answers in the prompt's own words, fewer ideas of a small model held together
(docs/results/reuse.md).

Guarantees: a function of its arguments; no two edits of a target come from one family; at most one edit is of no shown
idea; a target is none of the shown ideas, if the catalogue allows another.  Not guaranteed: that a target is any good,
or that its edits can stand together (a percent or two cannot; to find out would take longer than all the rest).  The
results in the prompts are made up, each example's around a baseline of its own: they teach the form, not what helps.
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
"""Chances that an edit is kept, that a kept number gets another value, and that an edit is added.  Our choice."""
THOUGHT = 0.5
"""Share of answers with a short thought, as `idea_corpus` has it."""
MOST_EDITS = 3
SPREAD = 0.1
"""The made-up results lie within this fraction of the baseline's."""
TRIES = 20
"""Draws of a target before a copy of a shown idea is taken after all."""


def recombined_ideas(
    environment: Environment, preset: str, count: int, seed: int, kind: str = "short", shown: int = 2
) -> list[tuple[str, str]]:
    """Prompts that show one to `shown` ideas with results, and answers that recombine them, half with a short thought.

    Args:
        kind: which of the environment's prompts asks for an idea.

    Raises:
        CatalogueError: the environment has no catalogue.
    """
    catalogue, rng = environment_catalogue(environment), random.Random(seed)
    own = environment.prompt(preset, kind)
    rows = []
    for _ in range(count):
        parents = [catalogue.sample(rng, rng.choice((1, 1, 2, 2, 3))) for _ in range(rng.randint(1, max(1, shown)))]
        baseline = _value(environment, rng)
        told = [
            (catalogue.describe(parent, rng).text, baseline * (1 + rng.uniform(-SPREAD, SPREAD))) for parent in parents
        ]
        child = _child(Recombination(catalogue), parents, rng)
        idea = catalogue.describe(child, rng).text
        thought = rng.choice(THOUGHTS).format(family=catalogue.edits[child[0].key].family)
        answer = f"{thought} {idea}" if rng.random() < THOUGHT else idea
        rows.append((parent_prompt(environment, own, told, baseline), answer))
    return rows


def _value(environment: Environment, rng: random.Random) -> float:
    """A baseline's metric that the environment would believe."""
    low, high = environment.metric.plausible
    return rng.uniform(low, high) if math.isfinite(high - low) else rng.uniform(0, 1)


def _child(recombination: Recombination, parents: list[list[Choice]], rng: random.Random) -> list[Choice]:
    known = [set(parent) for parent in parents]
    for _ in range(TRIES):
        child = recombination.child(parents, rng)
        if set(child) not in known:
            break
    return child


@dataclass(frozen=True)
class Recombination:
    """Makes edits of the edits of others."""

    catalogue: Catalogue
    keep: float = KEEP
    jitter: float = JITTER
    new: float = NEW
    most_edits: int = MOST_EDITS
    one_a_family: bool = True
    """No two edits of one family, as in a free idea; else no edit twice, and some may not stand together."""

    def child(self, parents: list[list[Choice]], rng: random.Random) -> list[Choice]:
        """At least one edit."""
        pool = [choice for parent in parents for choice in parent]
        rng.shuffle(pool)
        kept = [self._jittered(choice, rng) for choice in pool if rng.random() < self.keep]
        if rng.random() < self.new or not kept:
            kept.insert(rng.randint(0, len(kept)), self.catalogue.sample(rng, 1)[0])
        chosen: dict[str, Choice] = {}
        for choice in kept:
            chosen.setdefault(self.catalogue.edits[choice.key].family if self.one_a_family else choice.key, choice)
        return list(chosen.values())[: self.most_edits]

    def _jittered(self, choice: Choice, rng: random.Random) -> Choice:
        parameter = self.catalogue.edits[choice.key].parameter
        others = [value for value in parameter.sample if value != choice.value] if parameter else []
        return Choice(choice.key, rng.choice(others)) if others and rng.random() < self.jitter else choice
