"""An idea landscape: the outcome of an idea of the testbed, in microseconds, without running anything.

An idea is a set of edits; an edit gives one of D = 20 knobs one of V = 4 values, and an idea has 1 to 10 of them, no
knob twice.  Knobs 0 to 3 are simple, all others complex.

    success   Bernoulli(Π s_e), s_e = 0.97 for a simple edit, U(0.65, 0.90) for a complex one
    quality   q = max(0.05, B + Σ m_e + Σ h + 0.04 · max(0, complete modules − 1)), B = 0.5
    m_e       0.02 and 0.03 for the two popular ideas; else N(0, 0.006) if simple, N(−0.004, 0.008) if complex
    h         for each of 11 modules of specific edits: g for a complete module of n edits, g · (o/n)² for o ≥ 2 of
              them; a deceptive module (four of the 11) adds −0.015 instead while it is incomplete and not empty
    g         0.06, 0.12, 0.20 for n = 2, 3, 4, times U(0.85, 1.15)
    metric    q + N(0, 0.005)

Five modules (4, 4, 3, 3, 2 edits) cover the complex knobs; six decoys (2 or 3) need other values of the same knobs.  So
the two popular ideas together have the best expected reward p · q, although the best quality is twice as high;
`certificate.py` rejects a draw for which this does not hold.

Guarantees: a landscape is a function of its seed, and an outcome of landscape seed, idea and replicate; both are the
same on every machine.  The popular ideas are the same in every landscape: ideas that every ideator tries first.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

KNOBS, VALUES, SIMPLE_KNOBS, MOST_EDITS = 20, 4, 4, 10
BASE, LEAST, BONUS, NOISE = 0.5, 0.05, 0.04, 0.005
SIMPLE_SUCCESS, COMPLEX_SUCCESS = 0.97, (0.65, 0.90)
SIZES, DECOYS, DECOY_SIZES, DECEPTIVE = (4, 4, 3, 3, 2), 6, (2, 3), 4
GAIN, GAIN_SPREAD, DECEPTION = {2: 0.06, 3: 0.12, 4: 0.20}, (0.85, 1.15), 0.015

Edit = tuple[int, int]
"""Knob and value."""

POPULAR: dict[Edit, float] = {(0, 1): 0.02, (1, 2): 0.03}
"""The two popular ideas, and what each adds to the quality."""


@dataclass(frozen=True)
class Module:
    edits: frozenset[Edit]
    gain: float
    deceptive: bool
    decoy: bool

    def adds(self, idea: frozenset[Edit]) -> float:
        """h: what it adds to the quality of an idea."""
        present = len(self.edits & idea)
        if present == len(self.edits):
            return self.gain
        if self.deceptive:
            return -DECEPTION if present else 0.0
        return self.gain * (present / len(self.edits)) ** 2 if present >= 2 else 0.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run of an idea."""

    succeeded: bool
    metric: float
    """Quality with noise.  Of a failed run it must not be shown to an ideator."""


@dataclass(frozen=True)
class Landscape:
    seed: int
    success: dict[Edit, float]
    """s_e."""
    effect: dict[Edit, float]
    """m_e."""
    modules: tuple[Module, ...]

    def probability(self, idea: Iterable[Edit]) -> float:
        """p: the probability that a run of the idea succeeds."""
        return math.prod(self.success[edit] for edit in idea)

    def quality(self, idea: Iterable[Edit]) -> float:
        """q, without noise; only for benchmarks."""
        edits = frozenset(idea)
        complete = sum(module.edits <= edits for module in self.modules)
        total = BASE + sum(self.effect[edit] for edit in edits) + sum(module.adds(edits) for module in self.modules)
        return max(LEAST, total + BONUS * max(0, complete - 1))

    def outcome(self, idea: Iterable[Edit], replicate: int = 0) -> Outcome:
        """The outcome of running an idea."""
        edits = sorted(set(idea))
        name = f"{self.seed}|{spell(edits)}|{replicate}"
        luck, noise = _uniforms(name)
        return Outcome(luck < self.probability(edits), self.quality(edits) + NOISE * NormalDist().inv_cdf(noise))


def spell(idea: Iterable[Edit]) -> str:
    """The idea in the ideator's notation: its edits, knobs ascending."""
    return " ".join(f"k{knob:02d}v{value}" for knob, value in sorted(idea))


def is_simple(idea: Iterable[Edit]) -> bool:
    """Whether an idea touches simple knobs only."""
    return all(knob < SIMPLE_KNOBS for knob, _ in idea)


def draw_landscape(seed: int, attempt: int = 0) -> Landscape:
    """A random landscape, which may lack the certificate; see `certificate.certified_landscape`."""
    rng = random.Random(f"landscape {seed}:{attempt}")
    edits = [(knob, value) for knob in range(KNOBS) for value in range(VALUES)]
    success = {edit: SIMPLE_SUCCESS if edit[0] < SIMPLE_KNOBS else rng.uniform(*COMPLEX_SUCCESS) for edit in edits}
    effect = {edit: rng.gauss(0, 0.006) if edit[0] < SIMPLE_KNOBS else rng.gauss(-0.004, 0.008) for edit in edits}
    return Landscape(seed, success, effect | POPULAR, tuple(_modules(rng)))


def _modules(rng: random.Random) -> list[Module]:
    knobs = list(range(SIMPLE_KNOBS, KNOBS))
    rng.shuffle(knobs)
    modules: list[list[Edit]] = []
    for size in SIZES:
        modules.append([(knobs.pop(), rng.randrange(VALUES)) for _ in range(size)])
    # Decoys take values that no module before them has.
    taken = {edit for module in modules for edit in module}
    for _ in range(DECOYS):
        free = {k: [v for v in range(VALUES) if (k, v) not in taken] for k in range(SIMPLE_KNOBS, KNOBS)}
        chosen = rng.sample([knob for knob, values in free.items() if values], rng.choice(DECOY_SIZES))
        decoy = [(knob, rng.choice(free[knob])) for knob in chosen]
        taken.update(decoy)
        modules.append(decoy)
    deceptive = set(rng.sample(range(len(modules)), DECEPTIVE))
    return [
        Module(frozenset(edits), GAIN[len(edits)] * rng.uniform(*GAIN_SPREAD), i in deceptive, i >= len(SIZES))
        for i, edits in enumerate(modules)
    ]


def _uniforms(name: str) -> tuple[float, float]:
    """Two numbers above 0 and below 1, from the hash of a text."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    first, second = (int.from_bytes(half, "big") >> 11 for half in (digest[:8], digest[8:]))
    return (first + 0.5) / 2**53, (second + 0.5) / 2**53
