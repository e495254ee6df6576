"""All shaping rewards in a run of our trainer: options of the recipe, one record an idea, other options after a resume."""

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


def train(folder, options, *arguments):
    return main([*RECIPE, "--output_dir", str(folder), *WORDS, "--reward_options", json.dumps(options), *arguments])


def closings(folder):
    return [json.loads(line) for line in (folder / "rollouts/closings.jsonl").read_text().splitlines()]


def outcomes(closing):
    return [row for seat in closing["seats"] for row in seat["outcomes"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shaping") / "toy"
    assert train(folder, OPTIONS) == 0
    return folder


def test_every_row_has_a_reward_of_every_function(run):
    rows = [row for closing in closings(run) for row in outcomes(closing)]
    assert len(rows) == 12 and all(None not in row["rewards"] for row in rows)
    ran = [row["rewards"] for row in rows if row["status"] == SUCCEEDED]
    assert ran, "nothing to look at"
    for length, execution, novelty, similarity, simplicity, form in ran:
        assert execution > 0 and form == 1 and 0 <= novelty <= 1 and -1 <= similarity <= 0 and 0 <= length <= 0.3
        assert simplicity in (1 / 2, 1 / 3, 1 / 4), "one, two or three lines in the place of others"
    assert all(row["measured"] == row["rewards"][1] for row in rows)


def test_no_idea_was_proposed_twice(run):
    with sqlite3.connect(run / "buffer.sqlite") as db:
        rows = db.execute("select step, count(*) from rollouts group by step").fetchall()
    assert rows == [(0, 4), (1, 4), (2, 4)]


def test_a_journaled_batch_holds_no_options_and_no_configuration(run):
    [row] = json.loads((run / "rollouts/000002/batch.json").read_text())["groups"]
    assert set(row) == {"prompt", "parents"}


def test_metrics_of_every_function_are_logged(run):
    assert all({"length/thought", "novelty/mean", "similarity/mean"} <= set(row["metrics"]) for row in closings(run))


def test_a_resumed_run_may_have_other_options(run, capsys):
    assert train(run, {"length_most": 0.0, "novelty_embedder": "hashed"}, "--resume", "--max_steps", "4") == 0
    assert all(row["rewards"][0] == 0.0 for row in outcomes(closings(run)[-1]))
