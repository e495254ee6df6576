"""The callback in real trainers: figures among the logs, each action, and what a resumed run makes of them."""

import json
import sqlite3
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from recorded import record
from tiny_policy import arguments, build, by_text, rows, save_policy, weights
from trl import GRPOTrainer

from ideator_rl.diversity.alarms import CLUSTER, OVERREACH, SIGNATURE, Alarm
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.storage.journal import Journal
from ideator_rl.training import collapse_watch
from ideator_rl.training.advantages import make_advantage
from ideator_rl.training.advantages.facts import Facts
from ideator_rl.training.collapse_action import ACTIONS, Action, Deeds, Done
from ideator_rl.training.collapse_watch import CollapseWatch
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.temperature import set_temperature
from ideator_rl.training.trainer import IdeatorGRPOTrainer

ONE = "[Experiment] Set the rate to one half. [Code Changes] rate = 0.5 [End]"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


class Died(Exception):
    """Stands for a kill."""


class ScriptedBuffer:
    """A real journal in which every completion, whatever it says, is the same idea."""

    def __init__(self, folder, environment, dies_at=None):
        self.journal = Journal(folder / "buffer.sqlite")
        self.history, self.lineage = [record("one", value=2.0)], []
        self.executor, self.config = SimpleNamespace(environment=environment), SimpleNamespace(preset="cpu")
        self.dies_at = dies_at

    async def reward(self, completions, trainer_state, **_):
        step = trainer_state.global_step
        if step == self.dies_at:
            raise Died
        first = self.journal.propose(step, [ONE] * len(completions))
        for position in range(len(completions)):
            self.journal.settle(step, first + position, self.history[0])
        self.journal._proposed[step] = 0  # a resumed run is a new process, which counts from 0
        return await by_text(completions)


@contextmanager
def watched(policy, folder, toy, monkeypatch, kind=IdeatorGRPOTrainer, dies_at=None, action=None, more=None, **given):
    folder.mkdir(exist_ok=True)
    buffer = ScriptedBuffer(folder, load_environment(str(toy)), dies_at)
    args = arguments(folder, **{"max_steps": 6, "save_strategy": "steps", "save_steps": 1, **(more or {})})
    trainer = build(kind, policy, args, buffer.reward, **given)
    said = []
    trainer.add_callback(CollapseWatch(trainer, action, buffer=buffer, embedder="hashed", say=said.append))
    trainer.said = said
    yield trainer
    buffer.journal.close()


def logged(trainer, name):
    return [each[name] for each in trainer.state.log_history if name in each]


@pytest.mark.parametrize("kind", [GRPOTrainer, IdeatorGRPOTrainer])
def test_figures_and_the_alarm_stand_among_the_trainer_s_logs(policy, tmp_path, toy, monkeypatch, kind):
    with watched(policy, tmp_path, toy, monkeypatch, kind) as trainer:
        trainer.train()
        assert logged(trainer, "diversity/largest_cluster") == [1.0] * 6
        assert logged(trainer, "diversity/vendi") == pytest.approx([1.0] * 6)
        assert logged(trainer, "diversity/success") == [1.0] * 6
        assert logged(trainer, "diversity/past_duplicates") == [1.0] * 5
        assert logged(trainer, "collapse/alarm") == [0, 0, 2, 2, 2, 2]
        assert [line for line in trainer.said if line.startswith("stop: For 3 windows one cluster")]
        assert trainer.state.global_step == 6 and trainer.temperature == 1.0, "it only warns"
    kept = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [each["diversity/vendi"] for each in kept if "diversity/vendi" in each] == pytest.approx([1.0] * 6)


def test_watching_changes_no_weight(policy, tmp_path, toy, monkeypatch):
    with watched(policy, tmp_path / "seen", toy, monkeypatch) as seen:
        seen.train()
    (tmp_path / "unseen").mkdir()
    args = arguments(tmp_path / "unseen", max_steps=6)
    unseen = build(IdeatorGRPOTrainer, policy, args, by_text)
    unseen.train()
    assert all(torch.equal(tensor, weights(unseen)[name]) for name, tensor in weights(seen).items())


def test_a_stock_trainer_with_the_execution_reward_is_watched_too(policy, tmp_path, toy_config):
    from dataclasses import asdict

    from datasets import Dataset

    from ideator_rl.reward_buffer import open_buffer
    from rewards.execution import execution_reward

    config = {name: value for name, value in asdict(toy_config).items() if value is not None}
    data = Dataset.from_list([row | config for row in rows()])
    trainer = build(GRPOTrainer, policy, arguments(tmp_path / "out", max_steps=2), execution_reward, data)
    trainer.add_callback(CollapseWatch(trainer, embedder="hashed"))
    trainer.train()
    open_buffer(toy_config).close()
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        shares = [
            db.execute("select avg(status = 'malformed') from rollouts where step = ?", (step,)).fetchone()[0]
            for step in (0, 1)
        ]
    assert logged(trainer, "diversity/malformed") == pytest.approx(shares)
    assert logged(trainer, "diversity/success") == pytest.approx([1 - share for share in shares], abs=1.0)


