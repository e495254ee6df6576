"""The trainer's screen: what of a batch is run, what the journal keeps, and that other rows change no weight."""

import asyncio
import json
import random
import shutil
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from search_runs import configured, text
from tiny_policy import arguments, build, draw, save_policy, weights
from transformers import TrainerCallback

from ideator_rl.archive.archive import archive_of
from ideator_rl.config.recipe_file import RecipeError
from ideator_rl.reward import RowReward
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen import ScreenConfig
from ideator_rl.screen.pool import outcomes_of
from ideator_rl.screen.summary import read_screen_summary
from ideator_rl.storage.forecasts import ForecastRow, read_forecasts, replace_forecasts
from ideator_rl.training.batch_closing import ClosingRule, Layout, Outcome, TrainBatch
from ideator_rl.training.batch_tensors import batch_scores
from ideator_rl.training.build import _refuse_screen_under_deepspeed
from ideator_rl.training.learning import Learning
from ideator_rl.training.recipe.recipe import load_recipe
from ideator_rl.training.reward_runner import PendingRewards, RewardRunner
from ideator_rl.training.rollouts import Batch
from ideator_rl.training.screening import BatchScreen, Choice
from ideator_rl.training.start_weights import StartWeights, start_weights
from ideator_rl.training.trainer import IdeatorGRPOTrainer

RECIPE = str(Path(__file__).parent / "toy_recipe.yaml")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


class EvenRows:
    """Runs every other row, as a screen might; forecasts and the dry batch are those of its batch's number."""

    def choose(self, batch, run):
        rows = list(range(0, len(batch.completions), 2))
        if batch.index == 0:
            return Choice(rows)
        return Choice(rows, [draw(f"! {completion}") for completion in batch.completions], is_dry=batch.index == 2)


class Weights(TrainerCallback):
    """The weights after each step; from the fourth step on, the policy is frozen."""

    def __init__(self, trainer):
        self.trainer, self.after = trainer, [weights(trainer)]

    def on_step_end(self, args, state, control, **_):
        self.after.append(weights(self.trainer))
        self.trainer.learning.is_frozen = state.global_step == 3


def trained(policy, folder, function, steps, **more):
    trainer = build(IdeatorGRPOTrainer, policy, arguments(folder, max_steps=steps, weight_decay=0.1), function, **more)
    trainer.add_callback(callback := Weights(trainer))
    trainer.train()
    return callback.after, trainer


def equal(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_what_a_batch_is_trained_on(policy, tmp_path):
    """Chosen rows, then forecasts, then nothing in a dry batch, then nothing in a frozen policy."""
    ran, batches = [], []

    async def of_chosen(completions, **_):
        ran.append(len(completions))
        return [draw(completion) for completion in completions]

    async def of_all(completions, **_):
        batches.append(len(completions))
        if len(batches) > 1:
            return [draw(f"! {completion}") for completion in completions]
        return [None if row % 2 else draw(completion) for row, completion in enumerate(completions)]

    expected, _ = trained(policy, tmp_path / "stock", of_all, 2)
    learning = Learning(from_forecasts=True)
    after, trainer = trained(policy, tmp_path / "ours", of_chosen, 4, chooser=EvenRows(), learning=learning)
    assert ran == [4, 4, 4, 4], "half of each batch of eight"
    assert equal(after[1], expected[1]) and not equal(after[1], after[0]), "rows that are not run have no gradient"
    assert equal(after[2], expected[2]) and not equal(after[2], after[1]), "all rows are trained on forecasts"
    back = {name: tensor.lerp(after[0][name], 0.2) for name, tensor in after[2].items()}
    assert equal(after[3], back), "no update of a dry batch, and a step back"
    assert equal(after[4], after[3]), "a frozen policy keeps its weights while its batches are run"
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert [entry.get("screen/stepped_back") for entry in logs] == [None, 0.0, 1.0, 0.0]
    assert max(entry["reward_best"] for entry in logs) < 1, "rewards that are logged are measured ones"


def test_only_trained_weights_step_back():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).requires_grad_(False)
    model[1].weight.requires_grad_(True)
    start = StartWeights(model)
    for parameter in model.parameters():
        parameter.data += 1.0
    before = weights(SimpleNamespace(model=model))
    start.step_back(model)
    moved = {name: before[name] - value for name, value in weights(SimpleNamespace(model=model)).items()}
    assert torch.allclose(moved.pop("1.weight"), torch.tensor(0.2))
    assert all(not value.any() for value in moved.values()), "adapters alone go back, not what is below them"
    parts = SimpleNamespace(is_fsdp_enabled=True, is_deepspeed_enabled=False)
    assert start_weights(parts) is None, "no process has all of them"


