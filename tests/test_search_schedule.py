"""The schedule of evolution: scaled to the budget, the paper's by name, explicit keys first, and kept by a resumed run."""

from dataclasses import fields, replace

import pytest
import yaml
from search_runs import RandomEdits, configured

from ideator_rl.config.recipe_file import RecipeError
from ideator_rl.search.config import SearchConfig, load_search, saved_recipe
from ideator_rl.search.dry_run import dry_run
from ideator_rl.search.run import run_search
from ideator_rl.search.schedule import OPTIONS, Schedule, scaled, with_schedule
from ideator_rl.search.strategies import get_search_strategy
from ideator_rl.search.strategies.evolution import Evolution

OLD_RECIPE = {"strategy": "evolution", "strategy_options": None, "epoch_size": 80, "quorum": 0.3, "max_experiments": 12}
"""What version 0.1.0 saved of the keys that matter here: no schedule, but its default size of an epoch."""


class Edits(RandomEdits):
    @classmethod
    def from_settings(cls, settings, subject, ledger):
        return cls()


def evolution(**keys):
    return SearchConfig(env="toy", output_dir="runs/none", **keys)


def searched(folder, resume=False, **keys):
    """One session of evolution on a landscape; returns the recipe that it saved."""
    defaults = {"strategy": "evolution", "epoch_size": None, "quorum": None, "ideator": f"{__name__}.Edits"}
    run_search(configured(folder, **{**defaults, **keys}), resume=resume)
    return saved_recipe(folder)


@pytest.mark.parametrize("ideas", [800, 801, 10**9])
def test_from_800_ideas_on_the_scaled_schedule_is_the_papers(ideas):
    paper = with_schedule(evolution(schedule="paper", max_experiments=ideas))
    assert scaled(ideas) == Schedule() and Schedule().options() == {
        name: getattr(Evolution(), name) for name in OPTIONS
    }
    assert (paper.epoch_size, paper.quorum) == (80, 0.3)
    assert with_schedule(evolution(max_experiments=ideas)) == replace(paper, schedule="scaled")


def test_a_hundred_ideas_are_ten_epochs_that_exploit_the_best_few():
    # s = 1/8: 80/8; 0.8 - 0.0625; 0.75 - 0.03125; 0.9 - 0.0125; the least number of parents; 6 / (7/8)
    assert scaled(100) == Schedule(10, 0.74, 0.72, 0.89, 6, 7)
    # s = 1/2, of which the square is 1/4
    assert scaled(400) == Schedule(40, 0.55, 0.62, 0.85, 25, 50)


def test_the_numbers_of_every_budget_are_usable_and_approach_the_papers_step_by_step():
    rows = [scaled(ideas) for ideas in range(1, 801)]
    for before, after in zip(rows, rows[1:], strict=False):
        assert before.epoch_size <= after.epoch_size <= before.epoch_size + 1 and before.parents <= after.parents
        assert before.quorum >= after.quorum > before.quorum - 0.02
        assert (before.elites or 0) >= before.parents
        assert after.elites is None or before.elites <= after.elites
        Evolution(**before.options())  # raises where a number is out of its range


@pytest.mark.parametrize(
    ("keys", "ideas"),
    [
        ({"max_experiments": 100}, 100),
        ({"max_ideas": 100}, 100),
        ({"max_experiments": 100, "max_ideas": 60}, 60),
        ({"max_epochs": 5, "epoch_size": 20}, 100),
        ({"max_seconds": 60}, 800),
        ({"max_usd": 5, "max_experiments": 200}, 200),
    ],
)
def test_the_schedule_is_scaled_to_the_smallest_count_of_the_budget(keys, ideas):
    assert with_schedule(evolution(**keys)).strategy_options == scaled(ideas).options()


def test_a_budget_in_epochs_leaves_their_size_at_80():
    config = with_schedule(evolution(max_epochs=2))
    assert config.epoch_size == 80 and config.strategy_options == scaled(160).options()


def test_every_explicit_key_wins():
    keys = {"exploit_start": 0.1, "exploit_most": 0.2, "parents": 3, "elites": None}
    assert set(keys) == set(OPTIONS), "a new number of the schedule belongs into this test"
    for schedule in ("scaled", "paper"):
        config = with_schedule(
            evolution(max_experiments=100, schedule=schedule, epoch_size=5, quorum=0.0, strategy_options=keys)
        )
        assert (config.epoch_size, config.quorum, config.strategy_options) == (5, 0.0, keys)


