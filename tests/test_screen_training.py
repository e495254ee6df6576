"""The trainer's screen: what of a batch is run, what the journal keeps, and that other rows change no weight."""

import asyncio
import random
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from search_runs import configured, text
from tiny_policy import arguments, build, draw, save_policy, weights

from ideator_rl.archive.archive import archive_of
from ideator_rl.config.recipe_file import RecipeError
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen import ScreenConfig
from ideator_rl.screen.pool import outcomes_of
from ideator_rl.screen.summary import read_screen_summary
from ideator_rl.training.batch_closing import ClosingRule, Layout, Outcome, TrainBatch
from ideator_rl.training.learning import Learning
from ideator_rl.training.recipe.recipe import load_recipe
from ideator_rl.training.reward_runner import RewardRunner
from ideator_rl.training.rollouts import Batch
from ideator_rl.training.screening import BatchScreen
from ideator_rl.training.trainer import IdeatorGRPOTrainer

RECIPE = str(Path(__file__).parent / "toy_recipe.yaml")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


class EvenRows:
    """Chooses every other row, as a screen might."""

    def choose(self, batch, run):
        return list(range(0, len(batch.completions), 2))


def trained(policy, folder, functions, **more):
    trainer = build(IdeatorGRPOTrainer, policy, arguments(folder, max_steps=2, weight_decay=0.1), functions, **more)
    before = weights(trainer)
    trainer.train()
    return before, weights(trainer)


def test_rows_that_are_not_chosen_are_not_run_and_have_no_gradient(policy, tmp_path):
    ran = []

    async def of_chosen(completions, **_):
        ran.append(len(completions))
        return [draw(completion) for completion in completions]

    async def of_all(completions, **_):
        return [None if row % 2 else draw(completion) for row, completion in enumerate(completions)]

    _, without = trained(policy, tmp_path / "masked", of_all)
    before, screened = trained(policy, tmp_path / "screened", of_chosen, chooser=EvenRows())
    assert ran == [4, 4], "half of each batch of eight"
    assert all(torch.equal(tensor, screened[name]) for name, tensor in without.items())
    assert any(not torch.equal(tensor, screened[name]) for name, tensor in before.items())


def test_a_frozen_policy_keeps_its_weights_while_batches_are_run(policy, tmp_path):
    ran = []

    async def reward(completions, **_):
        ran.append(len(completions))
        return [draw(completion) for completion in completions]

    before, after = trained(policy, tmp_path, reward, learning=Learning(is_frozen=True))
    assert ran == [8, 8] and all(torch.equal(tensor, after[name]) for name, tensor in before.items())


class Rows:
    def __init__(self, rows):
        self.rows = rows

    def choose(self, batch, run):
        if self.rows is None:
            raise ValueError("the predictor is broken")
        return self.rows


def submitted(rows, function):
    @dataclass
    class State:
        global_step: int = 0

    runner = RewardRunner([function], ["r"], chooser=Rows(rows))
    pending = runner.submit(Batch(0, 0, [{"prompt": "p", "n": 1}], list("abcd"), [[1], [2], [3], [4]]), State())
    try:
        for _ in range(200):
            if all(pending.outcomes()):
                break
            pending.wait(0.1)
        return pending.outcomes()
    finally:
        runner.close()


def test_functions_are_given_the_chosen_rows_alone():
    async def reward(completions, prompts, n, completion_ids, **_):
        assert len(prompts) == len(n) == len(completions)
        return [ids[0] + ord(completion) for completion, ids in zip(completions, completion_ids, strict=True)]

    outcomes = submitted([1, 3], reward)
    assert [outcome.rewards for outcome in outcomes] == [[None], [ord("b") + 2], [None], [ord("d") + 4]]
    assert [outcome.is_screened_out for outcome in outcomes] == [True, False, True, False]
    body = TrainBatch.from_json(TrainBatch(0, [], [], []).to_json())
    assert body.slots == [] and [Outcome.from_json(outcome.to_json()) for outcome in outcomes] == outcomes
    assert "is_screened_out" not in outcomes[1].to_json(), "without a screen the files are as they were"


def test_without_any_new_idea_no_function_is_called_and_the_batch_closes_empty():
    outcomes = submitted([], lambda **_: pytest.fail("called"))
    rule = ClosingRule()
    assert rule.is_due(outcomes, 0.0) and not rule.close(0, Layout(1, 4, 4), {0: outcomes}).slots
    assert rule.may_close_empty({0: outcomes}, lambda: False)


def test_an_error_of_the_predictor_ends_the_wait_for_the_batch():
    with pytest.raises(ValueError, match="broken"):
        submitted(None, lambda **_: pytest.fail("called"))


