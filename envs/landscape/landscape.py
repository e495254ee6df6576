"""An idea landscape: what an idea of the testbed is worth, in microseconds, with nothing run.

An idea is a set of edits; an edit gives one of D = 20 knobs one of V = 4 values, and an idea has 1 to 10 of them, no
knob twice.  Knobs 0 to 3 are simple, all others complex.

    success   Bernoulli(Π s_e), s_e = 0.97 for a simple edit, U(0.65, 0.90) for a complex one
    quality   q = max(0.05, B + Σ m_e + Σ h + 0.04 · max(0, complete modules − 1)), B = 0.5
    m_e       0.02 and 0.03 for the two popular ideas; else N(0, 0.006) if simple, N(−0.004, 0.008) if complex
    h         of each of 11 modules of specific edits: g when all n are there, g · (o/n)² when o ≥ 2 of them are; one of
              four that are deceptive gives −0.015 instead while it is begun and not complete
    g         0.06, 0.12, 0.20 for n = 2, 3, 4, times U(0.85, 1.15)
    metric    q + N(0, 0.005)

Five modules (4, 4, 3, 3, 2) cover the complex knobs; six decoys (2 or 3) want other values of the same knobs.  So the
best expected reward p · q is that of the two popular ideas together, although the best quality is twice as high: see
`certificate.py`, by which a draw is refused where that is not so.

Guarantees: a landscape is a function of its seed; an outcome of (landscape seed, idea, replicate); both the same on
every machine.  The popular ideas are the same in every landscape: they are what everybody tries first.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

KNOBS, VALUES, SIMPLE_KNOBS, MOST_EDITS = 20, 4, 4, 10
BASE, LEAST, BONUS, NOISE = 0.5, 0.05, 0.04, 0.005
SIMPLE_SUCCESS, COMPLEX_SUCCESS = 0.97, (0.65, 0.90)
SIZES, DECOYS, DECOY_SIZES, DECEPTIVE = (4, 4, 3, 3, 2), 6, (2, 3), 4
GAIN, GAIN_SPREAD, DECEPTION = {2: 0.06, 3: 0.12, 4: 0.20}, (0.85, 1.15), 0.015

Edit = tuple[int, int]
"""Knob and value."""

POPULAR: dict[Edit, float] = {(0, 1): 0.02, (1, 2): 0.03}
"""The two ideas that everybody tries first, and what each adds."""


@dataclass(frozen=True)
class Module:
    edits: frozenset[Edit]
    gain: float
    deceptive: bool
    decoy: bool

    def adds(self, idea: frozenset[Edit]) -> float:
        """h: what it adds to the quality of an idea."""
        held = len(self.edits & idea)
        if held == len(self.edits):
            return self.gain
        if self.deceptive:
            return -DECEPTION if held else 0.0
        return self.gain * (held / len(self.edits)) ** 2 if held >= 2 else 0.0


@dataclass(frozen=True)
class Outcome:
    """Of one run of an idea."""

    succeeded: bool
    metric: float
    """Quality and noise; what a failed run would have measured is not told to anybody."""


@dataclass(frozen=True)
class Landscape:
    seed: int
    success: dict[Edit, float]
    """s_e."""
    effect: dict[Edit, float]
    """m_e."""
    modules: tuple[Module, ...]

    def probability(self, idea: Iterable[Edit]) -> float:
        """p: that a run of the idea succeeds."""
        return math.prod(self.success[edit] for edit in idea)

    def quality(self, idea: Iterable[Edit]) -> float:
        """q, without noise: for benchmarks, never for an ideator."""
        edits = frozenset(idea)
        complete = sum(module.edits <= edits for module in self.modules)
        total = BASE + sum(self.effect[edit] for edit in edits) + sum(module.adds(edits) for module in self.modules)
        return max(LEAST, total + BONUS * max(0, complete - 1))

    def outcome(self, idea: Iterable[Edit], replicate: int = 0) -> Outcome:
        """What happens when an idea is run."""
        edits = sorted(set(idea))
        name = f"{self.seed}|{spelled(edits)}|{replicate}"
        luck, noise = _uniforms(name)
        return Outcome(luck < self.probability(edits), self.quality(edits) + NOISE * NormalDist().inv_cdf(noise))


def spelled(idea: Iterable[Edit]) -> str:
    """An idea as the ideator writes it: its edits, knobs ascending."""
    return " ".join(f"k{knob:02d}v{value}" for knob, value in sorted(idea))


def is_simple(idea: Iterable[Edit]) -> bool:
    """Whether an idea touches simple knobs only."""
    return all(knob < SIMPLE_KNOBS for knob, _ in idea)


def drawn(seed: int, attempt: int = 0) -> Landscape:
    """A landscape as it is drawn, whatever its certificate."""
    rng = random.Random(f"landscape {seed}:{attempt}")
    edits = [(knob, value) for knob in range(KNOBS) for value in range(VALUES)]
    success = {edit: SIMPLE_SUCCESS if edit[0] < SIMPLE_KNOBS else rng.uniform(*COMPLEX_SUCCESS) for edit in edits}
    effect = {edit: rng.gauss(0, 0.006) if edit[0] < SIMPLE_KNOBS else rng.gauss(-0.004, 0.008) for edit in edits}
    return Landscape(seed, success, effect | POPULAR, tuple(_modules(rng)))


@lru_cache(maxsize=64)
def landscape(seed: int) -> Landscape:
    """The landscape of a seed: its first draw that has the certificate."""
    from ideator_rl.envs.landscape.certificate import certificate

    attempt = 0
    while not certificate(found := drawn(seed, attempt)).holds:
        attempt += 1
    return found


def _modules(rng: random.Random) -> list[Module]:
    knobs = list(range(SIMPLE_KNOBS, KNOBS))
    rng.shuffle(knobs)
    wanted: list[list[Edit]] = []
    for size in SIZES:
        wanted.append([(knobs.pop(), rng.randrange(VALUES)) for _ in range(size)])
    taken = {edit for module in wanted for edit in module}
    for _ in range(DECOYS):
        free = {k: [v for v in range(VALUES) if (k, v) not in taken] for k in range(SIMPLE_KNOBS, KNOBS)}
        chosen = rng.sample([knob for knob, values in free.items() if values], rng.choice(DECOY_SIZES))
        decoy = [(knob, rng.choice(free[knob])) for knob in chosen]
        taken.update(decoy)
        wanted.append(decoy)
    deceptive = set(rng.sample(range(len(wanted)), DECEPTIVE))
    return [
        Module(frozenset(edits), GAIN[len(edits)] * rng.uniform(*GAIN_SPREAD), at in deceptive, at >= len(SIZES))
        for at, edits in enumerate(wanted)
    ]


def _uniforms(name: str) -> tuple[float, float]:
    """Two numbers above 0 and below 1 that a text decides."""
    raw = hashlib.blake2b(name.encode(), digest_size=16).digest()
    first, second = (int.from_bytes(part, "big") >> 11 for part in (raw[:8], raw[8:]))
    return (first + 0.5) / 2**53, (second + 0.5) / 2**53
