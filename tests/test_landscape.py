"""The landscape: its certificate for every seed, its rules by hand, and outcomes that depend on nothing else."""

import random

import pytest

from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape.certificate import certificate
from ideator_rl.envs.landscape.edits import NotAnIdea, listed, listing, read
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
    drawn,
    is_simple,
    landscape,
    spelled,
)
from ideator_rl.evaluation import ScorerFailed

PRESETS = load_environment("landscape").presets
SEEDS = [preset.settings["seed"] for preset in PRESETS.values()]


@pytest.mark.parametrize("seed", [*SEEDS, *range(20, 60)])
def test_every_landscape_is_a_trap(seed):
    found = landscape(seed)
    told = certificate(found)
    assert told.favourite == ((0, 1), (1, 2)) and 0.515 < told.expected < 0.52
    assert told.expected == pytest.approx(found.probability(POPULAR) * found.quality(POPULAR))
    assert found.quality(POPULAR) == pytest.approx(0.55)
    assert 0.34 <= told.complex_expected <= 0.43 < told.expected
    assert 1.02 <= told.optimum <= 1.21 and 0.06 <= told.optimum_p <= 0.12 and len(told.best) <= MOST_EDITS


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_no_climb_finds_more_than_the_certificate_says(seed):
    found, rng = landscape(seed), random.Random(seed)
    told = certificate(found)
    for what, most in (
        (found.quality, told.optimum),
        (lambda idea: found.quality(idea) * found.probability(idea), told.expected),
    ):
        best = max(climbed(found, what, rng) for _ in range(20))
        assert best <= most + 1e-9
        start = told.best if what == found.quality else told.favourite
        assert climbed(found, what, rng, dict(start)) == pytest.approx(most)


def climbed(found, what, rng, idea=None):
    """Hill climbing by single edits, removals and whole modules."""
    idea = idea or dict(rng.sample([(k, rng.randrange(VALUES)) for k in range(KNOBS)], rng.randint(1, MOST_EDITS)))
    while True:
        near = [{**idea, k: v} for k in range(KNOBS) for v in range(VALUES)]
        near += [{k: v for k, v in idea.items() if k != gone} for gone in idea if len(idea) > 1]
        near += [{**idea, **dict(module.edits)} for module in found.modules]
        best = max((one for one in near if len(one) <= MOST_EDITS), key=lambda one: what(tuple(one.items())))
        if what(tuple(best.items())) <= what(tuple(idea.items())) + 1e-12:
            return what(tuple(idea.items()))
        idea = best


def test_quality_by_hand():
    pair = Module(frozenset({(4, 0), (5, 0)}), 0.06, deceptive=False, decoy=False)
    four = Module(frozenset({(6, 0), (7, 0), (8, 0), (9, 0)}), 0.2, deceptive=False, decoy=False)
    lure = Module(frozenset({(4, 1), (10, 1)}), 0.06, deceptive=True, decoy=True)
    edits = [(knob, value) for knob in range(KNOBS) for value in range(VALUES)]
    flat = Landscape(0, dict.fromkeys(edits, 0.8), dict.fromkeys(edits, 0.0) | POPULAR, (pair, four, lure))
    assert flat.quality([(4, 0)]) == BASE  # one of two is nothing yet
    assert flat.quality([(4, 0), (5, 0)]) == pytest.approx(BASE + 0.06)
    assert flat.quality([(6, 0), (7, 0)]) == pytest.approx(BASE + 0.2 / 4)
    assert flat.quality([(6, 0), (7, 0), (8, 0)]) == pytest.approx(BASE + 0.2 * 9 / 16)
    assert flat.quality([(4, 0), (5, 0), *four.edits]) == pytest.approx(BASE + 0.26 + BONUS)
    assert flat.quality([(4, 1)]) == pytest.approx(BASE - 0.015)
    assert flat.quality([(4, 1), (10, 1)]) == pytest.approx(BASE + 0.06)
    assert flat.quality([(0, 1), (1, 2)]) == pytest.approx(BASE + 0.05)
    assert flat.probability([(4, 0), (5, 0)]) == pytest.approx(0.64)


def test_a_landscape_has_the_stated_shape():
    for seed in range(30):
        one = drawn(seed)
        real = [module for module in one.modules if not module.decoy]
        assert sorted(len(module.edits) for module in real) == [2, 3, 3, 4, 4]
        assert sorted(knob for module in real for knob, _ in module.edits) == list(range(SIMPLE_KNOBS, KNOBS))
        assert len(one.modules) == 11 and sum(module.deceptive for module in one.modules) == 4
        every = [edit for module in one.modules for edit in module.edits]
        assert len(every) == len(set(every))
        assert all(0.65 <= s <= 0.9 if knob >= SIMPLE_KNOBS else s == 0.97 for (knob, _), s in one.success.items())


def test_an_outcome_is_a_function_of_landscape_idea_and_replicate():
    one, other = drawn(3), drawn(3)
    ideas = [((4, value), (9, 1), (12, 2)) for value in range(VALUES)]
    assert [one.outcome(idea, 2) for idea in ideas] == [other.outcome(idea[::-1], 2) for idea in ideas]
    assert len({one.outcome(ideas[0], replicate).metric for replicate in range(9)}) == 9
    assert one.outcome(ideas[0]) != drawn(4).outcome(ideas[0])


def test_outcomes_have_the_stated_success_and_noise():
    one, idea = landscape(0), ((4, 0), (5, 0))
    runs = [one.outcome(idea, replicate) for replicate in range(4000)]
    assert sum(run.succeeded for run in runs) / 4000 == pytest.approx(one.probability(idea), abs=0.03)
    off = [run.metric - one.quality(idea) for run in runs]
    assert sum(off) / 4000 == pytest.approx(0, abs=4e-4)
    assert (sum(x * x for x in off) / 4000) ** 0.5 == pytest.approx(0.005, rel=0.05)


def test_edits_are_read_as_they_are_written():
    edits = [(0, 3), (7, 0), (19, 1)]
    assert read(spelled(edits)) == edits and listed(listing("# a line\n", edits)) == edits
    assert is_simple([(0, 1), (3, 2)]) and not is_simple([(0, 1), (4, 2)])
    for text in ("", "k20v0", "k00v4", "k01v0 k00v0", "k00v0 k00v1", "think k00v0", spelled((k, 0) for k in range(11))):
        with pytest.raises(NotAnIdea):
            read(text)


@pytest.mark.parametrize("edits", [[(4, 0), (4, 1)], [(knob, 0) for knob in range(11)]])
def test_a_codebase_that_no_idea_leads_to_fails_whoever_wrote_it(edits):
    with pytest.raises(ScorerFailed, match="at most 10, each knob once"):
        measured({"edits.yaml": listing("", edits)}, {"seed": 0}, 0)
