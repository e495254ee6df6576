"""Trackers without a network: a real transformers Trainer writes curves that are read back from their files."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ideator_rl.diversity.alarms import Alarm
from ideator_rl.text.redaction import HIDDEN, Redactor
from ideator_rl.training import tracking
from ideator_rl.training.recipe.keys import IdeatorConfig
from ideator_rl.training.recipe.recipe import Recipe
from ideator_rl.training.tracking import (
    TRACKERS,
    TrackingError,
    run_name,
    send_alarm,
    send_traces,
    set_tracker_defaults,
    trackers,
    where_to_look,
)

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """The variables of a machine on which no tracker is configured; restored after the test."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("WANDB_", "TRACKIO_", "TENSORBOARD_")):
            del os.environ[name]
    monkeypatch.setattr(tracking, "_own_values", {})
    yield
    os.environ.clear()
    os.environ.update(before)


def recipe(folder, **grpo):
    return Recipe(IdeatorConfig(env="toy"), {"output_dir": str(folder), **grpo}, {})


def train(folder, tracker, max_steps, resume=False):
    """Some steps of the real Trainer on a model of one number."""
    set_tracker_defaults(recipe(folder, report_to=tracker))
    import torch
    from transformers import Trainer, TrainingArguments

    class OneWeight(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return {"loss": ((self.weight * x) ** 2).mean()}

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=max_steps,
        logging_steps=1,
        save_steps=1,
        report_to=[tracker],
        run_name=run_name(folder),
        project=tracking.PROJECT,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=OneWeight(), args=arguments, train_dataset=[{"x": 1.0}] * 8)
    trainer.train(resume_from_checkpoint=resume or None)


def test_the_trainer_is_given_the_names_that_the_docs_give(tmp_path):
    from trl import ModelConfig

    from ideator_rl.training.build import grpo_config

    config = grpo_config(recipe(tmp_path / "mine", report_to="none"), ModelConfig())
    assert (config.run_name, config.project, config.report_to) == ("mine", "ideator_rl", [])
    tracked = grpo_config(recipe(tmp_path / "mine", report_to="tensorboard"), ModelConfig())
    assert tracked.run_name == run_name(tmp_path / "mine") != "mine"
    config = grpo_config(recipe(tmp_path / "mine", report_to="none", run_name="x", project="y"), ModelConfig())
    assert (config.run_name, config.project) == ("x", "y")


def install(monkeypatch, *names):
    monkeypatch.setattr(tracking, "_is_installed", lambda name: name in names)


def test_trackio_is_the_default_where_it_is_installed(monkeypatch, tmp_path):
    install(monkeypatch, "trackio", "tensorboard")
    assert trackers(recipe(tmp_path)) == ["trackio"] and trackers(recipe(tmp_path, report_to="none")) == []
    assert trackers(recipe(tmp_path, report_to="all")) == ["trackio", "tensorboard"]
    install(monkeypatch)
    assert trackers(recipe(tmp_path)) == [] and where_to_look([], "p") == ""


def test_a_tracker_that_is_not_installed_is_refused_with_the_pip_line(monkeypatch, tmp_path):
    install(monkeypatch, "trackio")
    with pytest.raises(TrackingError, match=r"pip install 'ideator-rl\[wandb\]'") as caught:
        set_tracker_defaults(recipe(tmp_path / "run", report_to=["trackio", "wandb"]))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(TrackingError, match="'tensorbord'.*Did you mean 'tensorboard'"):
        trackers(recipe(tmp_path, report_to="tensorbord"))


def test_a_folder_with_the_name_of_a_tracker_is_not_its_package(monkeypatch, tmp_path):
    (tmp_path / "trackio_of_a_run").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(TRACKERS, "wandb", ("trackio_of_a_run",))
    with pytest.raises(TrackingError, match="not installed"):
        trackers(recipe(tmp_path, report_to="wandb"))


def test_other_trackers_of_transformers_are_passed_on(tmp_path):
    assert trackers(recipe(tmp_path, report_to=["mlflow", "comet_ml"])) == ["mlflow", "comet_ml"]


def test_variables_that_the_user_has_set_win(tmp_path):
    os.environ["WANDB_MODE"], os.environ["WANDB_DIR"] = "disabled", "/elsewhere"
    pytest.importorskip("wandb")
    set_tracker_defaults(recipe(tmp_path / "run", report_to="wandb"))
    assert (os.environ["WANDB_MODE"], os.environ["WANDB_DIR"]) == ("disabled", "/elsewhere")


def test_a_second_run_in_a_process_gets_a_folder_and_an_id_of_its_own(monkeypatch, tmp_path):
    install(monkeypatch, "wandb", "tensorboard")
    ids = []
    for name in ("first", "second"):
        set_tracker_defaults(recipe(tmp_path / name, report_to=["wandb", "tensorboard"]))
        ids.append(os.environ["WANDB_RUN_ID"])
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "second" / "tensorboard") and ids[0] != ids[1]


