"""What a preset replaces of its environment, and the keys of a preset that came later."""

import json
import shutil

import pytest
import yaml

from ideator_rl.cli.commands import main
from ideator_rl.environments.environment import EnvironmentError_, load_environment
from ideator_rl.environments.preset import ScoringLimits
from ideator_rl.patch import PatchError, judge

OLD_DIGESTS = {
    ("nanogpt", "cpu"): "76b190248da33d59591040a0e06f1c2837ce12e7a027bf47",
    ("grpo_math", "cpu"): "d91cde46f0ac14cd4ea6d65e07a98700f3702fdfab5d0c",
    ("landscape", "s0"): "00b869b823e638c3636ef783d62a742e3253a8bc9ed6ee",
    ("landscape", "t0"): "040292537686ef2a9c886bda21f836e7e2858233cc7debe",
}
"""Their first 46 characters: experiments of earlier releases are found again by them."""


@pytest.fixture
def folder(toy, tmp_path):
    """A copy of the toy whose preset `large` has another baseline, task, prompt, catalogue and evaluator."""
    folder = tmp_path / "env"
    shutil.copytree(toy, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(folder / "baseline", folder / "baseline_large")
    script = (folder / "baseline" / "train.py").read_text()
    (folder / "baseline_large" / "train.py").unlink()
    (folder / "baseline_large" / "main.py").write_text(script + "\n# the large one\n")
    shutil.copy(folder / "evaluator.py", folder / "evaluator_large.py")
    (folder / "task_large.md").write_text("The large task.\n")
    (folder / "prompt_large.md").write_text("{task} {files}")
    catalogue = (folder / "edits.yaml").read_text().replace("file: train.py", "file: main.py")
    (folder / "edits_large.yaml").write_text(catalogue)
    return folder


LARGE = {
    "baseline": "baseline_large", "command": ["python", "main.py"], "preload": ["json"], "task": "task_large.md",
    "prompts": {"short": "prompt_large.md"}, "catalogue": "edits_large.yaml", "settings_file": "main.py",
    "evaluator": "evaluator_large.py", "protected": ["fixed.py"], "max_bytes": 50, "plausible": [1.0, 20.0],
}  # fmt: skip


def write(folder, **keys):
    """Add the preset `large` with these keys; returns the environment."""
    raw = yaml.safe_load((folder / "env.yaml").read_text())
    raw["presets"]["large"] = {**raw["presets"]["cpu"], **keys}
    (folder / "env.yaml").write_text(yaml.safe_dump(raw))
    return load_environment(folder)


def test_a_preset_replaces_the_environments_values_and_leaves_other_presets_alone(folder):
    environment = write(folder, **LARGE)
    large, cpu = environment.at("large"), environment.at("cpu")
    assert cpu is environment and large.at("cpu") is environment and large.at("large") is large
    assert large.command == ("python", "main.py") and large.script == "main.py" and large.preload == ("json",)
    assert large.task == "The large task." and large.catalogue_path == folder / "edits_large.yaml"
    assert large.metric.plausible == (1.0, 20.0) and cpu.metric.plausible == (0.0, 1000.0)
    assert "fixed.py" in large.rules.protected and large.rules.max_bytes == 50
    assert "fixed.py" not in cpu.rules.protected and cpu.command == ("python", "train.py")


def test_what_takes_a_presets_name_uses_what_it_replaces(folder):
    environment = write(folder, **LARGE)
    for asked in (environment, environment.at("large"), environment.at("slow")):
        assert list(asked.baseline("large")) == ["main.py"] and list(asked.baseline("cpu")) == ["train.py"]
        assert asked.prompt("large").startswith("The large task.") and "# the large one" in asked.prompt("large")
        assert asked.digest("large") != asked.digest("cpu")
        with pytest.raises(EnvironmentError_, match="no prompt 'full'. It has: short"):
            asked.prompt("large", "full")
    with pytest.raises(PatchError, match="50"):
        judge(environment.baseline("large"), {"main.py": "x" * 60}, environment.at("large").rules)


def test_patch_keeps_the_rules_of_a_preset(folder, tmp_path, capsys):
    write(folder, **LARGE)
    old, new = "y = 0.0", "y = 0.0  # " + "a" * 50
    edit = f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"
    (tmp_path / "edit").write_text(f"train.py\n{edit}")
    line = ["patch", "--base", folder / "baseline", "--diff", tmp_path / "edit", "--env", folder]
    assert main([*map(str, line), "--out", str(tmp_path / "a")]) == 0
    assert main([*map(str, line), "--preset", "large", "--out", str(tmp_path / "b")]) == 1
    assert "50" in capsys.readouterr().err


def test_an_environment_at_an_unknown_preset_lists_the_presets(folder):
    with pytest.raises(EnvironmentError_, match="has no preset 'huge'. It has: cpu, slow"):
        load_environment(folder).at("huge")


def test_a_replaced_file_of_the_environment_is_protected(folder):
    rules = write(folder, **LARGE).at("large").rules
    assert {"evaluator_large.py", "task_large.md", "prompt_large.md", "edits_large.yaml"} <= set(rules.protected)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"task": "gone.md"}, "presets.large: task names gone.md, but there is no such file"),
        ({"baseline": "gone"}, "there is no folder gone/"),
        ({"baseline": "baseline_large"}, "presets.large: settings_file names train.py, but baseline_large/ has no"),
        ({"baseline": "../outside"}, "Expected a folder inside the environment's folder"),
        ({"plausible": [3.0, 1.0]}, "[3.0, 1.0]. Expected [lowest, highest]"),
        ({"ranks": 0}, "presets.large.ranks: 0"),
        ({"ranks": 512}, "ranks: 512. Expected fewer than resources.processes, 512"),
        ({"variables": {"LD_PRELOAD": "x.so"}}, "Expected names in capitals"),
        ({"variables": {"PYTHONPATH": "/x"}}, "Expected names in capitals"),
        ({"variables": {"IDEATOR_SEED": "3"}}, "Expected names in capitals"),
        ({"variables": {"RANK": "3"}}, "Expected names in capitals"),
        ({"variables": {"LOCAL_WORLD_SIZE": "3"}}, "Expected names in capitals"),
        ({"variables": {"NCCL_DEBUG": "WARN\nX"}}, "Expected names in capitals"),
        ({"scoring": {"slots": 3}}, "unknown key 'presets.large.scoring.slots'"),
        ({"resources": {"artifact_gb": 0}}, "Expected a number above 0"),
    ],
)
def test_a_wrong_value_in_a_preset_is_one_sentence(folder, keys, text):
    with pytest.raises(EnvironmentError_) as caught:
        write(folder, **keys)
    assert text in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_sizes_follow_from_the_artifact(folder):
    environment = write(folder, resources={"artifact_gb": 4, "shm_gb": 2.0, "tmp_gb": 8})
    large, cpu = environment.preset("large").resources, environment.preset("cpu").resources
    assert (large.artifact_bytes, large.shm_bytes, large.tmp_bytes) == (4 * 10**9, 2 * 10**9, 8 * 10**9)
    assert large.file_bytes == 4 * 10**9 and large.disk_gb == 10.0
    assert cpu.artifact_bytes == cpu.shm_bytes == cpu.tmp_bytes == 256 << 20
    assert cpu.file_bytes == 1 << 30 and cpu.disk_gb == 2.0
    assert write(folder, resources={"artifact_gb": 4, "disk_gb": 5}).preset("large").resources.disk_gb == 5


