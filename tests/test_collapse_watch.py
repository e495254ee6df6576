"""The collapse callback in real trainers: metrics in the logs, the stop, and resumed runs."""

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
from ideator_rl.training.collapse_watch import CollapseWatch, Stop, check_action, read_stops, should_stop
from ideator_rl.training.trainer import IdeatorGRPOTrainer

ONE = "[Experiment] Set the rate to one half. [Code Changes] rate = 0.5 [End]"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


class Died(Exception):
    """Raised in place of a kill."""


class ScriptedBuffer:
    """A real journal in which every completion counts as the same idea."""

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
def watched(policy, folder, toy, monkeypatch, kind=IdeatorGRPOTrainer, dies_at=None, action="warn", more=None, **given):
    folder.mkdir(exist_ok=True)
    buffer = ScriptedBuffer(folder, load_environment(str(toy)), dies_at)
    args = arguments(folder, **{"max_steps": 6, "save_strategy": "steps", "save_steps": 1, **(more or {})})
    trainer = build(kind, policy, args, buffer.reward, **given)
    lines = []
    trainer.add_callback(CollapseWatch(trainer, action, embedder="hashed", say=lines.append, buffer=buffer))
    trainer.lines = lines
    yield trainer
    buffer.journal.close()


def logged(trainer, name):
    return [log[name] for log in trainer.state.log_history if name in log]


@pytest.mark.parametrize("kind", [GRPOTrainer, IdeatorGRPOTrainer])
def test_metrics_and_the_alarm_are_in_the_trainer_s_logs(policy, tmp_path, toy, monkeypatch, kind):
    with watched(policy, tmp_path, toy, monkeypatch, kind) as trainer:
        trainer.train()
        assert logged(trainer, "diversity/largest_cluster") == [1.0] * 6
        assert logged(trainer, "diversity/vendi") == pytest.approx([1.0] * 6)
        assert logged(trainer, "diversity/success") == [1.0] * 6
        assert logged(trainer, "diversity/past_duplicates") == [1.0] * 5
        assert logged(trainer, "collapse/alarm") == [0, 0, 2, 2, 2, 2]
        assert [line for line in trainer.lines if line.startswith("stop: For 3 windows one cluster")]
        assert trainer.state.global_step == 6 and trainer.temperature == 1.0, "it only warns"
    stored = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [log["diversity/vendi"] for log in stored if "diversity/vendi" in log] == pytest.approx([1.0] * 6)


def test_watching_changes_no_weight(policy, tmp_path, toy, monkeypatch):
    with watched(policy, tmp_path / "watched", toy, monkeypatch) as watched_trainer:
        watched_trainer.train()
    (tmp_path / "plain").mkdir()
    args = arguments(tmp_path / "plain", max_steps=6)
    plain = build(IdeatorGRPOTrainer, policy, args, by_text)
    plain.train()
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(watched_trainer).items())


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


def test_a_run_stops_with_a_checkpoint_and_continues_with_warn(policy, tmp_path, toy, monkeypatch):
    with watched(policy, tmp_path, toy, monkeypatch, action="stop", more={"save_steps": 50}) as trainer:
        trainer.train()
        assert trainer.state.global_step == 3 and "collapse: training stops (largest_cluster)" in trainer.lines
    with watched(policy, tmp_path, toy, monkeypatch, more={"save_steps": 50}) as again:
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert again.state.global_step == 6


def test_a_stop_whose_checkpoint_is_lost_is_repeated_at_the_same_step(policy, tmp_path, toy, monkeypatch):
    with watched(policy, tmp_path, toy, monkeypatch, action="stop") as trainer:
        trainer.train()
    with watched(policy, tmp_path, toy, monkeypatch, action="stop") as resumed:
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert resumed.state.global_step == 3
    assert [stop["step"] for stop in json.loads((tmp_path / "collapse.json").read_text())] == [3]


def test_a_run_that_died_logs_the_same_metrics_as_one_that_did_not(policy, tmp_path, toy, monkeypatch):
    with watched(policy, tmp_path / "unbroken", toy, monkeypatch) as unbroken:
        unbroken.train()
    with watched(policy, tmp_path / "died", toy, monkeypatch, dies_at=4) as dies, pytest.raises(Died):
        dies.train()
    with watched(policy, tmp_path / "died", toy, monkeypatch) as resumed:
        resumed.train(resume_from_checkpoint=str(tmp_path / "died" / "checkpoint-2"))
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(unbroken).items())
    assert logged(resumed, "diversity/past_duplicates") == logged(unbroken, "diversity/past_duplicates")


def test_an_error_in_the_metrics_does_not_end_a_run(policy, tmp_path, toy, monkeypatch, caplog):
    with watched(policy, tmp_path, toy, monkeypatch, more={"max_steps": 2}) as trainer:
        monkeypatch.setattr(collapse_watch, "environment_context", lambda *_: 1 / 0)
        trainer.train()
        assert trainer.state.global_step == 2 and "The figures of step 1 are missing" in caplog.text


def test_an_unknown_action_is_refused_when_the_callback_is_made():
    with pytest.raises(IdeatorError, match="collapse_action is 'panic'; expected one of warn, stop"):
        CollapseWatch(None, "panic")
    assert check_action("stop") == "stop"


def test_a_run_stops_only_at_a_sign_of_collapse_of_level_stop_and_then_rests():
    warning, collapse = Alarm(9, SIGNATURE, "warn", ""), Alarm(9, CLUSTER, "stop", "")
    assert should_stop([Alarm(9, OVERREACH, "stop", "")], 12, []) is None, "over-reaching is no collapse"
    assert should_stop([warning], 12, []) is None
    assert should_stop([warning, collapse], 12, []) == collapse
    stops = [Stop(3, 3, "stop", CLUSTER)]
    assert should_stop([collapse], 12, stops) is None, "a resumed run goes on for ten windows"
    assert should_stop([collapse], 13, stops) == collapse


def test_actions_of_an_old_run_that_are_gone_are_named_and_left_out(tmp_path, caplog):
    old = {"step": 2, "window": 2, "action": "raise_temperature", "cause": "vendi", "temperature": 1.2}
    stop = {"step": 5, "window": 5, "action": "stop", "cause": "vendi", "temperature": None, "advantage": None}
    (tmp_path / "collapse.json").write_text(json.dumps([old, stop]))
    assert read_stops(tmp_path / "collapse.json") == [Stop(5, 5, "stop", "vendi")]
    assert "took raise_temperature at step 2, which has no effect any more" in caplog.text


def test_a_damaged_record_of_stops_is_refused(tmp_path):
    assert read_stops(tmp_path / "collapse.json") == []
    (tmp_path / "collapse.json").write_text("{")
    with pytest.raises(IdeatorError, match="collapse.json cannot be read"):
        read_stops(tmp_path / "collapse.json")
