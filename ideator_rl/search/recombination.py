"""Examples of answers to prompts that show past ideas, made up from the environment's catalogue, for a warm-up.

A model that only ever saw the bare prompt does not answer one that carries ideas.  Each example shows one or more ideas
and recombines them: some of their edits, at times with another value, and at times a new one.  What is kept as it was
is kept in the words that it was shown in: a small model learns to look back by copying.

Guarantees: a function of its arguments; no two edits of a target come from one family; at most one edit is of no shown
idea; a target is none of the shown ideas, if the catalogue allows another.  Not guaranteed: that a target is any good,
or that its edits can stand together (a percent or two cannot; to find out would take longer than all the rest).  The
results in the prompts are made up, each example's around a baseline of its own: they teach the form, not what helps.
"""

from __future__ import annotations

import math
import random

from ideator_rl.catalogue import THOUGHTS, Catalogue, environment_catalogue
from ideator_rl.catalogue_edits import Choice
from ideator_rl.environment import Environment
from ideator_rl.ideas import Idea
from ideator_rl.search.prompts import parent_prompt

KEEP, JITTER, NEW = 0.75, 0.2, 0.3
"""Chances that an edit is kept, that a kept number gets another value, and that an edit is added.  Our choice."""
THOUGHT = 0.5
"""Share of answers with a short thought, as `idea_corpus` has it."""
MOST_EDITS = 3
SPREAD = 0.1
"""The made-up results lie within this fraction of the baseline's."""
TRIES = 20
"""Draws of a target before a copy of a shown idea is taken after all."""

Worded = tuple[Choice, Idea]
"""An edit, and the words for it alone."""


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
        parents = [
            [_worded(catalogue, choice, rng) for choice in catalogue.sample(rng, rng.choice((1, 1, 2, 2, 3)))]
            for _ in range(rng.randint(1, max(1, shown)))
        ]
        baseline = _value(environment, rng)
        told = [(_idea(parent), baseline * (1 + rng.uniform(-SPREAD, SPREAD))) for parent in parents]
        child = _child(catalogue, parents, rng)
        thought = rng.choice(THOUGHTS).format(family=catalogue.edits[child[0][0].key].family)
        answer = f"{thought} {_idea(child)}" if rng.random() < THOUGHT else _idea(child)
        rows.append((parent_prompt(environment, own, told, baseline), answer))
    return rows


def _value(environment: Environment, rng: random.Random) -> float:
    """A baseline's metric that the environment would believe."""
    low, high = environment.metric.plausible
    return rng.uniform(low, high) if math.isfinite(high - low) else rng.uniform(0, 1)


def _worded(catalogue: Catalogue, choice: Choice, rng: random.Random) -> Worded:
    return choice, catalogue.describe([choice], rng)


def _idea(edits: list[Worded]) -> str:
    return Idea(" ".join(said.experiment for _, said in edits), " ".join(said.changes for _, said in edits)).text


def _child(catalogue: Catalogue, parents: list[list[Worded]], rng: random.Random) -> list[Worded]:
    known = [{choice for choice, _ in parent} for parent in parents]
    for _ in range(TRIES):
        child = _recombined(catalogue, parents, rng)
        if {choice for choice, _ in child} not in known:
            break
    return child


def _recombined(catalogue: Catalogue, parents: list[list[Worded]], rng: random.Random) -> list[Worded]:
    pool = [edit for parent in parents for edit in parent]
    rng.shuffle(pool)
    kept = [_jittered(catalogue, edit, rng) for edit in pool if rng.random() < KEEP]
    if rng.random() < NEW or not kept:
        kept.insert(rng.randint(0, len(kept)), _worded(catalogue, catalogue.sample(rng, 1)[0], rng))
    families: dict[str, Worded] = {}
    for edit in kept:
        families.setdefault(catalogue.edits[edit[0].key].family, edit)
    return list(families.values())[:MOST_EDITS]


def _jittered(catalogue: Catalogue, edit: Worded, rng: random.Random) -> Worded:
    key, value = edit[0].key, edit[0].value
    parameter = catalogue.edits[key].parameter
    others = [other for other in parameter.sample if other != value] if parameter else []
    if not others or rng.random() >= JITTER:
        return edit
    return _worded(catalogue, Choice(key, rng.choice(others)), rng)