def test_the_temperature_is_raised_for_sampling_and_for_the_loss_alike(policy, tmp_path, toy, monkeypatch):
    action = Action("raise_temperature", factor=1.3, ceiling=1.4)
    with watched(policy, tmp_path, toy, monkeypatch, action=action, more={"beta": 0.1}) as trainer:
        trainer.train()
        assert logged(trainer, "collapse/temperature") == [1.0] * 3 + [1.3] * 3
        assert trainer.generation_config.temperature == trainer.generation_kwargs["temperature"] == 1.3
        assert any("the temperature is 1.3 from now on" in line for line in trainer.said)
        for model in (trainer.model, trainer.ref_model):
            ids = torch.tensor([[5, 6, 7, 8, 9]])
            got = trainer._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), 3)[0]
            logits = model(input_ids=ids).logits[:, 1:-1] / 1.3
            want = torch.log_softmax(logits, dim=-1).gather(2, ids[:, 2:].unsqueeze(2)).squeeze(2)
            assert torch.allclose(got, want, atol=1e-5)
    done = json.loads((tmp_path / "collapse.json").read_text())
    assert [(each["step"], each["temperature"], each["cause"]) for each in done] == [(3, 1.3, CLUSTER)]


@pytest.mark.parametrize("lag", [0, 1])
def test_what_was_sampled_is_trained_with_the_log_probs_of_its_own_temperature(policy, tmp_path, toy, monkeypatch, lag):
    """On policy the ratio to sampling time is 1 in every step; with lag the first step after the change is off."""
    action = Action("raise_temperature", factor=1.3, ceiling=1.4)
    config = PipelineConfig(max_staleness=lag, deadline=1e6)  # a deadline: log-probs of sampling time are kept
    with watched(
        policy, tmp_path, toy, monkeypatch, action=action, more={"learning_rate": 0.0}, pipeline=config
    ) as trainer:
        trainer.train()
        off = logged(trainer, "pipeline/ratio_off_max")
    assert off[:3] == pytest.approx([0] * 3, abs=1e-5) and off[4:] == pytest.approx([0] * 2, abs=1e-5)
    assert (off[3] > 0.05) == (lag == 1), "a batch that was sampled before is off by the change, and told so"


def test_within_a_batch_the_temperature_stays(policy, tmp_path, toy, monkeypatch):
    more = {"num_iterations": 2, "max_steps": 9, "learning_rate": 0.0}
    action = Action("raise_temperature", factor=1.3, ceiling=1.4)
    with watched(policy, tmp_path, toy, monkeypatch, action=action, more=more) as trainer:
        trainer.train()
        off = logged(trainer, "pipeline/ratio_off_max")
        assert trainer.temperature == 1.3 and max(off) < 1e-5
    assert json.loads((tmp_path / "collapse.json").read_text())[0]["step"] == 6, "after the third batch of two steps"


def test_the_advantage_is_switched_once(policy, tmp_path, toy, monkeypatch):
    action = Action("switch_advantage", advantage="max_at_k", options={"k": 2})
    with watched(policy, tmp_path, toy, monkeypatch, action=action, more={"max_steps": 14}) as trainer:
        before = trainer._advantage
        trainer.train()
        told = Facts(torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.long), 0.5)
        rewards = torch.tensor([[0.1, 0.4, 0.2, 0.9]])
        wanted = make_advantage("max_at_k", {"k": 2}, 4)(rewards, told)
        assert torch.equal(trainer._advantage(rewards, told), wanted)
        assert not torch.allclose(before(rewards, told), wanted)
    assert len(json.loads((tmp_path / "collapse.json").read_text())) == 1


def test_a_run_stops_with_a_checkpoint_and_goes_on_where_it_is_told_to(policy, tmp_path, toy, monkeypatch):
    with watched(policy, tmp_path, toy, monkeypatch, action=Action("stop"), more={"save_steps": 50}) as trainer:
        trainer.train()
        assert trainer.state.global_step == 3 and "collapse: training stops (largest_cluster)" in trainer.said
    with watched(policy, tmp_path, toy, monkeypatch, more={"save_steps": 50}) as again:
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert again.state.global_step == 6


