"""The oracle reference of the collapse benchmark: a genetic algorithm on the encoding of ideas.

No language model and no words: it edits the table of knobs and values itself, never writes an idea that cannot be read,
and never proposes one twice.  It sees what every method sees, the observed metric of the ideas that it ran; it shows
what such feedback allows to an ideator without a prior, not what an ideator can do.

A child has two parents of the `elites` best.  It takes either's value at a knob that both set; at a knob that one sets,
that value in three of four cases; then, with the chance `mutation` each time, one change and another.
"""

from __future__ import annotations

import random
from typing import Any

from collapse_methods import BATCH
from collapse_records import Curve, curve_results

from ideator_rl.envs.landscape.certificate import certified_landscape
from ideator_rl.envs.landscape.landscape import KNOBS, MOST_EDITS, VALUES, Edit

Idea = dict[int, int]
"""Value by knob."""


def run_oracle(
    seed: int, budget: int, most: int, elites: int = 20, mutation: float = 0.5, first_edits: int = 4, chance: int = 0
) -> dict[str, Any]:
    """Search one landscape; what `collapse_records.read_cell` returns, without the steps.

    Args:
        seed: of the landscape.
        budget: unique experiments.
        most: ideas; it never repeats one, so that the budget ends first.
        elites: of the best successes that parents are drawn from.
        mutation: chance that one more change is made to a child, and after it another.
        first_edits: the most edits of an idea of the first batch, which has no parents.
        chance: seed of its own random numbers.
    """
    rng = random.Random(f"oracle {seed} {chance}")
    landscape, curve = certified_landscape(seed), Curve(certified_landscape(seed))
    tried: set[tuple[Edit, ...]] = set()
    pool: list[tuple[float, Idea]] = []
    while len(curve.scores) < min(budget, most):
        parents = sorted(pool, key=lambda scored: -scored[0])[:elites]
        for _ in range(min(BATCH, budget - len(curve.scores))):
            idea = _new(parents, tried, rng, mutation, first_edits)
            edits = sorted(idea.items())
            tried.add(tuple(edits))
            outcome = landscape.outcome(edits)
            curve.ran(edits, outcome.metric if outcome.succeeded else None)
            if outcome.succeeded:
                pool.append((outcome.metric, idea))
    return curve_results(curve, budget)


def _new(
    parents: list[tuple[float, Idea]], tried: set[tuple[Edit, ...]], rng: random.Random, mutation: float, most: int
) -> Idea:
    """An idea that has not been run."""
    while True:
        if len(parents) < 2:
            idea = {knob: rng.randrange(VALUES) for knob in rng.sample(range(KNOBS), rng.randint(1, most))}
        else:
            (_, mother), (_, father) = rng.sample(parents, 2)
            idea = crossed(mother, father, rng)
            while rng.random() < mutation:
                change(idea, rng)
        while len(idea) > MOST_EDITS:
            del idea[rng.choice(list(idea))]
        if idea and tuple(sorted(idea.items())) not in tried:
            return idea
        if len(parents) >= 2:  # a pool that has narrowed would be crossed forever
            mutation = min(0.9, mutation + 0.1)


def crossed(mother: Idea, father: Idea, rng: random.Random) -> Idea:
    """The child of two ideas; it may be empty."""
    child = {}
    for knob in mother.keys() | father.keys():
        values = [idea[knob] for idea in (mother, father) if knob in idea]
        if len(values) == 2 or rng.random() < 0.75:
            child[knob] = rng.choice(values)
    return child


def change(idea: Idea, rng: random.Random) -> None:
    """Drop an edit, or set a knob to a value."""
    if idea and rng.random() < 0.3:
        del idea[rng.choice(list(idea))]
    else:
        idea[rng.randrange(KNOBS)] = rng.randrange(VALUES)
