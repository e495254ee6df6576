"""The benchmark of the screen: a cell of each kind, the changed landscapes, and the table of its results."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape.edits import read_idea
from ideator_rl.envs.landscape.landscape import BASE, KNOBS, VALUES, spell
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.ideas import parse_idea
from ideator_rl.search.ideator import Ask

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import screen as benchmark
from screen_landscapes import PLAIN, VARIANTS, changed_landscape, evaluated_on, optimum
from screen_table import table


def random_ideas(count, seed=0):
    rng = random.Random(seed)
    return [
        sorted((knob, rng.randrange(VALUES)) for knob in rng.sample(range(KNOBS), rng.randint(1, 8)))
        for _ in range(count)
    ]


@pytest.mark.parametrize(("arm", "variant"), [("evolution", PLAIN), ("noise", PLAIN), ("genetic_x8", "noisy")])
def test_a_cell_runs_its_budget(arm, variant):
    cell = benchmark.run_cell(arm, "t0", 80, 0, variant)
    assert (cell["executed"], cell["arm"], cell["variant"]) == (80, arm, variant)
    # The first epoch of 64 ideas is unscreened; then a screen samples eight ideas for each that it runs.
    assert (cell["sampled"] > 160) == (arm != "evolution")
    assert cell["by_samples"]["16384"] == cell["score"]


def test_the_environments_evaluator_measures_the_changed_landscape():
    environment = load_environment("landscape")
    evaluator, listing = load_trusted(environment.root / environment.evaluator), environment.baseline("t0")
    noise = evaluator.measured(listing, {"seed": 1000}, 0) - BASE
    for variant, factor in (("noisy", 3), (PLAIN, 1)):
        with evaluated_on(variant):
            assert evaluator.measured(listing, {"seed": 1000}, 0) - BASE == pytest.approx(factor * noise)
    assert noise != 0 and evaluator.measured(listing, {"seed": 1000}, 0) - BASE == noise


def test_a_shift_moves_the_chance_of_complex_edits_alone():
    plain, likely, unlikely = (changed_landscape(name, 3) for name in (PLAIN, "likely", "unlikely"))
    for edit, chance in plain.success.items():
        shift = 0.1 if edit[0] >= 4 else 0.0
        assert likely.success[edit] == pytest.approx(chance + shift)
        assert unlikely.success[edit] == pytest.approx(chance - shift)
    assert max(likely.success.values()) <= 1.0
    assert likely.effect == unlikely.effect == plain.effect and likely.modules == plain.modules


def test_triple_noise_leaves_success_and_quality():
    plain, noisy = changed_landscape(PLAIN, 3), changed_landscape("noisy", 3)
    for idea in random_ideas(20):
        before, after, quality = plain.outcome(idea), noisy.outcome(idea), plain.quality(idea)
        assert after.succeeded == before.succeeded and noisy.quality(idea) == quality
        assert after.metric - quality == pytest.approx(3 * (before.metric - quality))


def test_deceptive_modules_cost_until_they_are_complete():
    plain, deceptive = changed_landscape(PLAIN, 3), changed_landscape("deceptive", 3)
    assert all(module.deceptive for module in deceptive.modules)
    for module in deceptive.modules:
        assert module.adds(module.edits) > 0 > module.adds(frozenset(list(module.edits)[:1]))
    for idea in random_ideas(200):
        assert deceptive.quality(idea) <= plain.quality(idea)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_optimum_is_not_exceeded(variant):
    landscape, best = changed_landscape(variant, 3), optimum(variant, 3)
    # The union of the modules on disjoint knobs is near the best idea; parts of it are good ideas.
    edits = [edit for module in landscape.modules if not module.decoy for edit in module.edits]
    rng = random.Random(1)
    trials = [rng.sample(edits, rng.randint(1, 10)) for _ in range(300)] + random_ideas(100)
    assert BASE < max(map(landscape.quality, trials)) <= best


def test_a_crossed_child_has_its_parents_edits():
    texts = ["k04v1 k05v1 k06v1", "k07v2 k08v2 k09v2"]
    shown = tuple(
        Experiment(
            id=str(at),
            status=SUCCEEDED,
            environment="landscape",
            preset="t0",
            idea=f"[Experiment] {text} [Code Changes] apply [End]",
        )
        for at, text in enumerate(texts)
    )
    ask = Ask("exploit", 200, shown=shown, salt="1")
    children = [dict(read_idea(parse_idea(text).experiment)) for text in asyncio.run(benchmark.Crossing().ideas(ask, None))]  # fmt: skip
    kept = sum(value == (1 if knob < 7 else 2) for child in children for knob, value in child.items() if 4 <= knob < 10)
    # Three of four of the six edits, less what mutations drop or overwrite; by chance alone a quarter would agree.
    assert 3.0 < kept / len(children) < 5.5
    assert len({spell(child.items()) for child in children}) > 100


def test_the_table_pairs_by_landscape():
    cells = [
        {
            "arm": arm, "preset": f"t{number}", "budget": 2048, "seed": 0, "score": 0.2 * number + bonus, "auc": 0.1,
            "sampled": 3000, "by_samples": {"512": 0.3 - bonus, "4096": 0.2 + bonus},
        }
        for number in range(3)
        for arm, bonus in (("evolution", 0.0), ("screen_x8", 0.1))
    ]  # fmt: skip
    cells.append({**cells[0], "preset": "s0", "variant": "noisy"})
    cells.append({**cells[0], "budget": 8192, "sampled": 9000, "by_samples": {"512": 0.3, "4096": 0.5}})
    equal_experiments, equal_samples = (part.splitlines()[2:] for part in table(cells, ["evolution", "screen_x8"]).split("\n\n"))  # fmt: skip
    assert equal_experiments == [
        "| 2048 | t, plain | evolution | 3 | 0.200 | 0.100 |  |  |  |  |",
        "| 2048 | t, plain | screen_x8 | 3 | 0.300 | 0.100 | +0.100 (+0.100 to +0.100) | 3 of 3 |  "
        "| +0.000 (+0.000 to +0.000) |",
        "| 2048 | s, noisy | evolution | 1 | 0.000 | 0.100 |  |  |  |  |",
        "| 8192 | t, plain | evolution | 1 | 0.000 | 0.100 |  |  |  |  |",
    ]
    assert equal_samples == [
        "| t, plain | screen_x8 | 2048, 2048 | 3 | 512 | 0.200 against 0.300 | -0.100 (-0.100 to -0.100) | 0 of 3 |",
        "| t, plain | screen_x8 | 2048, 2048 | 3 | 4096 (plain has ended) | 0.300 against 0.200 "
        "| +0.100 (+0.100 to +0.100) | 3 of 3 |",
        "| t, plain | screen_x8 | 2048, 8192 | 1 | 512 | 0.200 against 0.300 | -0.100 | 0 of 1 |",
        "| t, plain | screen_x8 | 2048, 8192 | 1 | 4096 | 0.300 against 0.500 | -0.200 | 0 of 1 |",
    ]