@pytest.mark.parametrize(("died", "checkpoint"), [(4, 4), (4, 2)], ids=["after the switch", "before it"])
@pytest.mark.parametrize(
    "action",
    [Action("raise_temperature", 1.3, 1.4), Action("switch_advantage", options={"k": 2})],
    ids=["temperature", "advantage"],
)
def test_a_run_that_died_ends_with_the_weights_of_an_untouched_one(
    policy, tmp_path, toy, monkeypatch, action, died, checkpoint
):
    with watched(policy, tmp_path / "whole", toy, monkeypatch, action=action) as whole:
        whole.train()
    with (
        watched(policy, tmp_path / "died", toy, monkeypatch, action=action, dies_at=died) as dies,
        pytest.raises(Died),
    ):
        dies.train()
    with watched(policy, tmp_path / "died", toy, monkeypatch, action=action) as resumed:
        resumed.train(resume_from_checkpoint=str(tmp_path / "died" / f"checkpoint-{checkpoint}"))
        assert resumed.temperature == whole.temperature
    assert (tmp_path / "died" / "collapse.json").read_text() == (tmp_path / "whole" / "collapse.json").read_text()
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())
    assert logged(resumed, "diversity/past_duplicates") == logged(whole, "diversity/past_duplicates")


def test_figures_that_fail_do_not_end_a_run(policy, tmp_path, toy, monkeypatch, caplog):
    with watched(policy, tmp_path, toy, monkeypatch, more={"max_steps": 2}) as trainer:
        monkeypatch.setattr(collapse_watch, "surroundings", lambda *_: 1 / 0)
        trainer.train()
        assert trainer.state.global_step == 2 and "The figures of step 1 are missing" in caplog.text


def test_what_cannot_be_done_is_refused_when_the_trainer_is_made(policy, tmp_path, toy, monkeypatch):
    stock = build(GRPOTrainer, policy, arguments(tmp_path), by_text)
    with pytest.raises(IdeatorError, match="GRPOTrainer has one advantage only"):
        CollapseWatch(stock, Action("switch_advantage"))
    with pytest.raises(IdeatorError, match="expected a higher ceiling"):
        CollapseWatch(stock, Action("raise_temperature", ceiling=1.0))
    with pytest.raises(IdeatorError, match="expected one of warn, raise_temperature, switch_advantage, stop"):
        Action("panic")
    with pytest.raises(IdeatorError, match="expected a number above 1"):
        Action("raise_temperature", factor=0.9)
    assert ACTIONS == ("warn", "raise_temperature", "switch_advantage", "stop")
    set_temperature(stock, 2.0)
    assert stock.temperature == stock.generation_config.temperature == 2.0


def test_only_signs_of_a_collapse_are_acted_on_and_then_there_is_rest():
    raises, stops = Action("raise_temperature", 1.2, 1.5), Action("stop")
    warned, sure = Alarm(9, SIGNATURE, "warn", ""), Alarm(9, CLUSTER, "stop", "")
    now = Done(12, 12)
    assert raises.decide([Alarm(9, OVERREACH, "warn", "")], 1.0, [], now) is None
    assert raises.decide([warned], 1.0, [], now).temperature == pytest.approx(1.2)
    assert raises.decide([warned], 1.4, [], now).temperature == 1.5
    assert raises.decide([warned], 1.5, [], now) is None, "it is at the ceiling"
    assert raises.decide([warned], 1.2, [Done(3, 3)], now) is None
    assert raises.decide([warned], 1.2, [Done(2, 2)], now) is not None
    assert stops.decide([warned], 1.0, [], now) is None and stops.decide([warned, sure], 1.0, [], now).cause == CLUSTER
    stopped = [Done(3, 3, "stop", CLUSTER)]
    assert stops.decide([sure], 1.0, stopped, now) is None, "a stopped run that is resumed goes on for a while"
    assert stops.decide([sure], 1.0, stopped, Done(13, 13)) == Done(13, 13, "stop", CLUSTER)
    assert Action().decide([sure], 1.0, [], now) is None


def test_what_was_done_is_read_back_and_a_new_run_begins_without_it(tmp_path):
    deeds = Deeds(tmp_path / "run", fresh=True)
    deeds.enter(Done(3, 3, "raise_temperature", CLUSTER, 1.2))
    assert Deeds(tmp_path / "run", fresh=False).done == deeds.done
    assert Deeds(tmp_path / "run", fresh=True).done == [] == Deeds(tmp_path / "run", fresh=False).done
    (tmp_path / "run" / "collapse.json").write_text("{")
    with pytest.raises(IdeatorError, match="It says what a run has done against a collapse"):
        Deeds(tmp_path / "run", fresh=False)
