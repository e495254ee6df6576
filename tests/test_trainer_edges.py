"""Edge cases of the trainer: other runs' folders, odd rewards, batches that are sampled again, and disk space."""

import asyncio
import json
import shutil

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from tiny_policy import arguments, build, by_text, draw, rows, save_policy, weights

from ideator_rl.errors import IdeatorError
from ideator_rl.reward import RowReward
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.trainer import IdeatorGRPOTrainer


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


def always(value, name="constant"):
    async def constant(completions, **_):
        return [value] * len(completions)

    constant.__name__ = name
    return constant


def closings(folder):
    return [json.loads(line) for line in (folder / "rollouts/closings.jsonl").read_text().splitlines()]


def test_a_folder_with_batches_of_another_run_is_refused_and_a_trainer_trains_once(policy, tmp_path):
    trainer = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2))
    trainer.train()
    with pytest.raises(IdeatorError, match="has trained already"):
        trainer.train()
    with pytest.raises(IdeatorError, match="holds batches of an earlier run"):
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2), always(-5.0)).train()
    again = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2), always(-5.0, "by_text"), resume=True)
    again.train()
    assert again.state.log_history[0]["reward"] == trainer.state.log_history[0]["reward"], (
        "the batch was closed with the same rewards"
    )


def test_a_batch_that_is_sampled_again_is_not_trained_on_rewards_of_the_old_one(policy, tmp_path):
    build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=3)).train()
    shutil.rmtree(tmp_path / "rollouts/000001")
    again = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=3), always(-5.0, "by_text"), resume=True)
    again.train()
    rewards = [logs["reward"] for logs in again.state.log_history if "reward" in logs]
    assert rewards[0] > 0 and rewards[1] == -5.0 and rewards[2] == -5.0, "later batches are decided again"
    assert [closing["index"] for closing in closings(tmp_path)] == [0, 1, 2]


def test_a_batch_size_lag_or_beta_that_does_not_fit_the_stored_batches_is_refused(policy, tmp_path):
    build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2)).train()
    with pytest.raises(IdeatorError, match="sampled with 8 completions a process, and 4 are asked for"):
        small = arguments(tmp_path, max_steps=2, per_device_train_batch_size=4)
        build(IdeatorGRPOTrainer, policy, small, resume=True).train()
    with pytest.raises(IdeatorError, match="max_staleness 0, quorum 1 and no deadline"):
        ahead = PipelineConfig(max_staleness=1)
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2), pipeline=ahead, resume=True).train()
    with pytest.raises(IdeatorError, match="sampled with beta 0, so without ref_per_token_logps"):
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2, beta=0.01), resume=True).train()


@pytest.mark.parametrize("kind", [np.float32, torch.tensor, float])
def test_a_reward_may_be_a_number_of_any_library(policy, tmp_path, kind):
    async def reward(completions, log_metric, **_):
        log_metric("mine", kind(0.5))
        return [kind(draw(text)) for text in completions]

    trainer = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=1), reward)
    trainer.train()
    assert 0 < trainer.state.log_history[0]["reward"] < 1 and trainer.state.log_history[0]["mine"] == 0.5


def test_nan_counts_as_no_reward(policy, tmp_path):
    with pytest.raises(IdeatorError, match="Every experiment of this batch was lost"):
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=1), always(float("nan"))).train()


# Rewards are float32 tensors: 1e39 is infinite there, and so is a sum of numbers that each fit.
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("inf"), "inf"),
        (-1e39, "-1e+39"),
        (2e38, "2e+38"),
        pytest.param(10**400, "'1000", id="huge"),
        ("good", "'good'"),
    ],
)
def test_a_reward_that_cannot_be_trained_is_refused_before_it_is_journaled(policy, tmp_path, value, shown):
    with pytest.raises(IdeatorError) as refused:
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=1), always(value)).train()
    assert f"The reward function constant returned {shown}" in str(refused.value) and "for row 0" in str(refused.value)
    assert not (tmp_path / "rollouts/closings.jsonl").exists()


def stored_batches(folder):
    return sorted(int(path.name) for path in (folder / "rollouts").glob("[0-9]*"))


def streaming(*rows_in_order):
    async def streamed(**_):
        raise AssertionError("it is streamed")

    async def as_completed(completions, **_):
        for row in rows_in_order:
            yield RowReward(row, draw(completions[row]))

    streamed.as_completed = as_completed
    return streamed


def test_a_stream_that_returns_a_row_twice_is_refused(policy, tmp_path):
    with pytest.raises(IdeatorError, match="row 1 twice"):
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path), streaming(0, 1, 1, 3, 4, 5, 6, 7)).train()


def test_an_error_after_the_quorum_is_logged(policy, tmp_path, caplog):
    async def streamed(**_):
        raise AssertionError("it is streamed")

    async def as_completed(completions, trainer_state, **_):
        for row, text in enumerate(completions[:-1]):
            yield RowReward(row, draw(text))
        while not (tmp_path / "rollouts/closings.jsonl").exists():
            await asyncio.sleep(0.01)
        if trainer_state.global_step == 0:
            raise ZeroDivisionError("late")
        yield RowReward(7, 0.0)

    streamed.as_completed = as_completed
    config = PipelineConfig(quorum=0.75)
    build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=3), streamed, pipeline=config).train()
    assert any("failed after its batch was closed: late" in record.getMessage() for record in caplog.records)


