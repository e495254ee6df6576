"""Trackers offline: a real transformers Trainer writes curves that are read back from the run's folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ideator_rl.training import tracking as module
from ideator_rl.training.recipe.keys import IdeatorConfig
from ideator_rl.training.recipe.recipe import Recipe
from ideator_rl.training.tracking import OTHERS, TRACKERS, TrackingError, labels, trackers, tracking, where_to_look


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """Variables as on a machine where nobody is logged in, and as before afterwards."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("WANDB_", "TRACKIO_", "TENSORBOARD_")):
            del os.environ[name]
    os.environ["NETRC"] = str(tmp_path / "no.netrc")
    monkeypatch.setattr(module, "_set", {})
    yield
    os.environ.clear()
    os.environ.update(before)


def recipe(folder, **grpo):
    return Recipe(IdeatorConfig(env="toy"), {"output_dir": str(folder), **grpo}, {})


def train(folder, names, max_steps, resume=False, **grpo):
    """Two or more steps of the real Trainer on a model of one number."""
    import torch
    from transformers import Trainer, TrainingArguments

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return {"loss": ((self.weight * x) ** 2).mean()}

    given = recipe(folder, report_to=names, **grpo)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=max_steps,
        logging_steps=1,
        save_steps=1,
        report_to=tracking(given, resume),
        disable_tqdm=True,
        use_cpu=True,
        **labels(given),
    )
    trainer = Trainer(model=One(), args=arguments, train_dataset=[{"x": 1.0}] * 8)
    trainer.train(resume_from_checkpoint=resume or None)
    return given


def test_the_real_trainer_is_told_the_names_that_the_docs_give(tmp_path):
    from trl import ModelConfig

    from ideator_rl.training.build import grpo_config

    made = grpo_config(recipe(tmp_path / "mine", report_to="none"), ModelConfig())
    assert (made.run_name, made.project) == ("mine", "ideator_rl")
    made = grpo_config(recipe(tmp_path / "mine", report_to="none", run_name="x", project="y"), ModelConfig())
    assert (made.run_name, made.project) == ("x", "y")


def installed(monkeypatch, *names):
    monkeypatch.setattr(module, "_installed", lambda name: name in names)


def test_trackio_is_the_default_where_it_is_installed(monkeypatch, tmp_path):
    installed(monkeypatch, "trackio", "tensorboard")
    assert trackers(recipe(tmp_path)) == ["trackio"] and trackers(recipe(tmp_path, report_to="none")) == []
    assert trackers(recipe(tmp_path, report_to="all")) == ["trackio", "tensorboard"]
    installed(monkeypatch)
    assert trackers(recipe(tmp_path)) == [] and where_to_look(recipe(tmp_path), []) == ""


def test_a_tracker_that_is_not_installed_is_told_with_the_pip_line(monkeypatch, tmp_path):
    installed(monkeypatch, "trackio")
    with pytest.raises(TrackingError, match=r"pip install 'ideator-rl\[wandb\]'") as caught:
        tracking(recipe(tmp_path / "run", report_to=["trackio", "wandb"]), False)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_told_with_the_nearest_one(tmp_path):
    with pytest.raises(TrackingError, match="'tensorbord'.*Did you mean 'tensorboard'"):
        trackers(recipe(tmp_path, report_to="tensorbord"))


def test_a_folder_of_the_name_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "trackio_of_a_run").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(TRACKERS, "wandb", ("trackio_of_a_run",))
    with pytest.raises(TrackingError, match="not installed"):
        trackers(recipe(tmp_path, report_to="wandb"))


def test_every_other_tracker_that_transformers_knows_is_passed_on():
    from transformers.integrations import integration_utils

    assert set(integration_utils.INTEGRATION_TO_CALLBACK) == {*TRACKERS, *OTHERS}


def test_the_user_has_the_last_word(tmp_path):
    os.environ["WANDB_MODE"], os.environ["WANDB_DIR"] = "disabled", "/elsewhere"
    pytest.importorskip("wandb")
    tracking(recipe(tmp_path / "run", report_to="wandb"), False)
    assert (os.environ["WANDB_MODE"], os.environ["WANDB_DIR"]) == ("disabled", "/elsewhere")


def test_a_second_run_of_a_process_has_a_folder_of_its_own(tmp_path):
    pytest.importorskip("tensorboard")
    for name in ("first", "second"):
        tracking(recipe(tmp_path / name, report_to="tensorboard"), False)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "second" / "tensorboard")


@pytest.mark.parametrize(
    ("variables", "mode"),
    [({}, "offline"), ({"WANDB_API_KEY": "k"}, None), ({"NETRC": "{tmp}/netrc"}, None)],
)
def test_wandb_is_offline_unless_the_user_is_logged_in(tmp_path, variables, mode):
    pytest.importorskip("wandb")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k\n")
    (tmp_path / "netrc").chmod(0o600)
    os.environ.update({key: value.format(tmp=tmp_path) for key, value in variables.items()})
    tracking(recipe(tmp_path / "run", report_to="wandb"), False)
    assert os.environ.get("WANDB_MODE") == mode


def test_tensorboard_curves_are_read_back_and_go_on_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", "tensorboard", 2)
    given = train(tmp_path / "run", "tensorboard", 4, resume=True)
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == [1, 2, 3, 4]
    assert where_to_look(given, ["tensorboard"]) == f"curves: `tensorboard --logdir {tmp_path}/run/tensorboard`"


def test_trackio_curves_are_read_back_from_the_run_and_go_on_after_a_resume(tmp_path):
    pytest.importorskip("trackio")
    import trackio  # noqa: F401 - before the variable is set, as trl does

    train(tmp_path / "other", "trackio", 1)
    train(tmp_path / "run", "trackio", 2)
    given = train(tmp_path / "run", "trackio", 4, resume=True)
    assert list((tmp_path / "run" / "trackio").glob("*.db"))
    words = ["get", "metric", "--project", "ideator_rl", "--run", "run", "--metric", "train/global_step", "--json"]
    told = subprocess.run(
        [sys.executable, "-m", "trackio.cli", *words], capture_output=True, text=True, env=dict(os.environ)
    )
    assert [row["value"] for row in json.loads(told.stdout)["values"]] == [1, 2, 2, 3, 4, 4], told
    assert f"TRACKIO_DIR={tmp_path}/run/trackio trackio show --project ideator_rl" in where_to_look(given, ["trackio"])


def test_wandb_writes_offline_and_goes_on_under_the_same_run(tmp_path):
    pytest.importorskip("wandb")
    import wandb

    train(tmp_path / "run", "wandb", 2)
    first = wandb.run.id
    wandb.finish()
    train(tmp_path / "run", "wandb", 3, resume=True)
    second, directory = wandb.run.id, wandb.run.dir
    wandb.finish()
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert first == second and len(files) == 2 and Path(directory).is_relative_to(tmp_path / "run")
    assert any(b"train/loss" in file.read_bytes() for file in files)
