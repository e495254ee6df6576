"""Examples of answers to prompts that show past ideas, made up from the environment's catalogue, for a warm-up.

A model that only ever saw the bare prompt does not answer one that carries ideas.  Each example shows one or more ideas
and recombines them: some of their edits, at times with another value, and at times a new one.

Guarantees: a function of its arguments; no two edits of a target come from one family.  Not guaranteed: that
a target is any good.  The results in the prompts are made up, near the baseline: they teach the form, not what helps.
"""

from __future__ import annotations

import random

from ideator_rl.catalogue import Catalogue, environment_catalogue
from ideator_rl.catalogue_edits import Choice
from ideator_rl.environment import Environment
from ideator_rl.search.prompts import parent_prompt

KEEP, JITTER, NEW = 0.75, 0.2, 0.3
"""Chances that an edit is kept, that a kept number gets another value, and that an edit is added.  Our choice."""
MOST_EDITS = 3
SPREAD = 0.1
"""The made-up results lie within this fraction of the baseline's."""


def recombined_ideas(
    environment: Environment,
    preset: str,
    count: int,
    seed: int,
    kind: str = "short",
    shown: int = 2,
    baseline: float | None = None,
) -> list[tuple[str, str]]:
    """Prompts that show one to `shown` ideas, and answers that recombine them.

    Args:
        kind: which of the environment's prompts asks for an idea.
        baseline: its metric; without it no result is stated.

    Raises:
        CatalogueError: the environment has no catalogue.
    """
    catalogue, rng = environment_catalogue(environment), random.Random(seed)
    own = environment.prompt(preset, kind)
    rows = []
    for _ in range(count):
        parents = [catalogue.sample(rng, rng.choice((1, 1, 2, 2, 3))) for _ in range(rng.randint(1, max(1, shown)))]
        results = [None if baseline is None else baseline * (1 + rng.uniform(-SPREAD, SPREAD)) for _ in parents]
        told = [(catalogue.describe(parent, rng).text, result) for parent, result in zip(parents, results, strict=True)]
        child = _recombined(catalogue, parents, rng)
        prompt = parent_prompt(environment, own, told, baseline)
        rows.append((prompt, catalogue.describe(child, rng).text))
    return rows


def _recombined(catalogue: Catalogue, parents: list[list[Choice]], rng: random.Random) -> list[Choice]:
    pool = [choice for parent in parents for choice in parent]
    rng.shuffle(pool)
    kept = [_jittered(catalogue, choice, rng) for choice in pool if rng.random() < KEEP]
    if rng.random() < NEW or not kept:
        kept.insert(rng.randint(0, len(kept)), catalogue.sample(rng, 1)[0])
    families: dict[str, Choice] = {}
    for choice in kept:
        families.setdefault(catalogue.edits[choice.key].family, choice)
    return list(families.values())[:MOST_EDITS]


def _jittered(catalogue: Catalogue, choice: Choice, rng: random.Random) -> Choice:
    parameter = catalogue.edits[choice.key].parameter
    if parameter is None or rng.random() >= JITTER:
        return choice
    return Choice(choice.key, rng.choice(parameter.sample))
