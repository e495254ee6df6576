"""nanogpt's baseline for shards of tokens: its size, the order of its data, its ranks, and its catalogue of edits."""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fineweb_training import SMALL, load_script, write_shards

from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import PatchError, apply_patch, diff, judge

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "envs/nanogpt/baseline_fineweb/train.py"
BASE = {"train.py": SCRIPT.read_text()}
PRESETS = {name: load_environment("nanogpt").at(name) for name in ("paper", "single_gpu", "cpu_shards")}
CATALOGUE = environment_catalogue(PRESETS["cpu_shards"])


def choice(key, value=None):
    parameter = CATALOGUE.edits[key].parameter
    return Choice(key, (parameter.sample[0] if value is None else value) if parameter else None)


def test_the_baseline_has_the_papers_size_and_schedule(monkeypatch):
    module = load_script(SCRIPT)
    monkeypatch.setattr(module.nn.init, "normal_", lambda *_, **__: None)  # seconds without memory behind it
    with module.torch.device("meta"):
        parameters = list(module.GPT().parameters())
    assert sum(p.numel() for p in parameters) == 124_318_464
    assert (module.batch * module.context, module.steps) == (262_144, 26_880)
    rates = [module.schedule(step, 0.0) for step in (0, 255, 256, 26_880)]
    np.testing.assert_allclose(rates, [1 / 256, 1, 1, 1 / 11])


def test_batches_follow_one_another_through_the_shards_and_skip_what_is_left(tmp_path):
    module = load_script(SCRIPT, **SMALL, batch=4)
    # 64 tokens a batch and one to predict: two batches of the first shard, one of the second
    shards = [np.arange(0, 150, dtype=np.uint16), np.arange(1000, 1065, dtype=np.uint16)]
    for step, first in enumerate((0, 64, 1000, 0, 64)):
        inputs, targets = module.read(shards, step, range(0, 4))
        assert inputs.flatten().tolist() == list(range(first, first + 64))
        assert targets.flatten().tolist() == list(range(first + 1, first + 65))
        parts = [module.read(shards, step, range(n, n + 2))[0] for n in (0, 2)]
        assert module.torch.cat(parts).equal(inputs)


def test_a_shard_of_the_real_size_holds_381_batches():
    module = load_script(SCRIPT, device="cpu")
    shard = np.broadcast_to(np.uint16(7), 100_000_000)
    last = np.broadcast_to(np.uint16(9), 100_000_000)
    assert module.read([shard, last], 380, range(1))[0].unique().tolist() == [7]
    assert module.read([shard, last], 381, range(1))[0].unique().tolist() == [9]


def test_losses_are_equal_on_one_rank_and_on_two_with_and_without_accumulation(tmp_path):
    rng = np.random.default_rng(0)
    write_shards(tmp_path, [np.cumsum(rng.integers(0, 2, 500)).astype(np.uint16) % 64 for _ in range(2)])
    wanted = ["1,8,8", "1,8,2", "2,8,4", "2,8,2"]  # ranks, sequences a batch, sequences at a time
    command = [sys.executable, str(ROOT / "tests/fineweb_training.py"), str(SCRIPT), str(tmp_path), *wanted]
    result = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    losses = {line.split()[0]: [float(loss) for loss in line.split()[1:]] for line in result.stdout.splitlines()}
    assert list(losses) == wanted and len(losses["1,8,8"]) == 6
    assert losses["1,8,8"][-1] < losses["1,8,8"][0] - 0.1
    for other in wanted[1:]:
        np.testing.assert_allclose(losses[other], losses["1,8,8"], atol=1e-5)