def test_evaluation_and_streamed_datasets_are_refused_at_once(policy, tmp_path):
    with pytest.raises(IdeatorError, match="Evaluation during training"):
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path, eval_strategy="steps", eval_steps=1), eval_dataset=rows())
    with pytest.raises(IdeatorError, match="is a stream"):
        stream = IterableDataset.from_generator(lambda: iter([{"prompt": "p"}] * 9))
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path), dataset=stream)


def test_a_run_that_goes_back_trains_no_batch_of_the_branch_that_it_left(policy, tmp_path):
    """A run of six steps goes back to step 2, where the batches after step 2 are gone and those after step 4 are not."""
    more = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1}
    config = PipelineConfig(max_age=1)
    build(IdeatorGRPOTrainer, policy, arguments(tmp_path, **more), pipeline=config).train()
    assert stored_batches(tmp_path) == [4, 5]
    left = {path: path.read_bytes() for path in (tmp_path / "rollouts").glob("*/batch.json")}
    trainer = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, **more, learning_rate=0.1), pipeline=config)
    kept = []
    forget = trainer.forget_batches

    def forget_batches():
        forget()
        kept.append(stored_batches(tmp_path))

    trainer.forget_batches = forget_batches
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert kept == [[2], [2, 3], [3, 4], [4, 5]], "and not those before the newest checkpoints of the old branch"
    assert all(path.read_bytes() != text for path, text in left.items())


def tenth(completions, **_):
    return [0.1] * len(completions)


@pytest.mark.parametrize(
    "before, after, is_old",
    [
        ([by_text], [by_text, tenth], False),
        ([by_text, tenth], [tenth, by_text], False),
        ([by_text], [by_text, tenth], True),
        ([by_text, tenth], [by_text], True),
    ],
    ids=["one more", "another order", "one more, no names", "one less, no names"],
)
def test_batches_decided_with_other_reward_functions_are_decided_again(policy, tmp_path, before, after, is_old):
    build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2), before).train()
    path = tmp_path / "rollouts/closings.jsonl"
    if is_old:
        lines = [{name: value for name, value in line.items() if name != "functions"} for line in closings(tmp_path)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2), after, resume=True).train()
    assert [line["functions"] for line in closings(tmp_path)] == [[function.__name__ for function in after]] * 2
    outcomes = [outcome for line in closings(tmp_path) for slot in line["seats"] for outcome in slot["outcomes"]]
    for outcome in outcomes:
        assert [reward == 0.1 for reward in outcome["rewards"]] == [function is tenth for function in after]


def test_a_run_resumes_where_it_was_although_its_epochs_end_with_a_short_step(policy, tmp_path):
    """An epoch is one batch, used in six micro-steps: a step of four, and one of the two that are left."""
    more = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "steps_per_generation": 6}
    more |= {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, **more))
    whole.train()
    assert whole._step == 18 and stored_batches(tmp_path) == [0, 1, 2], "none is sampled that no step trains"
    resumed = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, **more))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed._step == 18
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())


@pytest.mark.parametrize("limit", [1, 2])
def test_batches_before_every_checkpoint_are_removed(policy, tmp_path, limit):
    saved = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": limit}
    config = PipelineConfig(max_age=1)
    build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=8, **saved), pipeline=config).train()
    assert stored_batches(tmp_path) == list(range(8 - limit, 8)), (
        "a group may have been deferred since one batch before the checkpoint"
    )


def test_the_table_of_completions_shows_each_trained_row_with_its_reward(policy, tmp_path):
    gate = []

    async def streamed(**_):
        raise AssertionError("it is streamed")

    async def as_completed(completions, trainer_state, **_):
        late = [1, 2] if trainer_state.global_step == 0 else [5, 6] if trainer_state.global_step == 2 else []
        for row in [row for row in range(8) if row not in late]:
            yield RowReward(row, draw(completions[row]))
        while late and not gate:
            await asyncio.sleep(0.01)
        for row in late:
            yield RowReward(row, draw(completions[row]))

    class OpensGate(IdeatorGRPOTrainer):
        tables = []

        def sample(self, index):
            if index == 2:
                gate.append(True)
                self.pipeline.pending[0].wait(1)
                gate.clear()
            return super().sample(index)

        def _log_batch(self, train_batch, *more):
            super()._log_batch(train_batch, *more)
            moved = any(slot.batch != train_batch.index for slot in train_batch.slots)
            columns = self._logs["completion"], self._logs["rewards"]["streamed"]
            self.tables.append((moved, *(list(column)[-8:] for column in columns)))

    streamed.as_completed = as_completed
    trainer = build(
        OpensGate, policy, arguments(tmp_path, max_steps=3), streamed, pipeline=PipelineConfig(quorum=0.75, max_age=3)
    )
    trainer.train()
    gate.append(True)
    assert any(moved for moved, *_ in trainer.tables)
    for _, texts, rewards in trainer.tables:
        pairs = [(draw(text), reward) for text, reward in zip(texts, rewards, strict=True) if not np.isnan(reward)]
        assert pairs and all(worth == pytest.approx(reward) for worth, reward in pairs)
