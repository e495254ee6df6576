"""A screen in a run of two gloo ranks: one choice for both, and the same one after a kill."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GROUP, ROWS = 4, 16


def run(folder, learn, predictor, *sessions):
    folder.mkdir()
    line = [sys.executable, str(TESTS / "screened_ranks.py"), str(folder), learn, predictor, *sessions]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(line, capture_output=True, text=True, env=environment)
    expected = [f"{session} {-9 if session == 'killed' else 0}" for session in sessions]
    assert ended.stdout.splitlines()[-len(sessions) :] == expected, ended.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def journal(folder):
    """What was chosen, forecast and measured, without times."""
    forecasts = "step, number, completion, success, mean, sd, acquisition, rank, executed, audited, version, best"
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        return (
            db.execute(f"select {forecasts} from forecasts order by step, number").fetchall(),
            db.execute(
                "select step, position, completion, status, reward from rollouts order by step, position"
            ).fetchall(),
        )


def trained_groups(folder):
    lines = (folder / "rollouts" / "closings.jsonl").read_text().splitlines()
    return [json.loads(line)["seats"] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("learn", "predictor"), [("executed", "tokens"), ("predicted", "hidden")])
def test_ranks_train_the_same_choice_and_a_killed_run_makes_it_again(tmp_path, learn, predictor):
    ranks = run(tmp_path / "reference", learn, predictor, "reference")
    assert ranks[0]["weights"] == ranks[1]["weights"]
    forecasts, outcomes = journal(tmp_path / "reference")
    executed = {(row[0], row[1]) for row in forecasts if row[8]}
    assert {row[0] for row in forecasts} == {1, 2, 3}, "the first batch is run whole"
    assert all(sum(step == number for number, _ in executed) == ROWS // 2 for step in (1, 2, 3))
    rewards = {(step, text): reward for step, _, text, _, reward in outcomes}
    for step in (1, 2, 3):
        rows = [ranks[row // 8]["trained"][step][row % 8] for row in range(ROWS)]
        if learn == "predicted":
            assert all(rows), "every row is trained on its forecast"
            continue
        # A group trains the rows that were run, if there are two or more.
        for group in range(0, ROWS, GROUP):
            run_rows = [(step, row) in executed for row in range(group, group + GROUP)]
            assert rows[group : group + GROUP] == (run_rows if sum(run_rows) > 1 else [False] * GROUP)
    assert all(rewards[row[0], row[2]] is not None for row in forecasts if row[8])

    again = run(tmp_path / "killed", learn, predictor, "killed", "resumed")
    assert journal(tmp_path / "killed") == (forecasts, outcomes)
    assert trained_groups(tmp_path / "killed") == trained_groups(tmp_path / "reference")
    assert again == ranks, "the same rows, and the same weights"
