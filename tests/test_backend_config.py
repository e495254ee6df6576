"""Settings of backends and declared hardware: recipe keys, options of commands, and what an experiment's id holds."""

import json
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TOY, execute, run
from queued import queued_baseline

from ideator_rl.cli import engine_check
from ideator_rl.config.backend_config import read_backend_config
from ideator_rl.config.base import ConfigError
from ideator_rl.environments.environment import Preset, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.backends.backend import Backend, JobState
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.executor import Executor
from ideator_rl.executor.share import UnfitNode
from ideator_rl.experiment import hardware_class
from ideator_rl.sandbox import choose, static_proc
from ideator_rl.search.config import RecipeError, load_search, refuse_other
from ideator_rl.storage.bucket import FileBucket, open_bucket
from ideator_rl.storage.run_folder import MARK
from ideator_rl.training.recipe.recipe import load_recipe
from ideator_rl.training.session import buffer_config

TRAINING = str(Path(__file__).parent / "toy_recipe.yaml")


class Configured(LocalBackend):
    """The local backend, with the settings that it was created with."""

    @classmethod
    def create(cls, bucket, slots, isolation, settings=None):
        backend = cls(bucket.url, slots, isolation)
        backend.settings = settings
        return backend


def search_recipe(tmp_path, *lines):
    path = tmp_path / "search.yaml"
    path.write_text("\n".join([f"env: {TOY}", f"output_dir: {tmp_path}/run", "max_ideas: 2", *lines]))
    return str(path)


@pytest.mark.parametrize("of_search", [True, False])
def test_a_recipe_gives_a_backend_a_mapping_or_a_file(tmp_path, of_search):
    file = tmp_path / "engine.yaml"
    file.write_text("partition: gpu\nmost: 8\n")
    for value in (str(file), "{partition: gpu, most: 8}"):
        options = ["--backend", "slurm", "--backend-config", value, "--hardware", "H100"]
        if of_search:
            config = load_search(search_recipe(tmp_path), options).buffer()
        else:
            config = buffer_config(load_recipe(TRAINING, options))
        assert (config.backend, config.hardware) == ("slurm", "H100")
        assert json.loads(config.backend_config) == {"partition": "gpu", "most": 8}
        hash(config)


def test_another_backend_on_the_command_line_does_not_get_the_recipes_settings(tmp_path):
    recipe = search_recipe(tmp_path, "backend: slurm", "backend_config: {partition: gpu}")
    assert load_search(recipe).buffer().backend_config == '{"partition": "gpu"}'
    assert load_search(recipe, ["--backend", "local"]).buffer().backend_config == ""
    assert load_search(recipe, ["--backend", "slurm"]).buffer().backend_config == '{"partition": "gpu"}'


@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, "no settings of a backend in .*missing.yaml"),
        ("- a list", "must be a mapping of settings, got list"),
        ("partition: [", "is not readable YAML"),
        ("token: hf_abcdefghijklmnopqrstuvwxyz012345", "secret|token"),
    ],
)
def test_unusable_settings_are_refused_with_the_recipe(tmp_path, text, sentence):
    file = tmp_path / "missing.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_search(search_recipe(tmp_path), ["--backend_config", str(file)])
    with pytest.raises(ConfigError, match=sentence):
        read_backend_config(str(file))


def test_the_backend_is_created_with_its_settings(toy_config):
    config = replace(toy_config, backend="test_backend_config.Configured", backend_config='{"most": 4}')
    assert Executor(config).backend.settings == {"most": 4}
    assert Executor(replace(config, backend_config="")).backend.settings is None


def test_execute_takes_a_backend_with_its_settings_and_the_hardware(call, tmp_path):
    file = tmp_path / "engine.yaml"
    file.write_text("most: 4\n")
    words = ("--baseline", "--backend", "test_backend_config.Configured", "--backend-config", file)
    code, out, err = execute(call, tmp_path, *words)
    assert code == 0, err
    assert json.loads(out)["hardware"] == hardware_class(0)
    with pytest.raises(SystemExit):
        execute(call, tmp_path, "--baseline", "--hardware", "H100!")
    code, _, err = execute(call, tmp_path, "--baseline", "--backend-config", tmp_path / "none.yaml")
    assert code == 2 and "no settings of a backend" in err


class Broken(Backend):
    """An engine whose jobs end at once, or never."""

    every = 0.01

    @classmethod
    def create(cls, bucket, slots, isolation, settings=None):
        backend = cls()
        backend.reason, backend.names = (settings or {}).get("reason"), []
        return backend

    def submit(self, jobs):
        self.names = [job.name for job in jobs]
        return (
            dict.fromkeys(self.names) if self.reason != "refused" else dict.fromkeys(self.names, "No such partition.")
        )

    def listing(self):
        return {name: JobState("over", self.reason) if self.reason else JobState("waiting") for name in self.names}

    def log_tail(self, name):
        return "Traceback\nModuleNotFoundError: No module named 'ideator_rl'\n"