@pytest.mark.parametrize(("variables", "mode"), [({}, "offline"), ({"WANDB_API_KEY": "k"}, None)])
def test_wandb_is_offline_without_a_key(monkeypatch, tmp_path, variables, mode):
    install(monkeypatch, "wandb")
    os.environ.update(variables)
    set_tracker_defaults(recipe(tmp_path / "run", report_to="wandb"))
    assert os.environ.get("WANDB_MODE") == mode


def test_a_tracker_that_is_not_used_leaves_no_variables(tmp_path):
    before = dict(os.environ)
    set_tracker_defaults(recipe(tmp_path / "run", report_to="none"))
    assert dict(os.environ) == before


def test_tensorboard_curves_continue_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", "tensorboard", 2)
    train(tmp_path / "run", "tensorboard", 4, resume=True)
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == [1, 2, 3, 4]
    assert where_to_look(["tensorboard"], "p") == f"curves: `tensorboard --logdir {tmp_path}/run/tensorboard`"


def trackio_facts(file, query):
    """Rows of a database of trackio."""
    with closing(sqlite3.connect(file)) as database:
        return database.execute(query).fetchall()


def in_new_process(code, home):
    """trackio reads its variable when it is imported, so each session is a process of its own, as in a real run."""
    variables = {**os.environ, "PYTHONPATH": str(HERE), "HF_HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=variables)


@pytest.mark.slow
def test_trackio_has_the_curves_of_all_runs_in_one_database_and_continues_after_a_resume(tmp_path):
    pytest.importorskip("trackio")
    code = "from pathlib import Path; from test_tracking import train; "
    first, second = (f"train(Path('{tmp_path}/{name}/run'), 'trackio', " for name in "ab")
    in_new_process(f"{code} {first} 2)", tmp_path / "hub")
    in_new_process(f"{code} {first} 4, resume=True); {second} 1)", tmp_path / "hub")
    file = tmp_path / "hub" / "trackio" / "ideator_rl.db"
    rows = trackio_facts(file, "select run_name, metrics from metrics order by id")
    steps = [(name, json.loads(text)["train/global_step"]) for name, text in rows]
    first, second = run_name(tmp_path / "a" / "run"), run_name(tmp_path / "b" / "run")
    assert first != second and first.startswith("run-")
    assert steps == [(first, step) for step in (1, 2, 2, 3, 4, 4)] + [(second, 1), (second, 1)]
    assert where_to_look(["trackio"], "ideator_rl") == "curves: `trackio show --project ideator_rl`"


def test_trackio_shows_alarms_as_alerts_and_completions_as_traces():
    trackio = pytest.importorskip("trackio")
    project = f"alarms{os.getpid()}"
    trackio.init(project=project, name="r", embed=False)
    send_alarm(["trackio"], Alarm(3, "vendi", "stop", "few ideas"))
    chat = [{"role": "user", "content": "ask"}]
    redactor = Redactor({"api_key_env": "PHRASE"}, {"PHRASE": "from-the-recipe"})
    rows = [("ask", "answer\x1b]0;x from-the-recipe", {"execution": 0.5}), (chat, "second", {})]
    send_traces(["trackio"], rows, 3, redactor)
    trackio.finish()
    file = trackio.utils.TRACKIO_DIR / f"{project}.db"
    assert trackio_facts(file, "select title, text, level from alerts") == [("vendi", "few ideas", "error")]
    (first, facts), (second, _) = trackio_facts(file, "select messages, metadata from traces order by trace_index")
    assert [m["role"] for m in json.loads(first)] == [m["role"] for m in json.loads(second)] == ["user", "assistant"]
    assert json.loads(facts)["execution"] == 0.5 and "\x1b" not in json.loads(first)[1]["content"]
    assert json.loads(first)[1]["content"].endswith(HIDDEN)
    send_alarm(["wandb"], None)  # without trackio nothing is imported or sent


@pytest.fixture
def wandb():
    """Its service is a child of this process, and would end, with its CPU time, in any test of a run that follows."""
    wandb = pytest.importorskip("wandb")
    yield wandb
    wandb.teardown()


@pytest.mark.slow  # in CI's slow step
def test_wandb_writes_offline_and_continues_under_the_same_id(wandb, tmp_path):
    train(tmp_path / "run", "wandb", 2)
    first = wandb.run.id
    wandb.finish()
    train(tmp_path / "run", "wandb", 3, resume=True)
    second, directory = wandb.run.id, wandb.run.dir
    wandb.finish()
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert first == second and len(files) == 2 and Path(directory).is_relative_to(tmp_path / "run")
    assert any(b"train/loss" in file.read_bytes() for file in files)
