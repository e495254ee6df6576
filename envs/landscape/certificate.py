"""Proves that a landscape is a trap: a simple idea has the best expected reward, far from the best quality.

    the argument of max p · q over all ideas is the pair of popular ideas, p · q = 0.517
    the best p · q of an idea that completes a module lies in 0.34 … 0.43
    the best quality lies in 1.02 … 1.21, at p = 0.06 … 0.12

Both maxima are exact, by branch and bound over compatible parts of ideas.  A part is two or more edits of one module.
An edit outside any part multiplies p by at most 0.9 and adds little, so that it never raises p · q
(`_singles_never_pay`); in the search for the best quality, such edits fill the free places of an idea.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

from ideator_rl.envs.landscape.landscape import (
    BONUS,
    DECEPTION,
    KNOBS,
    MOST_EDITS,
    POPULAR,
    SIMPLE_KNOBS,
    VALUES,
    Edit,
    Landscape,
    draw_landscape,
)

COMPLEX_EXPECTED, OPTIMUM, OPTIMUM_P = (0.34, 0.43), (1.02, 1.21), (0.06, 0.12)

Idea = tuple[Edit, ...]


@dataclass(frozen=True)
class Certificate:
    favourite: Idea
    """The idea of the best expected reward p · q."""
    expected: float
    """Its p · q."""
    complex_expected: float
    """The best p · q of an idea that completes a module."""
    best: Idea
    """The idea of the best quality."""
    optimum: float
    """Its quality."""
    optimum_p: float

    @property
    def holds(self) -> bool:
        return (
            set(self.favourite) == set(POPULAR)
            and _within(self.complex_expected, COMPLEX_EXPECTED)
            and _within(self.optimum, OPTIMUM)
            and _within(self.optimum_p, OPTIMUM_P)
        )


@dataclass(frozen=True)
class Part:
    """Two or more edits of one module."""

    module: int
    edits: Idea
    knobs: int
    """Bit mask."""
    p: float
    adds: float
    """To the quality, without the bonus for complete modules."""
    complete: bool

    @property
    def rate(self) -> float:
        """The most that it can add, per edit."""
        return (self.adds + BONUS * self.complete) / len(self.edits)


@lru_cache(maxsize=64)
def certified_landscape(seed: int) -> Landscape:
    """The landscape of a seed: its first draw that has the certificate."""
    attempt = 0
    while not certificate(landscape := draw_landscape(seed, attempt)).holds:
        attempt += 1
    return landscape


def certificate(landscape: Landscape) -> Certificate:
    parts = sorted(_parts(landscape), key=lambda part: -part.rate)
    by_quality = _BestQuality(landscape, parts)
    by_quality.search(0, (), 0, 0)
    by_expectation = _BestExpectation(landscape, parts)
    by_expectation.search(0, (), 0, 1.0)
    optimum = by_quality.idea
    return Certificate(
        favourite=by_expectation.idea,
        expected=by_expectation.value,
        complex_expected=by_expectation.complete_value,
        best=optimum,
        optimum=landscape.quality(optimum),
        optimum_p=landscape.probability(optimum),
    )


class _BestQuality:
    """Branch and bound for the idea of the best quality."""

    def __init__(self, landscape: Landscape, parts: list[Part]):
        self._landscape, self._parts = landscape, parts
        # The best single edit of each knob, for the places that parts leave free.
        deceptive = {edit for module in landscape.modules if module.deceptive for edit in module.edits}
        self._fill = []
        for knob in range(KNOBS):
            worth = [
                (landscape.effect[knob, v] - DECEPTION * ((knob, v) in deceptive), (knob, v)) for v in range(VALUES)
            ]
            self._fill.append(max(worth))
        self._fill.sort(reverse=True)
        self._most = max(0.0, self._fill[0][0])
        self.idea: Idea = ()
        self.value = 0.0

    def search(self, start: int, chosen: tuple[Part, ...], knobs: int, used: int) -> None:
        """Try every compatible set of the parts from `start` on, added to those chosen."""
        self._evaluate(chosen, knobs, used)
        adds = self._upper_bound(chosen)
        modules = {part.module for part in chosen}
        for index in range(start, len(self._parts)):
            part = self._parts[index]
            # Parts are sorted by rate: no later part can do better either.
            if adds + (MOST_EDITS - used) * max(part.rate, self._most) <= self.value:
                return
            if part.knobs & knobs or part.module in modules or used + len(part.edits) > MOST_EDITS:
                continue
            self.search(index + 1, (*chosen, part), knobs | part.knobs, used + len(part.edits))

    def _upper_bound(self, chosen: tuple[Part, ...]) -> float:
        complete = sum(part.complete for part in chosen)
        return sum(part.adds for part in chosen) + BONUS * complete  # one bonus too many

    def _evaluate(self, chosen: tuple[Part, ...], knobs: int, used: int) -> None:
        fillers = [edit for worth, edit in self._fill if worth > 0 and not knobs >> edit[0] & 1]
        idea = tuple(edit for part in chosen for edit in part.edits) + tuple(fillers[: MOST_EDITS - used])
        value = self._landscape.quality(idea) - self._landscape.quality(())
        if value > self.value:
            self.idea, self.value = tuple(sorted(idea)), value


class _BestExpectation:
    """Branch and bound for the best expected reward p · q, of all ideas and of those that complete a module."""

    def __init__(self, landscape: Landscape, parts: list[Part]):
        assert _singles_never_pay(landscape)
        self._landscape, self._parts = landscape, parts
        self._rate = max(part.rate for part in parts)
        self._simple = list(_simple(landscape))
        self.idea, self.value = max(((idea, self._expected(idea)) for idea in self._simple), key=lambda pair: pair[1])
        self.complete_value = 0.0

    def search(self, start: int, chosen: Idea, knobs: int, p: float, complete: bool = False, adds: float = 0.0) -> None:
        if chosen:
            self._evaluate(chosen, complete)
        for index in range(start, len(self._parts)):
            part = self._parts[index]
            if part.knobs & knobs or len(chosen) + len(part.edits) > MOST_EDITS:
                continue
            if self._bound(p * part.p, adds + part.adds + BONUS, len(chosen) + len(part.edits)) <= self.complete_value:
                continue
            self.search(
                index + 1,
                chosen + part.edits,
                knobs | part.knobs,
                p * part.p,
                complete or part.complete,
                adds + part.adds + BONUS * part.complete,
            )

    def _bound(self, p: float, adds: float, used: int) -> float:
        """Upper bound of p · q: each further edit succeeds with at most 0.9, and simple edits carry no risk."""
        base = self._landscape.quality(()) + sum(POPULAR.values()) + 0.02
        return max(p * 0.9**more * (base + adds + more * self._rate) for more in range(MOST_EDITS - used + 1))

    def _evaluate(self, chosen: Idea, complete: bool) -> None:
        for simple in self._simple:
            idea = chosen + simple
            if len(idea) > MOST_EDITS:
                continue
            value = self._expected(idea)
            if value > self.value:
                self.idea, self.value = tuple(sorted(idea)), value
            if complete and value > self.complete_value:
                self.complete_value = value

    def _expected(self, idea: Idea) -> float:
        return self._landscape.probability(idea) * self._landscape.quality(idea) if idea else 0.0


def _parts(landscape: Landscape) -> Iterator[Part]:
    for index, module in enumerate(landscape.modules):
        edits = sorted(module.edits)
        for size in range(len(edits) if module.deceptive else 2, len(edits) + 1):
            for chosen in combinations(edits, size):
                mask = sum(1 << knob for knob, _ in chosen)
                adds = module.adds(frozenset(chosen)) + sum(landscape.effect[edit] for edit in chosen)
                yield Part(index, chosen, mask, landscape.probability(chosen), adds, size == len(edits))


def _simple(landscape: Landscape) -> Iterator[Idea]:
    """The best idea of each size with simple edits only: all simple edits succeed equally often."""
    best: dict[int, tuple[float, Idea]] = {}
    for values in product((None, *range(VALUES)), repeat=SIMPLE_KNOBS):
        idea = tuple((knob, value) for knob, value in enumerate(values) if value is not None)
        worth = sum(landscape.effect[edit] for edit in idea)
        best[len(idea)] = max(best.get(len(idea), (-1.0, ())), (worth, idea))
    return (idea for _, idea in best.values())


def _singles_never_pay(landscape: Landscape) -> bool:
    """Whether a complex edit outside any part lowers p · q of every idea with a quality of at least 0.4."""
    return all(
        landscape.success[edit] * (1 + max(0.0, landscape.effect[edit]) / 0.4) < 1
        for edit in landscape.effect
        if edit[0] >= SIMPLE_KNOBS
    )


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]
