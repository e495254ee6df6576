"""Every shipped recipe, read and dry-run at the world size of its launch, without a network; and what docs say of them."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ideator_rl.train import main
from ideator_rl.training.recipe.processes import read_num_processes
from ideator_rl.training.recipe.recipe import load_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if not path.name.startswith("search_"))
ACCELERATE = ROOT / "recipes" / "accelerate"
PAPER = {"qwen3_30b_grpo_math": (256, 40, 10_240), "qwen3_30b_nanogpt": (128, 68, 8_704)}
TABLE = re.compile(r"^\| `(\w+)` \| (?:`([^`]+)`)? ?\| (.*)\|$", re.M)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"a dry run asked the network for {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def launch_of(recipe):
    """The accelerate config that a recipe's own comment names, and none where it names none."""
    match = re.search(r"recipes/accelerate/(\w+)\.yaml", recipe.read_text())
    return str(ACCELERATE / f"{match[1]}.yaml") if match else None


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_dry_runs_at_the_processes_of_its_launch(recipe, capsys, tmp_path):
    config = launch_of(recipe)
    argv = ["--accelerate-config", config] if config else []
    status = main(["--config", str(recipe), "--dry-run", "--output_dir", str(tmp_path / "run"), *argv])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "experiments  at most" in out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_runs_have_the_papers_size(name, capsys):
    ideas, epochs, total = PAPER[name]
    recipe = load_recipe(f"{name}.yaml", world=8)
    assert recipe.num_generations == recipe.generation_batch == ideas and recipe.steps_per_rollout == 1
    assert recipe.grpo["max_steps"] == epochs and recipe.grpo["max_completion_length"] == 8192
    assert recipe.ours.coder["samples"] == 10 and recipe.ours.coder["revisions"] == 2
    zero3 = str(ACCELERATE / "zero3.yaml")
    assert main(["--config", f"{name}.yaml", "--dry-run", "--accelerate-config", zero3]) == 0
    out = capsys.readouterr().out
    assert f"ideas        {total} in {epochs} batches of {ideas}" in out
    assert "accelerate estimate-memory Qwen/Qwen3-30B-A3B" in out


@pytest.mark.parametrize("name", PAPER)
def test_every_number_of_the_papers_runs_has_a_source_or_a_reason(name):
    explained = {"output_dir", "env", "seed", "logging_steps", "save_total_limit", "gradient_checkpointing", "top_k"}
    block = False
    for line in (ROOT / "recipes" / f"{name}.yaml").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            block = "[P]" in line or "[ours]" in line  # a heading speaks for the keys below it
        elif not line.startswith(" ") and line.partition(":")[0] not in explained:
            assert block or "#" in line, f"{line!r} says not where it is from"


@pytest.mark.parametrize("name", PAPER)
def test_trl_takes_the_papers_runs(name):
    from trl import GRPOConfig, ModelConfig, get_peft_config

    recipe = load_recipe(f"{name}.yaml", world=8)
    local_keys = {"use_cpu": True, "bf16": False, "report_to": "none"}
    local_keys["gradient_accumulation_steps"] = (
        8 * recipe.grpo["gradient_accumulation_steps"]
    )  # one process in place of eight
    config = GRPOConfig(**{**recipe.grpo, **local_keys})
    assert config.generation_batch_size == recipe.num_generations and config.num_iterations == 1
    assert get_peft_config(ModelConfig(**recipe.model)).r == recipe.model["lora_r"]


def test_every_variant_in_the_docs_is_a_usable_recipe(capsys):
    rows = TABLE.findall((ROOT / "docs" / "how-to" / "scaling.md").read_text())
    assert len(rows) > 5
    for config, overrides, _ in rows:
        file = str(ACCELERATE / f"{config}.yaml")
        argv = ["--dry-run", "--accelerate-config", file, *overrides.split()]
        assert main(["--config", "qwen3_30b_grpo_math.yaml", *argv]) == 0, (config, overrides)
    assert "estimate-memory Qwen/Qwen3-4B" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "argv"), [("cpu2", ["--use_peft", "true", "--lora_r", "4"]), ("cpu2_zero2", [])], ids=["lora", "zero2"]
)
def test_two_processes_train_as_documented(config, argv, tmp_path, monkeypatch):
    monkeypatch.undo()  # they talk to each other
    if config == "cpu2_zero2":
        pytest.importorskip("deepspeed")
    toy, env = ROOT / "tests" / "toy_recipe.yaml", ROOT / "tests" / "toy_env"
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / f"{config}.yaml")]
    line += ["-m", "ideator_rl.train", "--config", str(toy), "--env", str(env), "--output_dir", str(tmp_path / "run")]
    process = subprocess.run([*line, "--max_steps", "2", "--report_to", "none", *argv], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "Ideas: 16 proposed" in process.stdout and (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_accelerate_reads_the_shipped_launch_configs():
    from accelerate.commands.config.config_args import load_config_from_file

    for file in sorted(ACCELERATE.glob("*.yaml")):
        config = load_config_from_file(str(file))
        assert (
            config.num_processes == yaml.safe_load(file.read_text())["num_processes"] == read_num_processes(str(file))
        )