def trained(source, folder, monkeypatch):
    """The logits function after a few steps of a small model on repeated tokens."""
    folder.mkdir()
    (folder / "train.py").write_text(source)
    write_shards(folder, [np.tile(np.arange(64, dtype=np.uint16), 40)])
    settings = {"DATA": folder, "ARTIFACT": folder, "BUDGET_SECONDS": 1000, "SEED": 0}
    for name, value in settings.items():
        monkeypatch.setenv(f"IDEATOR_{name}", str(value))
    module = load_script(folder / "train.py", "trained_" + folder.name, **SMALL, batch=8, micro=4)
    module.main()
    return module.load(folder)


def assert_causal(logits):
    tokens = np.random.default_rng(0).integers(0, 64, (3, logits.context)).astype(np.int32)
    full = logits(tokens)
    assert full.shape == (3, logits.context, logits.vocab) and bool(full.isfinite().all())
    for length in (1, 7, logits.context - 1):
        np.testing.assert_allclose(logits(tokens[:, :length]), full[:, :length], atol=2e-4)


def test_the_baseline_trains_and_uses_no_future_token(tmp_path, monkeypatch):
    assert_causal(trained(BASE["train.py"], tmp_path / "base", monkeypatch))
    assert [path.name for path in (tmp_path / "base").glob("*.safetensors")] == ["model.safetensors"]


def test_snapshots_are_saved_at_times_of_training(tmp_path, monkeypatch):
    source = BASE["train.py"].replace("snapshot_every = 0 ", "snapshot_every = 1e-6 ")
    trained(source, tmp_path / "snapshots", monkeypatch)
    assert any(path.name.startswith("step-") for path in (tmp_path / "snapshots").glob("*.safetensors"))
    assert not list((tmp_path / "snapshots").glob("*.part"))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_catalogue_has_25_edits_each_compiles_and_travels_as_a_diff(preset):
    assert len(CATALOGUE.edits) >= 25
    base, rules = PRESETS[preset].baseline(preset), PRESETS[preset].rules
    for edit in CATALOGUE.edits.values():
        for value in edit.parameter.sample if edit.parameter else (None,):
            tree = CATALOGUE.apply(base, [choice(edit.key, value)])
            compile(tree["train.py"], edit.key, "exec")
            if tree != base:
                assert apply_patch(base, diff(base, tree)) == tree
                judge(base, tree, rules)
            elif preset == "cpu_shards":
                pytest.fail(f"{edit.key} = {value} is the baseline's own")


@pytest.mark.slow
def test_pairs_of_edits_give_one_tree_that_compiles_or_contradict_within_a_family():
    conflicts = set()
    for one, other in itertools.combinations(CATALOGUE.edits, 2):
        try:
            tree = CATALOGUE.apply(BASE, [choice(one), choice(other)])
            assert tree == CATALOGUE.apply(BASE, [choice(other), choice(one)])
            compile(tree["train.py"], f"{one}+{other}", "exec")
        except PatchError as error:
            assert "contradict each other" in str(error)
            conflicts.add((one, other))
    groups = [
        ("cosine", "constant_rate", "linear_decay", "cooldown"),
        ("muon", "lion", "nadam", "no_embedding_decay", "embedding_rate"),
        ("rope", "alibi", "sinusoidal", "nope"),
        ("swiglu", "relu2", "relu", "silu"),
        ("alibi", "local_attention"),
        ("post_norm", "residual_scale", "parallel"),
        ("embedding_norm", "unet"),
        ("embedding_skip", "unet"),
    ]
    assert conflicts == {pair for group in groups for pair in itertools.combinations(group, 2)}


def test_every_phrasing_of_an_edit_is_read_as_that_edit():
    rng = random.Random(0)
    for key in CATALOGUE.edits:
        for _ in range(8):
            wanted = choice(key)
            assert CATALOGUE.read(CATALOGUE.describe([wanted], rng), BASE).choices == (wanted,)


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key, edit in CATALOGUE.edits.items() if edit.assign is None])
def test_every_algorithm_trains_and_uses_no_future_token(key, tmp_path, monkeypatch):
    assert_causal(trained(CATALOGUE.apply(BASE, [choice(key)])["train.py"], tmp_path / key, monkeypatch))