class Rows:
    def __init__(self, rows):
        self.rows = rows

    def choose(self, batch, run):
        if self.rows is None:
            raise ValueError("the predictor is broken")
        return Choice(self.rows)


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


def test_a_row_that_is_awaited_at_the_end_is_trained_on_its_forecast():
    pending = PendingRewards(4, 1, choice=Choice([0, 1], [0.1, 0.2, 0.3, 0.4]))
    pending.set(0, RowReward(0, 0.9, "succeeded"))
    assert [outcome is None for outcome in pending.outcomes()] == [False, True, False, False]
    assert not ClosingRule().is_due(pending.outcomes(), 0.0), "experiments are waited for as ever"
    train_batch = ClosingRule().close(0, Layout(1, 4, 4), {0: pending.with_forecasts(pending.outcomes())})
    stored = TrainBatch.from_json(json.loads(json.dumps(replace(train_batch, is_dry=True).to_json())))
    scores = batch_scores(replace(stored, is_dry=False), Layout(1, 4, 4), torch.ones(1), 0.0)
    assert torch.equal(scores.targets_PG, torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    assert scores.rewards_PG[0, 0] == 0.9 and torch.isnan(scores.rewards_PG[0, 1:]).all()
    assert stored.is_dry and not batch_scores(stored, Layout(1, 4, 4), torch.ones(1), 0.0).kept_PG.any()
    assert PendingRewards(2, 1).with_forecasts([None, None]) == [None, None]


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
    return buffer, BatchScreen(ScreenConfig(over=4, after=20, **keys), buffer, share=6)


def run_batch(buffer, screen, index):
    """Choose and run one batch; returns its picks."""
    sampled = batch(index)
    rows = screen.choose(sampled, asyncio.run).rows
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


def test_forecasts_to_learn_from_are_those_of_the_journal(screened):
    folder, picks, _ = screened
    buffer, screen = opened(folder, learn="predicted")
    choice = screen.choose(batch(3), asyncio.run)
    rows = buffer.journal.read("select acquisition from forecasts where step=3 order by number")
    worth = [-1.0 if value is None else value for (value,) in rows]
    assert choice.rows == picks[3] and not choice.is_dry and choice.forecasts[22:] == [0.0, 0.0]
    assert choice.forecasts == [0.0 if value < 0 else min(1.0, value / max(worth)) for value in worth]
    # Before forecasts rank there are none, and with `learn: executed` none are asked for.
    assert screen.choose(batch(0), asyncio.run).forecasts is None
    buffer.close()
    for keys, has_none, is_dry in (({}, True, False), ({"learn": "predicted", "fresh": 0.95}, False, True)):
        buffer, screen = opened(folder, **keys)
        choice = screen.choose(batch(3), asyncio.run)
        assert (choice.forecasts is None, choice.is_dry) == (has_none, is_dry)
        buffer.close()
    # While the gate is closed, forecasts were no better than chance: only what is run can teach.
    buffer, screen = opened(folder, learn="predicted")
    buffer.journal.write(lambda db: db.execute("update forecasts set is_open=0 where step=3"))
    assert screen.choose(batch(3), asyncio.run) == Choice(picks[3])
    buffer.journal.write(lambda db: db.execute("update forecasts set is_open=1 where step=3"))
    buffer.close()


def test_a_step_taken_again_without_the_screen_gives_its_outcomes_to_no_forecast(screened, tmp_path):
    shutil.copytree(screened[0], tmp_path / "run")
    buffer, _ = opened(tmp_path / "run")
    before = read_forecasts(buffer.journal)
    without_texts = [replace(row, forecast=replace(row.forecast, completion="")) for row in before]
    assert read_forecasts(buffer.journal, with_texts=False) == without_texts != before
    last = [row for row in before if row.step == 3 and row.status]
    assert len(last) > 1
    # As a resumed run replaces a step: one idea is the same at its position, the others are not.
    line = "update rollouts set completion = 'another' where step=3 and position != ?"
    buffer.journal.write(lambda db: db.execute(line, (last[0].forecast.position,)))
    after = read_forecasts(buffer.journal)
    buffer.close()
    assert [row for row in after if row.step == 3 and row.status] == last[:1]
    assert [row for row in after if row.step < 3] == [row for row in before if row.step < 3]


@pytest.mark.parametrize("rise", [0.01, 0.0])
def test_an_alarm_begins_where_forecasts_rise_and_audited_results_do_not(screened, tmp_path, rise):
    """What a policy does that learns to please the predictor."""
    shutil.copytree(screened[0], tmp_path / "run")
    buffer, _ = opened(tmp_path / "run")
    row = ForecastRow(0, 0, "an idea", 1.0, 0.4, 0.1, 0.1, 0, True, True, False, "tokens:30", 0.5, True)
    for step in range(4, 34):
        replace_forecasts(buffer.journal, step, [replace(row, mean=0.4 + rise * (step - 4))])
        line = "insert into rollouts (step, rank, position, completion, status, reward) values (?, 0, 0, ?, ?, ?)"
        values = step, row.completion, "succeeded", 0.45 - 0.001 * step
        buffer.journal.write(lambda db, line=line, values=values: db.execute(line, values))
    lines, alarms = [], []
    config = ScreenConfig(over=4, after=20, learn="predicted")
    screen = BatchScreen(config, buffer, share=6, say=lines.append, alert=alarms.append)
    assert screen.choose(batch(34), asyncio.run).rows
    buffer.close()
    assert [alarm.step for alarm in alarms if alarm.kind == "screen_gaming"] == ([34] if rise else [])
    assert any("please the predictor" in line for line in lines) == bool(rise)


def test_a_resumed_run_makes_the_same_picks(screened, tmp_path):
    _, picks, rows = screened
    buffer, screen = opened(tmp_path)
    asyncio.run(buffer.baseline())
    assert [run_batch(buffer, screen, index) for index in range(3)] == picks[:3]
    sampled = batch(3)
    assert screen.choose(sampled, asyncio.run).rows == picks[3]
    buffer.close()
    # Killed after the picks were written, and before anything was submitted.
    buffer, screen = opened(tmp_path)
    assert screen.choose(sampled, lambda work: pytest.fail("chose anew")).rows == picks[3]
    # Killed before they were written, while outcomes that came later are known by now.
    buffer.journal.write(lambda db: db.execute("delete from forecasts where step=3"))
    asyncio.run(buffer.score([text({0: 1, 1: 1, 2: 1})], step=9))
    assert screen.choose(sampled, asyncio.run).rows == picks[3] and forecasts(buffer) == rows
    # A lost outcome says nothing about its idea.
    before = outcomes_of(archive_of(buffer), buffer)
    buffer.history.append(replace(buffer.history[0], id="gone", status="lost", reward=None))
    assert outcomes_of(archive_of(buffer), buffer) == before
    # Batches that were run without a screen stay so.
    assert screen.choose(batch(0), asyncio.run).rows is None
    buffer.close()


def test_ideas_that_still_run_are_not_run_again_and_their_outcomes_change_no_picks(screened, tmp_path, monkeypatch):
    """A quorum closes a batch before all of its ideas have an outcome, and a kill may come before the next picks."""
    folder = shutil.copytree(screened[0], tmp_path / "run")
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        running = [text for (text,) in db.execute("select completion from rollouts where step=3 order by position")]
        db.execute("delete from experiments where id in (select experiment_id from rollouts where step=3)")
        db.execute("update rollouts set status='running', experiment_id=null, reward=null where step=3")
    sampled = batch(4)
    sampled.completions[:6] = running
    measured = []
    monkeypatch.setattr("ideator_rl.training.screening.lift_of", measured.append)

    async def arrive(buffer):
        assert buffer.reattach() == 6
        assert await buffer.drain(30) == 0

    buffer, screen = opened(folder)
    picks = screen.choose(sampled, asyncio.run).rows
    assert len(picks) == 6 and min(picks) > 5, "the ideas of the last batch still run"
    buffer.journal.write(lambda db: db.execute("delete from forecasts where step=4"))
    asyncio.run(arrive(buffer))
    buffer.close()
    buffer, screen = opened(folder)
    assert screen.choose(sampled, asyncio.run).rows == picks
    buffer.close()
    assert measured[0] == measured[1] and {outcome.step for outcome in measured[0]} == {1, 2}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--screen", "{learn: predicted}", "--cluster_weight", "ips"], "predicted and a cluster_weight"),
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


@pytest.mark.parametrize("learn", ["predicted", "none"])
def test_batches_that_train_nothing_are_refused_under_deepspeed(learn):
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2)))
    sharded = SimpleNamespace(is_deepspeed_enabled=True, accelerator=accelerator)
    recipe = load_recipe(RECIPE, ["--screen", f"{{over: 2, learn: {learn}}}"])
    with pytest.raises(RecipeError, match=f"learn: {learn}.*DeepSpeed moves the weights"):
        _refuse_screen_under_deepspeed(recipe, sharded)
    _refuse_screen_under_deepspeed(recipe, SimpleNamespace(is_deepspeed_enabled=False))
    _refuse_screen_under_deepspeed(load_recipe(RECIPE, ["--screen", "{over: 2}"]), sharded)
