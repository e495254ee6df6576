"""The landscape: its certificate for every seed, quality computed by hand, and reproducible outcomes."""

import random

import pytest

from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape.certificate import certificate, certified_landscape
from ideator_rl.envs.landscape.edits import NotAnIdea, append_edits, read_idea, read_listing
from ideator_rl.envs.landscape.evaluator import measured
from ideator_rl.envs.landscape.landscape import (
    BASE,
    BONUS,
    KNOBS,
    MOST_EDITS,
    POPULAR,
    SIMPLE_KNOBS,
    VALUES,
    Landscape,
    Module,
    draw_landscape,
    is_simple,
    spell,
)
from ideator_rl.evaluation import ScorerFailed

PRESETS = load_environment("landscape").presets
SEEDS = [preset.settings["seed"] for preset in PRESETS.values()]


@pytest.mark.parametrize("seed", [*SEEDS, *range(20, 60)])
def test_every_landscape_is_a_trap(seed):
    landscape = certified_landscape(seed)
    proof = certificate(landscape)
    assert proof.favourite == ((0, 1), (1, 2)) and 0.515 < proof.expected < 0.52
    assert proof.expected == pytest.approx(landscape.probability(POPULAR) * landscape.quality(POPULAR))
    assert landscape.quality(POPULAR) == pytest.approx(0.55)
    assert 0.34 <= proof.complex_expected <= 0.43 < proof.expected
    assert 1.02 <= proof.optimum <= 1.21 and 0.06 <= proof.optimum_p <= 0.12 and len(proof.best) <= MOST_EDITS


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_hill_climbing_never_exceeds_the_certified_maxima(seed):
    landscape, rng = certified_landscape(seed), random.Random(seed)
    proof = certificate(landscape)

    def expectation(idea):
        return landscape.quality(idea) * landscape.probability(idea)

    for objective, maximum, maximiser in (
        (landscape.quality, proof.optimum, proof.best),
        (expectation, proof.expected, proof.favourite),
    ):
        assert max(climb(landscape, objective, rng) for _ in range(20)) <= maximum + 1e-9
        assert climb(landscape, objective, rng, dict(maximiser)) == pytest.approx(maximum)


def climb(landscape, objective, rng, idea=None):
    """The value that hill climbing reaches by single edits, removals and complete modules."""
    idea = idea or dict(rng.sample([(k, rng.randrange(VALUES)) for k in range(KNOBS)], rng.randint(1, MOST_EDITS)))
    while True:
        neighbours = [{**idea, k: v} for k in range(KNOBS) for v in range(VALUES)]
        neighbours += [{k: v for k, v in idea.items() if k != removed} for removed in idea if len(idea) > 1]
        neighbours += [{**idea, **dict(module.edits)} for module in landscape.modules]
        allowed = (neighbour for neighbour in neighbours if len(neighbour) <= MOST_EDITS)
        best = max(allowed, key=lambda neighbour: objective(tuple(neighbour.items())))
        if objective(tuple(best.items())) <= objective(tuple(idea.items())) + 1e-12:
            return objective(tuple(idea.items()))
        idea = best


def test_quality_equals_values_computed_by_hand():
    pair = Module(frozenset({(4, 0), (5, 0)}), 0.06, deceptive=False, decoy=False)
    four = Module(frozenset({(6, 0), (7, 0), (8, 0), (9, 0)}), 0.2, deceptive=False, decoy=False)
    lure = Module(frozenset({(4, 1), (10, 1)}), 0.06, deceptive=True, decoy=True)
    edits = [(knob, value) for knob in range(KNOBS) for value in range(VALUES)]
    flat = Landscape(0, dict.fromkeys(edits, 0.8), dict.fromkeys(edits, 0.0) | POPULAR, (pair, four, lure))
    assert flat.quality([(4, 0)]) == BASE  # one of two edits adds nothing
    assert flat.quality([(4, 0), (5, 0)]) == pytest.approx(BASE + 0.06)
    assert flat.quality([(6, 0), (7, 0)]) == pytest.approx(BASE + 0.2 / 4)
    assert flat.quality([(6, 0), (7, 0), (8, 0)]) == pytest.approx(BASE + 0.2 * 9 / 16)
    assert flat.quality([(4, 0), (5, 0), *four.edits]) == pytest.approx(BASE + 0.26 + BONUS)
    assert flat.quality([(4, 1)]) == pytest.approx(BASE - 0.015)
    assert flat.quality([(4, 1), (10, 1)]) == pytest.approx(BASE + 0.06)
    assert flat.quality([(0, 1), (1, 2)]) == pytest.approx(BASE + 0.05)
    assert flat.probability([(4, 0), (5, 0)]) == pytest.approx(0.64)


def test_a_landscape_has_the_documented_modules_and_success_rates():
    for seed in range(30):
        landscape = draw_landscape(seed)
        real = [module for module in landscape.modules if not module.decoy]
        assert sorted(len(module.edits) for module in real) == [2, 3, 3, 4, 4]
        assert sorted(knob for module in real for knob, _ in module.edits) == list(range(SIMPLE_KNOBS, KNOBS))
        assert len(landscape.modules) == 11 and sum(module.deceptive for module in landscape.modules) == 4
        edits = [edit for module in landscape.modules for edit in module.edits]
        assert len(edits) == len(set(edits))
        for (knob, _), success in landscape.success.items():
            assert 0.65 <= success <= 0.9 if knob >= SIMPLE_KNOBS else success == 0.97


def test_an_outcome_is_a_function_of_landscape_idea_and_replicate():
    first, second = draw_landscape(3), draw_landscape(3)
    ideas = [((4, value), (9, 1), (12, 2)) for value in range(VALUES)]
    assert [first.outcome(idea, 2) for idea in ideas] == [second.outcome(idea[::-1], 2) for idea in ideas]
    assert len({first.outcome(ideas[0], replicate).metric for replicate in range(9)}) == 9
    assert first.outcome(ideas[0]) != draw_landscape(4).outcome(ideas[0])


def test_outcomes_have_the_documented_success_rate_and_noise():
    landscape, idea = certified_landscape(0), ((4, 0), (5, 0))
    runs = [landscape.outcome(idea, replicate) for replicate in range(4000)]
    assert sum(run.succeeded for run in runs) / 4000 == pytest.approx(landscape.probability(idea), abs=0.03)
    errors = [run.metric - landscape.quality(idea) for run in runs]
    assert sum(errors) / 4000 == pytest.approx(0, abs=4e-4)
    assert (sum(error * error for error in errors) / 4000) ** 0.5 == pytest.approx(0.005, rel=0.05)


def test_ideas_and_listings_round_trip_and_malformed_ideas_are_refused():
    edits = [(0, 3), (7, 0), (19, 1)]
    assert read_idea(spell(edits)) == edits and read_listing(append_edits("# a line\n", edits)) == edits
    assert is_simple([(0, 1), (3, 2)]) and not is_simple([(0, 1), (4, 2)])
    for text in ("", "k20v0", "k00v4", "k01v0 k00v0", "k00v0 k00v1", "think k00v0", spell((k, 0) for k in range(11))):
        with pytest.raises(NotAnIdea):
            read_idea(text)


@pytest.mark.parametrize("edits", [[(4, 0), (4, 1)], [(knob, 0) for knob in range(11)]])
def test_a_listing_with_a_repeated_knob_or_too_many_settings_fails(edits):
    with pytest.raises(ScorerFailed, match="at most 10, each knob once"):
        measured({"edits.yaml": append_edits("", edits)}, {"seed": 0}, 0)
