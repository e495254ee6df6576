import json
import shutil
from pathlib import Path

import pytest
import yaml

from ideator_rl.environments.environment import EnvironmentError_, load_environment
from ideator_rl.files import cache_root


@pytest.fixture
def copy(toy, tmp_path):
    shutil.copytree(toy, tmp_path / "env", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "env"


def edit(folder, change):
    raw = yaml.safe_load((folder / "env.yaml").read_text())
    change(raw)
    (folder / "env.yaml").write_text(yaml.safe_dump(raw))
    return folder


def test_a_preset_writes_its_settings_into_the_baseline(toy):
    environment = load_environment(toy)
    assert "\npause = 0.4  # seconds\n" in environment.baseline("slow")["train.py"]
    assert "\nx = 4.0\n" in environment.baseline("cpu")["train.py"]


def test_every_built_in_environment_loads_by_name():
    assert load_environment("nanogpt").metric.direction == "min"


def test_the_prompt_holds_the_task_and_the_files(toy):
    prompt = load_environment(toy).prompt("cpu", "full")
    assert "lower is better" in prompt and "x = 4.0" in prompt and "{" not in prompt.split("import")[0]


def test_the_digest_changes_with_everything_that_decides_the_metric(toy, copy):
    first = load_environment(toy).digest("cpu")
    assert load_environment(copy).digest("cpu") == first
    assert load_environment(copy).digest("slow") != first
    (copy / "task.md").write_text("other words")
    assert load_environment(copy).digest("cpu") == first
    (copy / "evaluator.py").write_text((copy / "evaluator.py").read_text() + "\n")
    assert load_environment(copy).digest("cpu") != first


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda raw: raw.pop("evaluator"), "has no 'evaluator'"),
        (lambda raw: raw.update(evaluator="gone.py"), "no such file"),
        (lambda raw: raw.update(prompts={"short": ""}), "prompts.short names , but there is no such file"),
        (lambda raw: raw.update(evalator="evaluator.py"), "Did you mean 'evaluator'?"),
        (lambda raw: raw.update(hiden=None), "Did you mean 'hidden'?"),
        (lambda raw: raw["presets"]["cpu"].update(budgets=None), "unknown key 'presets.cpu.budgets'"),
        (lambda raw: raw["metric"].update(direction="down"), "Expected min or max"),
        (lambda raw: raw["metric"].pop("plausible"), "no 'metric.plausible'"),
        (lambda raw: raw["presets"]["cpu"].pop("budget"), "no 'presets.cpu.budget'"),
        (lambda raw: raw["presets"]["cpu"]["budget"].update(clock="sun"), "Expected cpu or wall"),
        (lambda raw: raw["presets"]["cpu"]["budget"].update(seconds="4"), "Expected a number above 0"),
        (lambda raw: raw["presets"]["cpu"]["settings"].update(w=1), "assigns it 0 times"),
        (lambda raw: raw.update(presets={}), "presets: {}. Expected a mapping with at least one preset"),
        (lambda raw: raw["reward"].update(transform="square"), "Expected inverse or identity"),
    ],
)
def test_a_broken_manifest_is_one_clear_sentence(copy, change, text):
    with pytest.raises(EnvironmentError_) as caught:
        load_environment(edit(copy, change))
    assert text in str(caught.value) and "env.yaml" in str(caught.value) or "assigns" in text


def test_unreadable_yaml_a_missing_manifest_and_an_unknown_name_have_their_own_messages(copy, tmp_path):
    (copy / "env.yaml").write_text("a: [")
    with pytest.raises(EnvironmentError_, match="not readable YAML"):
        load_environment(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EnvironmentError_, match="has no env.yaml"):
        load_environment(tmp_path / "empty")
    with pytest.raises(EnvironmentError_, match="nanogpt"):
        load_environment("nanogtp")


def test_an_unknown_preset_names_the_known_ones(toy):
    with pytest.raises(EnvironmentError_, match="cpu, slow"):
        load_environment(toy).preset("gpu")


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "5", "{}", '{"presets": []}'])
def test_a_damaged_cache_of_manifest_keys_counts_as_missing_and_is_replaced(copy, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    environment = load_environment(copy)
    (cached,) = (cache_root() / "manifests").glob("*.json")
    good = json.loads(cached.read_text())
    cached.write_text(damage)
    assert load_environment(copy) == environment
    assert json.loads(cached.read_text()) == good


def test_an_environment_loads_where_the_user_has_no_home_and_no_cache(copy, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert load_environment(copy).name


def test_a_new_version_of_the_checks_does_not_read_the_keys_that_an_older_one_cached(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_environment(copy)
    (cached,) = (cache_root() / "manifests").glob("*.json")
    read, checks = Path.read_bytes, ("manifest.py", "base.py")
    for name in checks:
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=name: read(path) + b"#" * (path.name == name))
        cached.write_text("changed")
        load_environment(copy)
        assert cached.read_text() == "changed"
