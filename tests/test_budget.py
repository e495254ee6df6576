"""A run's caps: what could break one is not started, and training ends there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import run
from scripted import idea

from ideator_rl.reward_buffer import open_buffer
from ideator_rl.storage.run_reader import read_run
from ideator_rl.train import main

HERE = Path(__file__).parent
PAID = "scripted.PaidImplementer"


def test_ideas_beyond_the_cap_are_lost_and_cost_nothing(toy_config):
    buffer = open_buffer(replace(toy_config, implementer=PAID, max_usd=2.5))
    records = run(buffer.score([idea(f"Set x to {value}.") for value in (1.0, 2.0, 3.0, -1.0)]))
    buffer.close()
    lost = [record for record in records if record.status == "lost"]
    assert len(lost) == 2 and all(record.error["kind"] == "budget" and record.reward is None for record in lost)
    assert sum(record.cost.get("usd", 0) for record in records) == buffer.executor.ledger.spent.usd == 2.0
    assert "cap of 2.5 USD" in buffer.executor.ledger.exhausted


def test_a_repeated_idea_is_paid_for_once(toy_config):
    buffer = open_buffer(replace(toy_config, implementer=PAID))
    records = run(buffer.score([idea("Set x to 1.0.")] * 3)) + run(buffer.score([idea("Set x to 1.0.")]))
    buffer.close()
    assert sum(record.cost.get("usd", 0) for record in records) == buffer.executor.ledger.spent.usd == 1.0


def test_a_resumed_run_counts_what_was_spent_before(toy_config):
    for _ in range(2):
        buffer = open_buffer(replace(toy_config, implementer=PAID, max_usd=1.0))
        run(buffer.score([idea("Set x to 1.0."), idea("Set x to 2.0.")]))
        buffer.close()
    assert buffer.executor.ledger.spent.usd == 1.0


@pytest.fixture(scope="module")
def capped(tmp_path_factory):
    """A training run of twelve steps of four ideas that may spend 2 USD at 1 USD a distinct idea."""
    folder = tmp_path_factory.mktemp("capped") / "run"
    options = [
        "--env",
        str(HERE / "toy_env"),
        "--output_dir",
        str(folder),
        "--implementer",
        PAID,
        "--max_usd",
        "2",
        "--max_steps",
        "12",
    ]
    return folder, main(["--config", str(HERE / "toy_recipe.yaml"), *options])


def test_training_ends_at_the_cap_and_saves_its_model(capped, capfd):
    folder, status = capped
    steps = read_run(folder).by_step()
    assert status == 0 and (folder / "model" / "model.safetensors").is_file() and len(steps) < 12
    assert json.loads((folder / "ledger.json").read_text())["usd"] == 2.0
