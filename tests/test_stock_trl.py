"""Our rewards in stock TRL: its own command line, RLOOTrainer and GRPOTrainer.  No trainer of ours is imported."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ideator_rl.archive.prompt_rows import prompt_rows
from ideator_rl.environments.environment import load_environment
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.reward_buffer import BufferConfig, open_buffer
from ideator_rl.storage.run_reader import read_run

HERE = Path(__file__).parent
SHAPE = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A model that writes hardly anything but "[Experiment] … [End]": warmed up on one idea."""
    from ideator_rl.training.models import build_ideator
    from ideator_rl.training.recipe.keys import IdeatorConfig
    from ideator_rl.training.sft.warmup import warm_up

    home = tmp_path_factory.mktemp("speaker")
    prompt = load_environment(HERE / "toy_env").prompt("cpu")
    ideas = [f"[Experiment] Move x to {x}.0. [Code Changes] In train.py set x = {x}.0. [End]" for x in (0, 1, 2, 3)] * 8
    source = build_ideator(None, {**SHAPE, **HEADS}, [prompt, *ideas] * 9, home / "scratch", 0)
    config = IdeatorConfig(sft_steps=120, sft_batch_size=8, sft_learning_rate=5e-3)
    warm_up(source, home / "model", prompt, ideas, config, 0, lambda *_: None)
    return str(home / "model")


@pytest.fixture
def config(tmp_path):
    return BufferConfig(
        str(HERE / "toy_env"), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path / "run"), slots=2
    )


@pytest.fixture
def rows(config):
    return prompt_rows(load_environment(HERE / "toy_env"), config, 4)


def check(folder):
    run = read_run(folder)
    assert [step.proposed for step in run.by_step()] == [4, 4]
    assert {row.status for row in run.rollouts} >= {SUCCEEDED}
    assert all(row.reward is not None for row in run.rollouts)
    assert all(row.reward > 0 for row in run.rollouts if row.status == SUCCEEDED)


def test_rloo_trainer_takes_the_reward_as_it_is(speaker, rows, tmp_path):
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    from rewards.execution import execution_reward

    config = RLOOConfig(
        str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=48,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        seed=1,
    )
    RLOOTrainer(
        model=speaker, reward_funcs=execution_reward, args=config, train_dataset=Dataset.from_list(rows)
    ).train()
    check(tmp_path / "run")


def test_five_rewards_and_the_execution_reward_of_a_stock_trainer_leave_out_a_lost_row(
    speaker, config, rows, tmp_path, monkeypatch
):
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from rewards.execution import execution_reward
    from rewards.format import format_reward
    from rewards.length import length_reward
    from rewards.novelty import novelty_reward
    from rewards.similarity import similarity_penalty
    from rewards.simplicity import simplicity_reward

    buffer = open_buffer(config)
    execute, completions_run = buffer.executor.execute, []

    async def loses_the_fifth(completion, replicate=0):
        completions_run.append(completion)
        mine = len(completions_run) % 8 == 5
        record = await execute(completion, replicate)
        error = {"kind": "lost", "message": "Node died."}
        return (
            replace(record, id=f"lost{len(completions_run)}", status="lost", reward=None, error=error)
            if mine
            else record
        )

    monkeypatch.setattr(buffer.executor, "execute", loses_the_fifth)
    rewards_by_step = []

    class Seen(GRPOTrainer):
        def _calculate_rewards(self, *args):
            rewards_by_step.append(super()._calculate_rewards(*args))
            return rewards_by_step[-1]

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            assert output["advantages"][4] == 0 and torch.isfinite(output["advantages"]).all()
            return output

    args = GRPOConfig(
        str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=8, num_generations=8, max_completion_length=48,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", seed=1,
        reward_weights=[0.1, 1.0, 1.0, 0.1, 0.3, 0.1],
    )  # fmt: skip
    functions = [format_reward, length_reward, execution_reward, novelty_reward, similarity_penalty, simplicity_reward]
    options = {"length_cap": 20.0, "novelty_embedder": "hashed", "length_unit": "words"}
    data = Dataset.from_list([row | options for row in rows])
    Seen(model=speaker, reward_funcs=functions, args=args, train_dataset=data).train()
    buffer.close()
    assert len(completions_run) == 16, "nothing ran twice"
    for rewards in rewards_by_step:
        kept = torch.arange(8) != 4
        assert torch.isnan(rewards[4]).all() and not torch.isnan(rewards[kept]).any()
        ran = rewards[:, 2] > 0
        assert ran.any() and torch.all(rewards[ran, 5] > 0) and torch.all(rewards[ran, 0] == 1)
    formed = [rewards[:, 0] == 1 for rewards in rewards_by_step]
    assert torch.all(rewards_by_step[0][formed[0], 4] == 0) and torch.all(rewards_by_step[1][formed[1], 4] < 0), (
        "like those of step 0"
    )


@pytest.mark.slow
@pytest.mark.parametrize("package", ["rewards", "ideator_rl.rewards"])
def test_the_stock_grpo_command_trains_on_a_dataset_file(package, speaker, rows, tmp_path):
    """Under the long names also in a folder whose own `rewards.py` and `envs/` hide the shipped ones."""
    if package != "rewards":
        (tmp_path / "rewards.py").write_text("raise RuntimeError('not the shipped folder')\n")
        (tmp_path / "envs").mkdir()
        (tmp_path / "envs" / "__init__.py").touch()
    names = ("execution.execution_reward", "format.format_reward", "length.length_reward", "novelty.novelty_reward")
    names += ("similarity.similarity_penalty", "simplicity.simplicity_reward")
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        *(str(Path(sys.executable).parent / "trl"), "grpo"),
        *("--model_name_or_path", speaker, "--dataset_name", str(data)),
        *("--reward_funcs", *(f"{package}.{name}" for name in names)),
        *("--output_dir", str(tmp_path / "out")),
        *("--max_steps", "2", "--per_device_train_batch_size", "4", "--num_generations", "4"),
        *("--max_completion_length", "48", "--use_cpu", "true", "--bf16", "false", "--report_to", "none"),
        *("--save_strategy", "no", "--seed", "1"),
    ]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    check(tmp_path / "run")
