"""The comparison with a weak ideator and that of the quickstart: arms, figures and tables, by hand."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import newcomer  # noqa: E402
import weak_cells  # noqa: E402
import weak_ideator  # noqa: E402
from collapse_cells import Enough, words  # noqa: E402
from weak_arms import ALL, ARMS, SEARCH, ideas_a_batch, keys_of  # noqa: E402
from weak_figures import area, commonest  # noqa: E402
from weak_table import cells_of, fill, seconds_of, table  # noqa: E402

from ideator_rl.search.config import load_search  # noqa: E402
from ideator_rl.training.recipe.recipe import load_recipe  # noqa: E402

THIRD = {"success": 0.5, "reward": 0.2, "distinct": None, "dispersion": 0.9, "commonest": 0.4, "thought": 3.0}


def cell(arm, seed, **figures):
    line = {
        "kind": "cell", "arm": arm, "seed": seed, "budget": 8, "seconds": 60, "resumed": False, "updates": 2,
        "proposed": 20, "sampled": 20, "executed": 8, "replayed": 2, "success": 0.5, "reward": 0.2, "mean": 2.6,
        "baseline": 2.6, "best": 2.4, "best_id": "a", "area": 0.1, "curve": [None, 2.4], "thirds": [THIRD] * 3,
        "runnable_after": None,
    }  # fmt: skip
    return line | figures


def rerun(arm, seed, values):
    return {"kind": "rerun", "arm": arm, "seed": seed, "budget": 8, "values": values, "baseline": [2.6, 2.7, 2.6]}


@pytest.mark.parametrize("name", ALL)
def test_the_keys_of_an_arm_make_a_recipe(name):
    arm = ALL[name]
    keys = words(keys_of(arm, 400) | {"output_dir": "runs/x"})
    if arm.kind == SEARCH:
        config = load_search("search_nanogpt_cpu.yaml", keys)
        assert (config.screen.over if config.screen else 1) == arm.over
        assert config.max_ideas == 8 * 400 * arm.over and config.quorum == 1.0
    else:
        recipe = load_recipe("default.yaml", [*keys, "--model_name_or_path", "x"])
        assert (recipe.ours.screen.over if recipe.ours.screen else 1) == arm.over
        assert recipe.generation_batch == ideas_a_batch(arm)
        batches = recipe.grpo["max_steps"] / recipe.steps_per_rollout
        assert batches * recipe.executed_share >= 8 * 400


def test_training_ends_before_the_batch_after_its_budget_and_counts_all_sessions():
    def record(id, tree="t", status="succeeded"):
        return SimpleNamespace(id=id, tree=tree, status=status)

    progress = weak_cells.Ending(2)
    progress.buffer = SimpleNamespace(
        history=[record("a"), record("a"), record("b", status="lost"), record("c", tree="")]
    )
    with progress.phase("generation"):
        pass
    progress.buffer.history.append(record("d", status="failed"))
    with progress.phase("update"):
        pass
    with pytest.raises(Enough):
        progress.phase("generation")


def test_the_area_is_the_mean_gain_and_a_short_run_keeps_its_last():
    assert area([None, 2.5, 2.9, 2.0], 2.6, 4) == pytest.approx((0 + 0.1 + 0 + 0.6) / 4)
    assert area([2.5], 2.6, 4) == pytest.approx(0.1)
    assert area([], 2.6, 4) is None and area([2.5], None, 4) is None


def test_the_two_commonest_kinds_of_change():
    rows = [SimpleNamespace(patch=patch) for patch in ["a1", "a2", "b1", "c1", "c2", "d1", "", ""]]
    assert commonest(rows, SimpleNamespace(cell=lambda patch: patch[0])) == pytest.approx(4 / 6)
    assert commonest([], SimpleNamespace(cell=str)) is None


def test_gains_are_paired_with_the_baseline_of_the_same_seed_and_arms_by_seed():
    lines = [cell("frozen", 0, area=0.1), cell("mix", 0, area=0.3), cell("mix", 1)]
    lines += [rerun("frozen", 0, [2.5, None, 2.4]), rerun("mix", 0, [2.1, 2.2, 2.1])]
    cells = cells_of(lines, 8)
    assert cells["frozen", 0]["gain"] == pytest.approx((0.1 + 0.2) / 2)
    assert cells["mix", 0]["gain"] == pytest.approx(0.5)
    text = table([*lines, {"kind": "ideator", "seed": 0, "sft_steps": 200, "sampled": 128, "runnable": 0.41}])
    assert "| mix − frozen | 1 | +0.000 | +0.000 | +0.350 | +0.200 |" in text
    assert "| 0 | 200 | 41% of 128 |" in text and "2 seeds" in text


def test_seconds_count_what_was_executed_in_runs_of_one_session():
    lines = [cell("mix", 0), cell("mix", 1, seconds=120), cell("mix", 2, seconds=999, resumed=True)]
    assert seconds_of(lines, "mix") == (15.0, 12)
    assert seconds_of(lines, "frozen")[1] == 0


def test_a_plan_names_the_cells_that_are_left(tmp_path):
    results = tmp_path / "results.jsonl"
    weak_cells.append(results, [cell("mix", 0)])
    options = SimpleNamespace(results=results, arms=["mix"], seeds=[0, 1, 2], budget=8)
    assert weak_ideator.plan(options).splitlines() == [
        "mix              2 cells left, 10.0 s an experiment, updates included (measured on 6 experiments)",
        "8 distinct experiments a cell: 0.0 hours",
    ]
    assert {tuple(weak_ideator.order_of([*ARMS], seed)) for seed in range(4)} != {tuple(ARMS)}
    assert weak_ideator.order_of([*ARMS], 1)[0] == [*ARMS][1]


def test_a_weak_ideator_is_the_first_with_enough_runnable_answers(tmp_path, monkeypatch):
    shares = {200: 0.2, 240: 0.35, 280: 0.5}
    monkeypatch.setattr(weak_cells, "ideator_of", lambda folder, seed, steps: steps)
    monkeypatch.setattr(weak_cells, "runnable_share", lambda folder, model, seed: shares[model])
    line = weak_cells.weak_ideator(tmp_path, 3, (200, 240, 280))
    assert (line["sft_steps"], line["runnable"], line["tried"]) == (240, 0.35, {"200": 0.2, "240": 0.35})


def test_the_quickstart_is_compared_by_thirds_and_in_spreads():
    timed = {"resumed": False, "seconds": 1}

    def line(arm, rewards, **more):
        return {"arm": arm, "seed": 101, "rewards": rewards, "success": rewards, **timed} | more

    again = {"again": [2.3, 2.3, None], "baseline_again": [2.6, 2.5, 2.7]}
    lines = [
        line("trained", [0.1, 0.2, None, 0.3, 0.4, 0.5], idea_rewards=[0.0, 0.5, 0.6], **again),
        line("frozen", [0.2] * 6, idea_rewards=[0.2, None, 0.4]),
        line("screened", [0.3] * 6, idea_rewards=[0.4, 0.4, 0.5]),
    ]
    assert newcomer.third(lines[0], "rewards", 0) == pytest.approx(0.15)
    assert newcomer.gain_of(lines[0]) == pytest.approx(0.25)
    assert newcomer.spread_of(lines) == pytest.approx(0.1)
    text = newcomer.table(lines)
    assert "| 101 | 0.150 → 0.450 | 0.200 → 0.200 | 0.150 → 0.450 | 2.300 | 2.5 |" in text
    assert "| trained, last third − first third | 1 | +0.300 | +0.600 |" in text and "3 spreads: 0 of 1." in text
    assert "| screened, last third − first third | 1 | +0.000 | +0.100 |" in text
    assert "| last third, trained − frozen | 1 | +0.250 | +0.200 |" in text
    assert "| last third, trained − screened | 1 | +0.150 | +0.100 |" in text


def test_all_arms_of_the_quickstart_run_equally_many_ideas():
    start = ["--model_name_or_path", "x"]
    trained = load_recipe("quickstart", [])
    frozen, screened = (
        load_recipe("quickstart", [*words(newcomer.KEYS[arm]), *start]) for arm in ("frozen", "screened")
    )
    own, plain = (recipe.grpo["per_device_train_batch_size"] for recipe in (trained, frozen))
    over = trained.ours.screen.over
    # The first step is not screened.
    assert own + (trained.grpo["max_steps"] - 1) * own // over == newcomer.IDEAS
    assert plain * frozen.grpo["max_steps"] == newcomer.IDEAS
    assert frozen.ours.screen is None and screened.ours.screen == trained.ours.screen


def test_a_table_replaces_that_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- weak -->\nold\n<!-- /weak -->\n<!-- newcomer -->\nb\n<!-- /newcomer -->\n")
    fill(page, "weak", "| new |")
    fill(page, "weak", "| newer |")
    assert (
        page.read_text() == "# A\n<!-- weak -->\n| newer |\n<!-- /weak -->\n<!-- newcomer -->\nb\n<!-- /newcomer -->\n"
    )
    with pytest.raises(SystemExit, match="<!-- other -->"):
        fill(page, "other", "text")
