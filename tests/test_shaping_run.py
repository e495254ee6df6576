"""All shaping rewards in a run of our own trainer: options from the recipe, one record an idea, another option later."""

import json
import sqlite3
from pathlib import Path

import pytest

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.train import main

HERE = Path(__file__).parent
RECIPE = ["--config", str(HERE / "toy_recipe.yaml"), "--env", str(HERE / "toy_env"), "--report_to", "none"]
FUNCTIONS = ["length", "execution", "novelty", "similarity", "simplicity", "format"]
OPTIONS = {"length_cap": 4, "length_unit": "words", "novelty_embedder": "hashed", "simplicity_lines": 2.0}
WORDS = [
    *("--reward_funcs", json.dumps(FUNCTIONS), "--reward_weights", "[1, 1, 0.1, 0.3, 0.1, 0.1]"),
    *("--prompt_strategy", "random", "--free_prompts", "0.5", "--max_staleness", "1", "--max_steps", "3"),
]


def train(folder, options, *words):
    return main([*RECIPE, "--output_dir", str(folder), *WORDS, "--reward_options", json.dumps(options), *words])


def closings(folder):
    return [json.loads(line) for line in (folder / "rollouts/closings.jsonl").read_text().splitlines()]


def outcomes(closing):
    return [each for seat in closing["seats"] for each in seat["outcomes"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shaping") / "toy"
    assert train(folder, OPTIONS) == 0
    return folder


def test_every_row_has_a_reward_of_every_function(run):
    found = [each for closing in closings(run) for each in outcomes(closing)]
    assert len(found) == 12 and all(None not in each["rewards"] for each in found)
    ran = [each["rewards"] for each in found if each["status"] == SUCCEEDED]
    assert ran, "nothing to look at"
    for length, execution, novelty, similarity, simplicity, form in ran:
        assert execution > 0 and form == 1 and 0 <= novelty <= 1 and -1 <= similarity <= 0 and 0 <= length <= 0.3
        assert simplicity in (1 / 2, 1 / 3, 1 / 4), "one, two or three lines in the place of others"
    assert all(each["measured"] == each["rewards"][1] for each in found)


def test_no_idea_was_proposed_twice_for_the_sake_of_a_reward(run):
    with sqlite3.connect(run / "buffer.sqlite") as db:
        rows = db.execute("select step, count(*) from rollouts group by step").fetchall()
    assert rows == [(0, 4), (1, 4), (2, 4)]


def test_a_journaled_batch_holds_no_options_and_no_configuration(run):
    [row] = json.loads((run / "rollouts/000002/batch.json").read_text())["groups"]
    assert set(row) == {"prompt", "parents"}


def test_metrics_of_every_function_are_logged(run):
    assert all({"length/thought", "novelty/mean", "similarity/mean"} <= set(each["metrics"]) for each in closings(run))


def test_a_resumed_run_may_have_other_options(run, capsys):
    assert train(run, {"length_most": 0.0, "novelty_embedder": "hashed"}, "--resume", "--max_steps", "4") == 0
    assert all(each["rewards"][0] == 0.0 for each in outcomes(closings(run)[-1]))