def test_one_explicit_key_leaves_the_others_scaled():
    config = with_schedule(evolution(max_experiments=100, strategy_options={"parents": 2, "past": 5}))
    assert config.strategy_options == {**scaled(100).options(), "parents": 2, "past": 5}
    assert get_search_strategy("evolution", config.strategy_options).past == 5


@pytest.mark.parametrize("strategy", ["best_of_n", "map_elites", "puct"])
def test_other_strategies_have_no_schedule(strategy):
    config = with_schedule(evolution(strategy=strategy, max_experiments=100))
    assert (config.epoch_size, config.quorum, config.strategy_options) == (80, 0.3, None)


def test_twice_gives_the_same_as_once():
    config = with_schedule(evolution(max_experiments=100))
    assert with_schedule(config) == config and len(fields(Schedule)) == len(OPTIONS) + 2


def test_an_unknown_schedule_is_refused(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text("env: toy\noutput_dir: run\nmax_experiments: 9\nschedule: papers\n")
    with pytest.raises(RecipeError, match="schedule: 'papers'. Expected scaled or paper"):
        load_search(str(file))


def test_a_search_saves_its_numbers_and_keeps_them_with_a_larger_budget(tmp_path):
    saved = searched(tmp_path / "run", max_experiments=20)
    assert saved["schedule"] == "scaled" and saved["strategy_options"] == scaled(20).options()
    resumed = searched(tmp_path / "run", resume=True, max_experiments=60)
    assert resumed == {**saved, "max_experiments": 60}
    assert searched(tmp_path / "new", max_experiments=60)["strategy_options"] != saved["strategy_options"]


def test_the_saved_recipe_of_a_search_runs_the_same_search(tmp_path):
    saved = searched(tmp_path / "run", max_experiments=20)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({**saved, "output_dir": str(tmp_path / "again")}))
    run_search(tmp_path / "again.yaml")
    assert saved_recipe(tmp_path / "again") == {**saved, "output_dir": str(tmp_path / "again")}


def test_an_explicit_number_changes_a_resumed_search_and_the_size_of_its_epochs_does_not(tmp_path):
    saved = searched(tmp_path / "run", max_experiments=10)
    options = {"parents": 2}
    resumed = searched(tmp_path / "run", resume=True, max_experiments=12, strategy_options=options)
    assert resumed["strategy_options"] == {**saved["strategy_options"], **options}
    with pytest.raises(RecipeError, match="begun with epoch_size: 8"):
        searched(tmp_path / "run", resume=True, max_experiments=14, epoch_size=9)
    with pytest.raises(RecipeError, match="begun with schedule: 'scaled', and --resume asks for 'paper'"):
        searched(tmp_path / "run", resume=True, max_experiments=14, schedule="paper")


def test_a_run_of_0_1_0_goes_on_with_the_papers_numbers(tmp_path):
    config = with_schedule(evolution(max_experiments=100), OLD_RECIPE)
    assert config == with_schedule(evolution(max_experiments=100, schedule="paper"))
    own = {**OLD_RECIPE, "epoch_size": 6, "quorum": 1.0, "strategy_options": {"elites": 4}}
    config = with_schedule(evolution(max_experiments=100), own)
    assert (config.schedule, config.epoch_size, config.quorum) == ("paper", 6, 1.0)
    assert config.strategy_options == {**Schedule().options(), "elites": 4}


def test_a_search_that_goes_on_with_evolution_scales_its_numbers_but_not_its_epochs(tmp_path):
    searched(tmp_path / "run", max_experiments=10, strategy="best_of_n")
    resumed = searched(tmp_path / "run", resume=True, max_experiments=20)
    assert resumed["epoch_size"] == 80 and resumed["strategy_options"] == scaled(20).options()


def test_a_dry_run_shows_the_size_of_the_scaled_epochs(tmp_path):
    config = configured(tmp_path, strategy="evolution", epoch_size=None, max_experiments=100, isolation="none",
                        ideator=f"{__name__}.Edits")  # fmt: skip
    assert "epochs of 10 ideas" in dry_run(config)
