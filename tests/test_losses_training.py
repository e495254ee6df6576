"""A coder's LLM that refuses ends training with one sentence; with a mended key `--resume` reaches the usual end."""

import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from conftest import replace_line
from llm_server import Scripted, answer
from test_kill_pipeline import start, zygote  # noqa: F401 - a fixture
from test_losses import REFUSALS
from test_refusals import OVERLOADED, WRONG_KEY

from ideator_rl.llm import client
from ideator_rl.train import main

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)


def options(server, folder):
    coder = {
        "base_url": server.url,
        "models": "coder",
        "api_key_env": None,
        "samples": 1,
        "concurrency": 1,
        "retries": 1,
    }
    return ["--output_dir", str(folder), "--implementer", "llm", "--coder", json.dumps(coder)]


def train(server, folder, *overrides):
    recipe = ["--config", str(HERE / "toy_recipe.yaml"), "--env", str(HERE / "toy_env")]
    return main([*recipe, *options(server, folder), *overrides])


def patches(request, count=[0]):  # noqa: B006 - a counter
    """A patch, another one each time."""
    count[0] += 1
    return {"body": answer(replace_line("x = 4.0", f"x = {count[0] / 100}"))}


def statuses(folder):
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        return Counter(status for (status,) in db.execute("select status from rollouts"))


def sentences(text):
    return [line for line in text.splitlines() if line.startswith("ideator_rl.train: ")]


@pytest.mark.parametrize(("step", "cause"), REFUSALS.values(), ids=REFUSALS)
def test_training_is_not_started_with_a_coder_that_refuses(tmp_path, capsys, step, cause):
    with Scripted(step) as server:
        assert train(server, tmp_path / "run") == 2 and len(server.requests) <= 2
        (sentence,) = sentences(capsys.readouterr().err)
    assert cause in sentence and "Nothing was started" in sentence and not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("step", "cause"), REFUSALS.values(), ids=REFUSALS)
def test_without_a_probe_training_ends_within_two_calls_and_goes_on_with_a_mended_key(tmp_path, capfd, step, cause):
    folder = tmp_path / "run"
    with Scripted(step) as server:
        assert train(server, folder, "--no-probe") == 2 and len(server.requests) <= 2
    (sentence,) = sentences(capfd.readouterr().err)
    assert cause in sentence and "--resume" in sentence and not (folder / "model").exists()
    with Scripted(patches) as server:
        assert train(server, folder, "--resume") == 0
    assert (folder / "model").is_dir() and sum(statuses(folder).values()) == 12 and not statuses(folder)["lost"]


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_key_that_is_revoked_in_the_middle_ends_training_and_only_what_was_lost_is_asked_again(
    tmp_path, capfd, staleness
):
    # A longer warm-up, since a malformed idea is not sent to the coder.
    folder, ahead = tmp_path / "run", ["--max_staleness", str(staleness), "--sft_steps", "120", "--max_steps", "6"]
    with Scripted(*[patches] * 3, WRONG_KEY) as server:
        assert train(server, folder, "--no-probe", *ahead) == 2 and len(server.requests) == 5
    assert "Incorrect API key" in sentences(capfd.readouterr().err)[-1]
    before = statuses(folder)
    assert before["lost"] >= 2 and before["succeeded"] + before["failed"] == 3 and not before["running"]
    with Scripted(patches) as server:
        assert train(server, folder, "--resume", "--no-probe", *ahead) == 0
        after = statuses(folder)
        # Each idea is paid for once, over both sessions.
        assert len(server.requests) <= after.total() - after["malformed"] - 3
    assert after.total() == 24 and not after["lost"] and (folder / "model").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "losses"), [([], 4), (["--max_losses_in_a_row", "7"], 7)])
def test_losses_in_a_row_of_any_cause_end_training(tmp_path, capfd, limit, losses):
    folder = tmp_path / "run"
    with Scripted(OVERLOADED) as server:
        assert train(server, folder, "--no-probe", "--sft_steps", "120", "--max_steps", "12", *limit) == 2
    assert f"{losses} ideas in a row were lost (max_losses_in_a_row)" in sentences(capfd.readouterr().err)[-1]
    assert statuses(folder)["lost"] >= losses and not statuses(folder)["succeeded"]


@pytest.mark.slow
def test_all_ranks_end_together_and_give_the_reason_once(zygote, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    with Scripted(*[patches] * 3, WRONG_KEY) as server:
        pids = start(zygote, folder, 2, [*options(server, folder), "--no-probe", "--sft_steps", "120"], scramble=False)
        assert [zygote.ask(wait=pid) for pid in pids] == [2, 2], Path(f"{folder}.log").read_text()[-3000:]
    (sentence,) = sentences(Path(f"{folder}.log").read_text())
    assert "Incorrect API key" in sentence and "--resume" in sentence
    with Scripted(patches) as server:
        pids = start(zygote, folder, 2, [*options(server, folder), "--resume", "--sft_steps", "120"], scramble=False)
        assert [zygote.ask(wait=pid) for pid in pids] == [0, 0], Path(f"{folder}.log").read_text()[-3000:]
    assert not statuses(folder)["lost"] and (folder / "model").is_dir()
