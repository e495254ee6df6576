"""Landscapes on which the benchmark of the screen is tested for robustness: one property of the testbed is changed.

    plain       as the presets are
    likely      every complex edit works more often by 0.1: U(0.75, 1.00)
    unlikely    every complex edit works less often by 0.1: U(0.55, 0.80)
    deceptive   all eleven modules are deceptive, not four: a module that is begun and not complete costs quality
    noisy       the metric's noise is three times as large

A changed landscape keeps seed, edits and effects of the preset.  Its best quality is the preset's own; on `deceptive`
it is searched for again.  The changed landscapes lack the certificate, which holds for the presets alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from unittest import mock

from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape.certificate import certificate, certified_landscape
from ideator_rl.envs.landscape.landscape import SIMPLE_KNOBS, Edit, Landscape, Outcome

PLAIN = "plain"
SHIFT, NOISE_FACTOR = 0.1, 3.0
_ROUNDING = 1e-9


class NoisyLandscape(Landscape):
    """A landscape whose metric has more noise; the same runs succeed."""

    def outcome(self, idea: list[Edit], replicate: int = 0) -> Outcome:  # type: ignore[override]
        outcome, quality = super().outcome(idea, replicate), self.quality(idea)
        return Outcome(outcome.succeeded, quality + NOISE_FACTOR * (outcome.metric - quality))


def _shifted(landscape: Landscape, shift: float) -> Landscape:
    """Simple edits keep their chance: above 1 there is none."""
    success = {edit: p if edit[0] < SIMPLE_KNOBS else min(1.0, p + shift) for edit, p in landscape.success.items()}
    assert min(success.values()) > _ROUNDING
    return replace(landscape, success=success)


def _deceptive(landscape: Landscape) -> Landscape:
    return replace(landscape, modules=tuple(replace(module, deceptive=True) for module in landscape.modules))


def _noisy(landscape: Landscape) -> Landscape:
    return NoisyLandscape(landscape.seed, landscape.success, landscape.effect, landscape.modules)


_CHANGES: dict[str, Callable[[Landscape], Landscape]] = {
    PLAIN: lambda landscape: landscape,
    "likely": lambda landscape: _shifted(landscape, SHIFT),
    "unlikely": lambda landscape: _shifted(landscape, -SHIFT),
    "deceptive": _deceptive,
    "noisy": _noisy,
}
VARIANTS = tuple(_CHANGES)


@lru_cache(maxsize=64)
def changed_landscape(variant: str, seed: int) -> Landscape:
    """The landscape of a preset's seed with one property changed."""
    return _CHANGES[variant](certified_landscape(seed))


@lru_cache(maxsize=64)
def optimum(variant: str, seed: int) -> float:
    """The best quality of a landscape."""
    # Chances and noise do not move it, and the search of `certificate` needs chances within the presets' bounds.
    return certificate(changed_landscape(variant if variant == "deceptive" else PLAIN, seed)).optimum


@contextlib.contextmanager
def evaluated_on(variant: str) -> Iterator[None]:
    """Within it, experiments are measured on the changed landscapes.

    The environment's files stay as they are, and with them its digest.  Variants must not share a bucket.
    """
    environment = load_environment("landscape")
    # The module is loaded once in a process: its function is replaced where it is called.
    evaluator = load_trusted(environment.root / environment.evaluator)
    with mock.patch.object(evaluator, "certified_landscape", lambda seed: changed_landscape(variant, seed)):
        yield