def test_a_quorum_counts_chosen_rows_alone():
    waiting = [Outcome([None], is_screened_out=True)] * 6 + [None] * 2
    assert not ClosingRule(quorum=0.5).has_quorum(waiting)
    assert ClosingRule(quorum=0.5).has_quorum([*waiting[:7], Outcome([1.0])])


def batch(index, count=24):
    rng = random.Random(index)
    texts = [text({knob: rng.randrange(4) for knob in rng.sample(range(20), 2)}) for _ in range(count - 2)]
    return Batch(index, index, [{"prompt": "p"}], [*texts, texts[0], "no idea"], [[0]] * count)


def opened(folder, **keys):
    buffer = RewardBuffer(configured(folder).buffer())
    return buffer, BatchScreen(ScreenConfig(over=4, after=20), buffer, share=6, **keys)


def run_batch(buffer, screen, index):
    """Choose and run one batch; returns its picks."""
    sampled = batch(index)
    rows = screen.choose(sampled, asyncio.run)
    texts = sampled.completions if rows is None else [sampled.completions[row] for row in rows]
    asyncio.run(buffer.score(texts, step=index))
    return rows


def forecasts(buffer):
    return buffer.journal.read("select step, number, position, mean, sd, rank, executed, audited from forecasts")


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    buffer, screen = opened(folder)
    asyncio.run(buffer.baseline())
    picks = [run_batch(buffer, screen, index) for index in range(4)]
    rows = forecasts(buffer)
    buffer.close()
    return folder, picks, rows


def test_before_enough_outcomes_all_is_run_and_then_a_share(screened):
    folder, picks, rows = screened
    assert picks[0] is None, "20 outcomes are needed, and none is known"
    assert [len(chosen) for chosen in picks[1:]] == [6, 6, 6]
    assert {(step, number) for step, number, *_ in rows} == {(step, row) for step in (1, 2, 3) for row in range(24)}
    assert [row[1] for row in rows if row[0] == 2 and row[6]] == picks[2]
    assert not any(row[6] for row in rows if row[1] in (22, 23)), "a repetition and no idea are not run"
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        pairs = db.execute("select f.created, r.finished from forecasts f join rollouts r using (step, position)")
        times = pairs.fetchall()
    assert len(times) == 18 and all(made < ended for made, ended in times)


def test_status_and_report_read_the_forecasts_of_a_training_run(screened):
    summary = read_screen_summary(screened[0] / "buffer.sqlite")
    assert (summary.since, summary.sampled, summary.executed) == (1, 72, 18)


def test_a_resumed_run_makes_the_same_picks(screened, tmp_path):
    _, picks, rows = screened
    buffer, screen = opened(tmp_path)
    asyncio.run(buffer.baseline())
    assert [run_batch(buffer, screen, index) for index in range(3)] == picks[:3]
    sampled = batch(3)
    assert screen.choose(sampled, asyncio.run) == picks[3]
    buffer.close()
    # Killed after the picks were written, and before anything was submitted.
    buffer, screen = opened(tmp_path)
    assert screen.choose(sampled, lambda work: pytest.fail("chose anew")) == picks[3]
    # Killed before they were written, while outcomes that came later are known by now.
    buffer.journal.write(lambda db: db.execute("delete from forecasts where step=3"))
    asyncio.run(buffer.score([text({0: 1, 1: 1, 2: 1})], step=9))
    assert screen.choose(sampled, asyncio.run) == picks[3] and forecasts(buffer) == rows
    # A lost outcome says nothing about its idea.
    before = outcomes_of(archive_of(buffer), buffer)
    buffer.history.append(replace(buffer.history[0], id="gone", status="lost", reward=None))
    assert outcomes_of(archive_of(buffer), buffer) == before
    # Batches that were run without a screen stay so.
    assert screen.choose(batch(0), asyncio.run) is None
    buffer.close()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--screen", "{learn: predicted, over: 2}"], "predicted, which is not available in train yet"),
        (["--screen", "{over: 4}"], "Use num_generations: 8"),
        (["--screen", "{over: 8, learn: none}"], "so that none is run"),
        (["--screen", "{over: 2, learn: none}", "--imitation_weight", "0.1"], "trains nothing"),
        (["--screen", "{ovr: 2}"], "screen.ovr|'ovr'"),
    ],
)
def test_what_cannot_work_is_refused_before_the_start(overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(RECIPE, overrides)
    assert load_recipe(RECIPE, ["--screen", "{over: 2}"]).executed_share == 2
