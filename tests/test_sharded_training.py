"""Our trainer under FSDP2 and ZeRO-3, in two CPU processes that talk through gloo: the weights of plain DDP."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS, RECIPES = ROOT / "tests", ROOT / "recipes" / "accelerate"
WAYS = {
    "ddp": (RECIPES / "cpu2.yaml", ("-m", "ideator_rl.train")),
    "zero3": (RECIPES / "cpu2_zero3.yaml", ("-m", "ideator_rl.train")),
    "fsdp": (TESTS / "accelerate_fsdp_cpu2.yaml", ("-m", "fsdp_on_cpus")),
}
needs_deepspeed = pytest.mark.skipif(
    not importlib.util.find_spec("deepspeed") or not shutil.which("g++"), reason="needs deepspeed and a C++ compiler"
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def train(way, folder, *overrides, program=None):
    config, usual = WAYS[way]
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *(program or usual)]
    line += ["--config", str(TESTS / "toy_recipe.yaml"), "--env", str(TESTS / "toy_env"), "--output_dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*line, *overrides], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout + ended.stderr


def weights(folder):
    from safetensors.torch import load_file

    loaded = load_file(folder / "model.safetensors")
    head = loaded.pop("lm_head.weight", None)  # FSDP stores the tied weights twice
    assert head is None or head.equal(loaded["model.embed_tokens.weight"])
    return loaded


def assert_equal_but_for_signs(weights, expected, start):
    """Equal up to rounding, but for single weights: Adam's first steps make any sign of a gradient near 0 a full one."""
    assert weights.keys() == expected.keys()
    gaps = [(weights[name] - expected[name]).abs().flatten() for name in expected]
    moves = [(expected[name] - start[name]).abs().flatten() for name in expected]
    assert sum(gap.sum().item() for gap in gaps) < 0.002 * sum(move.sum().item() for move in moves)
    assert sum((gap > 1e-5).sum().item() for gap in gaps) < 0.002 * sum(len(gap) for gap in gaps)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    train("ddp", folder, "--max_steps", "2")
    return folder


@pytest.mark.parametrize("way", [pytest.param("zero3", marks=needs_deepspeed), "fsdp"])
def test_sharded_training_gives_the_weights_of_ddp_and_resumes(way, plain, tmp_path):
    train(way, tmp_path / "run", "--max_steps", "2")
    for name in ("checkpoint-1", "model"):
        start, expected = weights(plain / "warmup"), weights(plain / name)
        assert_equal_but_for_signs(weights(tmp_path / "run" / name), expected, start)
    before = weights(tmp_path / "run" / "model")
    train(way, tmp_path / "run", "--max_steps", "3", "--resume")
    after = weights(tmp_path / "run" / "model")
    assert any(not after[name].equal(before[name]) for name in before)
    assert (tmp_path / "run" / "checkpoint-3").is_dir()


@pytest.mark.parametrize("way", [pytest.param("zero3", marks=needs_deepspeed), "fsdp"])
def test_sharded_training_of_an_adapter_saves_it_whole(way, tmp_path):
    from safetensors.torch import load_file

    train(way, tmp_path / "run", "--max_steps", "2", "--use_peft", "true", "--lora_r", "4")
    adapter = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    # Of a pair of matrices, B begins at 0: without training it would still be 0.
    assert adapter and all(value.any() for name, value in adapter.items() if "lora_B" in name)


def test_the_weights_of_each_rank_are_a_part_under_fsdp(tmp_path):
    """Without the widened list (see `fsdp_on_cpus`), all of the above would pass with whole weights in each rank."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "from transformers import TrainerCallback\n"
        "import fsdp_on_cpus, sys\n"
        "from accelerate.state import AcceleratorState\n"
        "from ideator_rl.training.trainer import IdeatorGRPOTrainer\n"
        "step = IdeatorGRPOTrainer.training_step\n"
        "def shown(self, model, *rest):\n"
        "    parts = [p.to_local().numel() for p in model.parameters() if hasattr(p, 'to_local')]\n"
        "    print('PART', sum(parts), sum(p.numel() for p in model.parameters()), flush=True)\n"
        "    return step(self, model, *rest)\n"
        "IdeatorGRPOTrainer.training_step = shown\n"
        "AcceleratorState.__init__ = fsdp_on_cpus.with_fsdp\n"
        "sys.exit(fsdp_on_cpus.main(sys.argv[1:]))\n"
    )
    output = train("fsdp", tmp_path / "run", "--max_steps", "1", "--sft_steps", "1", program=(str(probe),))
    parts = [list(map(int, line.split()[1:])) for line in output.splitlines() if line.startswith("PART")]
    assert parts and all(part <= whole / 2 + 1 for part, whole in parts)
