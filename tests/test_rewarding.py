"""Several reward functions on one batch: lost rows stay masked, and all functions start together."""

import asyncio
import time
from dataclasses import dataclass

import pytest
from tiny_policy import arguments, build, save_policy

from ideator_rl.reward import RowReward
from ideator_rl.training.build import step_text
from ideator_rl.training.reward_runner import RewardRunner
from ideator_rl.training.rollouts import Batch
from ideator_rl.training.trainer import IdeatorGRPOTrainer


def measuring(rewards, streamed=True):
    """A function that counts as one that runs experiments; None is a lost experiment."""

    async def plain(completions, **_):
        return [rewards[row % len(rewards)] for row in range(len(completions))]

    async def as_completed(completions, **_):
        for row in range(len(completions)):
            reward = rewards[row % len(rewards)]
            yield RowReward(row, reward, "lost" if reward is None else "succeeded")

    plain.runs_experiments = True
    if streamed:
        plain.as_completed = as_completed
    return plain


async def bonus(completions, **_):
    return [0.3] * len(completions)


async def silent_of_the_first(completions, **_):
    return [None] + [0.5] * (len(completions) - 1)


@dataclass
class State:
    global_step: int = 0


def outcomes(*functions, row=None, **bound):
    rewarding = RewardRunner(list(functions), [str(at) for at in range(len(functions))], **bound)
    batch = Batch(0, 0, [{"prompt": "p", **(row or {})}], ["a", "b", "c"], [[1], [2], [3]])
    pending = rewarding.submit(batch, State())
    for _ in range(200):
        if all(batch_outcomes := pending.outcomes()):
            break
        pending.wait(0.1)
    rewarding.close()
    return batch_outcomes


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_lost_row_is_masked_whatever_another_function_gave_it(streamed, first):
    measured = measuring([0.4, None, 0.0], streamed)
    batch_outcomes = outcomes(measured, bonus) if first else outcomes(bonus, measured)
    rewards = [row.rewards if first else row.rewards[::-1] for row in batch_outcomes]
    assert rewards == [[0.4, 0.3], [None, None], [0.0, 0.3]]
    assert [row.has_reward for row in batch_outcomes] == [True, False, True]
    assert [row.execution_reward for row in batch_outcomes] == [0.4, None, 0.0]


def test_a_row_without_a_bonus_keeps_its_measured_reward():
    batch_outcomes = outcomes(measuring([0.4]), silent_of_the_first)
    assert [row.rewards for row in batch_outcomes] == [[0.4, None], [0.4, 0.5], [0.4, 0.5]]


def test_the_functions_of_a_batch_start_in_one_turn_of_the_loop():
    begun, begun_before = [], []

    async def first(completions, **_):
        await asyncio.sleep(0)
        begun_before.extend(begun)
        return [0.0] * len(completions)

    async def second(completions, **_):
        begun.append("second")
        return [0.0] * len(completions)

    for _ in range(20):
        begun.clear(), begun_before.clear()
        outcomes(first, second)
        assert begun_before == ["second"]


def test_the_trainer_leaves_out_lost_rows_and_logs_the_measured_reward_apart(tmp_path):
    functions = [bonus, measuring([0.4, None, 0.0, 0.2])]
    args = arguments(tmp_path / "run", max_steps=1)
    trainer = build(IdeatorGRPOTrainer, save_policy(tmp_path / "policy"), args, functions)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert logs["pipeline/trained_share"] == 0.75 and logs["execution/lost"] == 0.25
    assert logs["reward"] == pytest.approx(0.3 + 0.2), "the mean of 0.7, 0.3 and 0.5"
    assert logs["execution/success_reward_best"] == pytest.approx(0.4), "not the bonus that stands first"
    assert f"mean reward {logs['reward']:.4f}, best 0.7000 · success 100%" in step_text(logs), "of the same rewards"


def test_a_column_of_ones_own_is_logged_as_not_shown(tmp_path, caplog):
    async def telling(completions, log_extra, **_):
        for column in ("status", "a column of one's own"):
            log_extra(column, ["x"] * len(completions))
        return [1.0] * len(completions)

    args = arguments(tmp_path / "run", max_steps=1)
    build(IdeatorGRPOTrainer, save_policy(tmp_path / "policy"), args, [telling]).train()
    messages = [record.getMessage() for record in caplog.records if "log_extra" in record.getMessage()]
    assert len(messages) == 1 and "a column of one's own" in messages[0]


def test_functions_that_take_a_context_share_the_buffer_and_the_outcomes_of_their_batch():
    buffer, contexts = object(), []

    async def running(completions, reward_context, **_):
        contexts.append(reward_context)
        for row in range(len(completions)):
            reward_context.outcomes.enter(row, f"record {row}")
        return [0.0] * len(completions)

    async def reading(completions, reward_context, **_):
        contexts.append(reward_context)
        records = {row: record async for row, record in reward_context.outcomes.as_completed()}
        return [float(records[row] == f"record {row}") for row in range(len(completions))]

    running.takes_context = reading.takes_context = running.runs_experiments = True
    rows = outcomes(reading, bonus, running, buffer=buffer)
    assert [row.rewards for row in rows] == [[1.0, 0.3, 0.0]] * 3
    assert contexts[0] is contexts[1] and contexts[0].buffer is buffer


def test_when_the_function_that_runs_experiments_fails_the_others_do_not_wait():
    ended = []

    async def running(**_):
        raise ZeroDivisionError

    async def reading(completions, reward_context, **_):
        ended.extend([record async for _, record in reward_context.outcomes.as_completed()])
        return [0.0] * len(completions)

    running.takes_context = reading.takes_context = running.runs_experiments = True
    with pytest.raises(ZeroDivisionError):
        outcomes(running, reading, buffer=object())
    until = time.monotonic() + 10
    while not ended and time.monotonic() < until:  # it ends on the runner's thread, after the error was raised here
        time.sleep(0.01)
    assert ended == [None] * 3


def test_the_columns_of_the_run_replace_those_of_a_batch_that_0_1_0_journaled():
    columns_seen = {}

    async def reading(completions, trainer_state, log_metric, log_extra, prompts, completion_ids, **columns):
        columns_seen.update(columns)
        return [0.0] * len(completions)

    reading.options = {"least": None, "most": None}
    row = {"bucket": "old", "max_usd": 1.0, "least": 1, "parents": ["id"]}
    outcomes(reading, row=row, buffer=object(), columns={"bucket": "new", "most": 2})
    assert columns_seen == {"bucket": ["new"] * 3, "most": [2] * 3, "parents": [["id"]] * 3}
