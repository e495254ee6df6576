"""Ideators of benchmarks/schedules.py, which call no model, and the implementer of circle packing.

They recombine or change the ideas that a question shows, at random: what a search finds depends on what it shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from ideator_rl.archive.archive import Archive
from ideator_rl.environments.environment import Environment
from ideator_rl.envs.landscape.edits import read_idea
from ideator_rl.envs.landscape.landscape import KNOBS, MOST_EDITS, VALUES, spell
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import Idea, parse_idea
from ideator_rl.implementers.implementer import Implementation
from ideator_rl.patch import Tree, diff
from ideator_rl.search.ideator import Answer, Ask, Ideator

CIRCLES = Path(__file__).parent / "circles"
KEEP, CHANGE, NEW, MOST_FREE_EDITS = 0.75, 0.2, 0.3, 3
"""Chances that an edit of a parent is kept and changed, and that an edit of none is added: as in the catalogue."""


class LandscapeEdits(Ideator):
    """A few random edits; with parents, a recombination of one or two of them."""

    name = "landscape_edits"

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        rng = random.Random(ask.salt)
        return [_recombined(rng, ask.shown if ask.descends else ()) for _ in range(ask.count)]


def _recombined(rng: random.Random, shown: Sequence[Experiment]) -> Answer:
    parents = rng.sample(list(shown), min(len(shown), rng.choice((1, 2))))
    pool = [edit for parent in parents for edit in read_idea(parse_idea(parent.idea).experiment)]
    rng.shuffle(pool)
    edits: dict[int, int] = {}
    for knob, value in pool:
        if rng.random() < KEEP:
            edits.setdefault(knob, rng.randrange(VALUES) if rng.random() < CHANGE else value)
    new = int(rng.random() < NEW or not edits) if parents else rng.randint(1, MOST_FREE_EDITS)
    for knob in rng.sample(range(KNOBS), new):
        edits.setdefault(knob, rng.randrange(VALUES))
    chosen = list(edits.items())[:MOST_EDITS]
    return Answer(f"[Experiment] {spell(chosen)} [Code Changes] apply [End]", parents)


class Centres(Ideator):
    """The centres of a shown idea, or of the baseline, of which a few move by a random distance."""

    name = "centres"

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        rng = random.Random(ask.salt)
        baseline = (CIRCLES / "baseline" / "centres.txt").read_text()
        return [_moved(rng, ask.shown if ask.descends else (), baseline) for _ in range(ask.count)]


def _moved(rng: random.Random, shown: Sequence[Experiment], baseline: str) -> Answer:
    parents = (rng.choice(list(shown)),) if shown else ()
    text = parse_idea(parents[0].idea).experiment if parents else baseline
    centres = [[float(number) for number in line.split()] for line in text.strip().splitlines()]
    distance = 10 ** rng.uniform(-2.5, -0.5)
    for index in rng.sample(range(len(centres)), rng.choice((1, 2, 4, 8))):
        centres[index] = [min(1.0, max(0.0, value + rng.gauss(0, distance))) for value in centres[index]]
    listing = "\n".join(f"{x:.4f} {y:.4f}" for x, y in centres)
    return Answer(f"[Experiment] {listing} [Code Changes] write them to centres.txt [End]", parents)


class WriteCentres:
    """Writes the centres of an idea into the packing's list."""

    name = "write_centres"
    trusted = True

    def version(self, environment: Environment) -> str:
        return self.name

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        return Implementation(diff(base, {**base, "centres.txt": idea.experiment.strip() + "\n"}))