@pytest.mark.parametrize(
    "reason, sentence",
    [
        ("failed", "ended as failed: .*No module named 'ideator_rl'"),
        ("refused", "took no job: No such partition"),
        (None, "it is waiting; it was cancelled"),
    ],
)
def test_doctor_shows_why_an_engine_ran_no_job(tmp_path, monkeypatch, reason, sentence):
    monkeypatch.setattr(engine_check, "WAIT_SECONDS", 1.0)
    settings = {"reason": reason} if reason else {}
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    works, text = engine_check.try_backend("test_backend_config.Broken", bucket, settings, lambda line: None)
    assert not works and re.search(sentence, text)


def test_doctor_proves_a_backend_with_a_worker_that_finds_nothing_to_do(call, tmp_path):
    code, out, err = call("doctor", "--bucket", f"file://{tmp_path}/bucket", "--backend", "local", "--json")
    assert code == 0 and "local started a worker that opened the bucket" in json.loads(out)["backend"]
    assert "one job that does nothing" in err
    code, out, _ = call("doctor", "--bucket", f"file://{tmp_path}/bucket", "--backend", "slurmm", "--json")
    assert code == 1 and "None of the backends is named 'slurmm'" in json.loads(out)["backend"]
    assert not list((tmp_path / "bucket").glob("experiments/*"))


def test_a_preset_with_the_network_is_refused_on_a_remote_bucket():
    preset = load_environment(str(TOY)).preset("cpu")
    preset.refuse_network("s3://lab")
    preset = replace(preset, resources=replace(preset.resources, network=True))
    with pytest.raises(IdeatorError, match="s3://lab is remote: .* Use a preset without"):
        preset.refuse_network("s3://lab")


def test_an_executor_asks_that_of_remote_buckets_alone(toy_config, monkeypatch):
    def refuse(preset, url):
        raise IdeatorError(f"refused for {url}")

    monkeypatch.setattr(Preset, "refuse_network", refuse)
    Executor(toy_config)
    monkeypatch.setattr(FileBucket, "remote", True)
    with pytest.raises(IdeatorError, match="refused for file"):
        Executor(toy_config)


def test_declared_hardware_is_part_of_the_id_and_independent_of_this_machine(toy_config):
    def hardware(**changes):
        return Executor(replace(toy_config, backend="bucket", **changes))._hardware

    assert hardware() == f"cpu-{platform.machine()}"
    assert hardware(hardware="AMD EPYC") == hardware(hardware="amd-epyc") == "cpu-amd-epyc"
    assert hardware_class(8, "A100 80GB") == "gpu-a100-80gb" and hardware_class(8) == f"gpu-{platform.machine()}"


def test_a_resumed_run_keeps_its_hardware(tmp_path):
    config = load_search(search_recipe(tmp_path), ["--hardware", "h100"])
    config.folder.mkdir()
    (config.folder / MARK).write_text(config.text())
    refuse_other(config)
    with pytest.raises(RecipeError, match="hardware: 'h100'"):
        refuse_other(load_search(search_recipe(tmp_path), ["--hardware", "a100"]))


def test_a_worker_on_other_hardware_leaves_the_experiment_to_others(toy_config, capsys, monkeypatch):
    executor = Executor(replace(toy_config, backend="bucket", hardware="epyc 9999"))

    entry = run(queued_baseline(executor))
    id = entry.id
    assert entry.hardware == "epyc 9999"
    config = {"bucket": toy_config.bucket, "id": id, "isolation": "auto", "hardware": entry.hardware}
    worker = [sys.executable, "-m", "ideator_rl.executor.worker", json.dumps(config)]
    done = subprocess.run(worker, capture_output=True, text=True)
    assert done.returncode == 1 and "is for the hardware 'epyc 9999', and this worker has" in done.stderr
    assert record_store.attempts(executor.bucket, id) == []


def test_in_a_container_the_options_that_a_sandbox_needs_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "CONTAINER_MARKS", (str(tmp_path / "mark"),))
    assert "seccomp" not in choose.how_to_get_one()
    (tmp_path / "mark").touch()
    text, root = choose.how_to_get_one(), Path(TRAINING).parents[1]
    options = re.findall(r"--security-opt \w+=\w+", text)
    assert len(options) == 2
    for file in ("Dockerfile", "docs/how-to/containers.md"):
        content = (root / file).read_text()
        assert all(option in content for option in options) and "exec,nosuid,nodev,size=4g" in content


def test_a_cache_that_cannot_be_written_is_the_reason_why_no_sandbox_works(monkeypatch):
    def refuse(target, overwrite):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(static_proc, "atomic_folder", refuse)
    monkeypatch.setattr(static_proc, "MASKED_FOLDERS", ())  # another folder than the one that is there
    assert re.search("bubblewrap did not run: .*Permission denied", choose._probe("bwrap"))


def test_a_run_on_this_machine_that_declares_other_hardware_is_refused_before_it_waits(toy_config):
    with pytest.raises(UnfitNode, match="for the hardware 'epyc 9999', and this worker has"):
        Executor(replace(toy_config, hardware="epyc 9999"))
