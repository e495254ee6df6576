"""Every edit of nanogpt's catalogue, and every pair: applies and compiles, or contradicts in both orders."""

import importlib.util
import itertools
import re

import numpy as np
import pytest

from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import PatchError, apply_patch, diff, judge

ENVIRONMENT = load_environment("nanogpt")
CATALOGUE = environment_catalogue(ENVIRONMENT)
BASE = ENVIRONMENT.baseline("cpu")
CONTEXT = 64


def choice(key):
    parameter = CATALOGUE.edits[key].parameter
    return Choice(key, parameter.sample[0] if parameter else None)


def applied(*keys):
    try:
        return CATALOGUE.apply(BASE, [choice(key) for key in keys])["train.py"]
    except PatchError as error:
        assert error.kind == "unpatchable" and "contradict each other" in str(error)
        return None


def test_there_are_at_least_25_edits_of_both_kinds():
    kinds = [edit.kind for edit in CATALOGUE.edits.values()]
    assert len(kinds) >= 25 and min(kinds.count("number"), kinds.count("algorithm")) >= 8


def test_every_edit_applies_compiles_and_travels_as_a_diff():
    for edit in CATALOGUE.edits.values():
        for value in edit.parameter.sample if edit.parameter else (None,):
            tree = CATALOGUE.apply(BASE, [Choice(edit.key, value)])
            compile(tree["train.py"], edit.key, "exec")
            if tree != BASE:
                patch = diff(BASE, tree)
                assert apply_patch(BASE, patch) == tree
                judge(BASE, tree, ENVIRONMENT.rules)


def test_every_pair_in_both_orders_gives_one_tree_that_compiles_or_contradicts():
    conflicts = set()
    for one, other in itertools.combinations(CATALOGUE.edits, 2):
        source = applied(one, other)
        assert source == applied(other, one)
        if source is None:
            conflicts.add((one, other))
        else:
            compile(source, f"{one}+{other}", "exec")
    groups = [
        ("cosine", "linear_decay", "cooldown", "inverse_sqrt"),
        ("muon", "lion", "sgd", "nadam", "amsgrad"),
        ("rope", "alibi", "sinusoidal", "nope"),
        ("swiglu", "geglu", "relu2", "relu", "silu"),
        ("swiglu", "no_bias"),
        ("geglu", "no_bias"),
        ("no_bias", "conv"),
        ("no_bias", "gated_attention"),
        ("alibi", "local_attention"),
        ("post_norm", "residual_scale", "parallel"),
    ]
    assert conflicts == {
        pair for group in groups for pair in itertools.combinations(sorted(group, key=list(CATALOGUE.edits).index), 2)
    }


def test_two_values_for_one_number_contradict():
    with pytest.raises(PatchError, match="batch = 4 and batch = 8 contradict"):
        CATALOGUE.apply(BASE, [Choice("batch", 8), Choice("batch", 4)])


def test_the_baseline_contains_no_edit_yet():
    pattern = r"rope|rotary|rms|swiglu|muon|ema\b|softcap|smooth|warm|cosine|tie|bigram|alibi"
    assert not re.search(pattern, BASE["train.py"], re.I)


def _trained(source, folder, monkeypatch, seconds):
    """The logits function of a model trained for a moment on repeated bytes."""
    importlib.import_module("torch._dynamo")
    folder.mkdir()
    (folder / "train.py").write_text(source)
    (folder / "train.bin").write_bytes(bytes(range(32, 128)) * 100)
    for name, value in {"DATA": folder, "ARTIFACT": folder, "BUDGET_SECONDS": seconds, "SEED": 0}.items():
        monkeypatch.setenv(f"IDEATOR_{name}", str(value))
    spec = importlib.util.spec_from_file_location("trained_" + folder.name, folder / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    return module.load(folder)


def _assert_causal(logits):
    tokens = np.random.default_rng(0).integers(32, 128, (3, CONTEXT)).astype(np.int32)
    full = logits(tokens)
    assert full.shape == (3, CONTEXT, 256) and full.dtype == np.float32 and np.isfinite(full).all()
    for length in (1, 7, CONTEXT - 1):
        np.testing.assert_allclose(logits(tokens[:, :length]), full[:, :length], atol=2e-4)


def test_the_baseline_trains_and_uses_no_future_token(tmp_path, monkeypatch):
    _assert_causal(_trained(BASE["train.py"], tmp_path / "base", monkeypatch, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("key", CATALOGUE.edits)
def test_every_edit_trains_and_uses_no_future_token(key, tmp_path, monkeypatch):
    _assert_causal(_trained(applied(key), tmp_path / key, monkeypatch, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_edits_drawn_together_train_and_use_no_future_token(seed, tmp_path, monkeypatch):
    keys = np.random.default_rng(seed).permutation(list(CATALOGUE.edits))
    chosen = []
    for key in keys:
        if len(chosen) < 5 and applied(*chosen, str(key)) is not None:
            chosen.append(str(key))
    _assert_causal(_trained(applied(*chosen), tmp_path / f"s{seed}", monkeypatch, 0.5))
