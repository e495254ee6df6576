"""Files of a user's that have the names of libraries, in the folder where a command is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy_env"
RECIPE = Path(__file__).parent / "toy_recipe.yaml"
LIBRARIES = ("datasets", "random", "queue", "yaml", "pydantic", "argparse", "trl", "accelerate")
CLI = [sys.executable, "-m", "ideator_rl.cli"]
LAUNCH = [str(Path(sys.executable).with_name("accelerate")), "launch", "--quiet"]
TWO = ["--accelerate-config", str(RECIPE.parent.parent / "recipes" / "accelerate" / "cpu2.yaml")]


@pytest.fixture
def own_project(tmp_path):
    """A folder with own files of libraries' names, and a reward function beside them."""
    for name in LIBRARIES:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('this is my own {name}.py')")
    (tmp_path / "helpers.py").write_text("VALUE = 1.0\n")
    reward = "import helpers\n\ndef mine(completions, **_):\n    return [helpers.VALUE for _ in completions]\n"
    (tmp_path / "my_rewards.py").write_text(reward)
    (tmp_path / "rewards.py").write_text(reward)
    return tmp_path


def start(command, folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param([*CLI, "train"], marks=pytest.mark.slow),
        [sys.executable, "-m", "ideator_rl.train", "--config"],
    ],
)
def test_own_files_hide_no_library_and_own_rewards_are_found(program, own_project):
    rewards = "[execution, my_rewards.mine, rewards.mine]"
    ended = start([*program, str(RECIPE), "--env", str(TOY), "--reward_funcs", rewards, "--dry-run"], own_project)
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.slow
def test_a_name_that_an_own_module_lacks_is_refused(own_project):
    program = [*CLI, "train"]
    ended = start([*program, str(RECIPE), "--reward_funcs", "[my_rewards.yours]", "--dry-run"], own_project)
    assert ended.returncode == 2 and "has no 'yours'" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "sft", "train two", "launched"])
def test_training_works_beside_own_files_of_libraries_names(program, own_project):
    words = [str(RECIPE), "--env", str(TOY), "--output_dir", "run", "--max_steps", "1", "--sft_steps", "20"]
    rewards = ["--reward_funcs", "[execution, my_rewards.mine]"]
    command = {
        "train": [*CLI, "train", *words, *rewards],
        "sft": [*CLI, "sft", *words],
        "train two": [*CLI, "train", *words, *rewards, *TWO],
        "launched": [*LAUNCH, "-m", "ideator_rl.train", "--config", *words, *rewards],
    }[program]
    ended = start(command, own_project)
    assert ended.returncode == 0, ended.stderr[-3000:]