def test_later_keys_enter_the_digest_only_where_they_are_set(folder):
    digest = write(folder).digest("large")
    assert digest == load_environment(folder).digest("cpu")
    unset = {"ranks": 1, "variables": {}, "scoring": {"seconds": 600}}
    assert write(folder, **unset).digest("large") == digest
    cpus = {"cpus": 1, "gpus": 0, "memory_gb": 1}
    changes = (
        {"ranks": 2}, {"variables": {"NCCL_DEBUG": "WARN"}}, {"scoring": {"answer_seconds": 300}},
        {"resources": {**cpus, "shm_gb": 1}}, {"resources": {**cpus, "artifact_gb": 1, "disk_gb": 2.0}},
        {"target": 3.28}, {"target": 3.2},
    )  # fmt: skip
    assert len({digest, *(write(folder, **change).digest("large") for change in changes)}) == 1 + len(changes)


def test_settings_without_a_settings_file_enter_the_digest(folder):
    raw = yaml.safe_load((folder / "env.yaml").read_text())
    digests = []
    for windows in (64, 512):
        raw["presets"]["cpu"]["settings"] = {"windows": windows}
        (folder / "env.yaml").write_text(yaml.safe_dump(raw | {"settings_file": None}))
        environment = load_environment(folder)
        assert environment.baseline("cpu")["train.py"] == (folder / "baseline" / "train.py").read_bytes().decode()
        digests.append(environment.digest("cpu"))
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    "line",
    [
        'HELPER = load_trusted(Path(__file__).with_name("helper.py"))', 'HELPER = load_trusted(ROOT + "/helper.py")',
        "import helper", "from helper import mean", "from .helper import mean", "from . import helper",
        "import my_plugin.helper", "from my_plugin import helper",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["evaluator", "prepare"])
def test_modules_that_a_trusted_file_loads_enter_the_digest(folder, key, line):
    raw = yaml.safe_load((folder / "env.yaml").read_text())
    (folder / "main_file.py").write_text(f"def unused():\n    {line}\n")
    (folder / "env.yaml").write_text(yaml.safe_dump(raw | {key: "main_file.py"}))
    environment = load_environment(folder)
    digests, data = [environment.digest("cpu")], [environment.data_source("cpu").folder()]
    # First the module, then one that it loads itself, then one that nothing loads.
    for name, code in (("helper.py", "import other\n"), ("other.py", "import main_file\n"), ("alone.py", "")):
        (folder / name).write_text(code)
        digests.append(environment.digest("cpu"))
        data.append(environment.data_source("cpu").folder())
    (folder / "other.py").write_text("not Python")
    digests.append(environment.digest("cpu"))
    assert len({*digests}) == 4 and digests[2] == digests[3]
    assert len({*data}) == (3 if key == "prepare" else 1) and data[2] == data[3]
    assert environment.digest("cpu", modules=False) == digests[0], "as earlier versions computed it"


def test_scoring_limits_are_a_presets(folder):
    environment = write(folder, scoring={"seconds": 1800, "answer_seconds": 300, "slot_mb": 1024})
    assert environment.preset("large").scoring == ScoringLimits(1800, 300, 1024)
    assert environment.preset("large").scoring.slot_bytes == 1 << 30
    assert environment.preset("cpu").scoring == ScoringLimits(600, 120, 256)


def test_the_cached_keys_give_the_same_environment(folder):
    first = write(folder, **LARGE).at("large")
    again = load_environment(folder).at("large")
    assert json.dumps(sorted(again.rules.protected)) == json.dumps(sorted(first.rules.protected))
    assert again.digest("large") == first.digest("large") and again.metric == first.metric


@pytest.mark.parametrize(("name", "preset"), OLD_DIGESTS)
def test_environments_of_earlier_releases_have_their_digests(name, preset):
    assert load_environment(name).digest(preset).startswith(OLD_DIGESTS[name, preset])
