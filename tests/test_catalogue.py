"""Reading ideas against nanogpt's catalogue: odd wordings, rejections, ranges, and its own phrasings back."""

import asyncio
import math
import random
import re
import time

import pytest
from conftest import TOY

from ideator_rl.environments.catalogue import reading
from ideator_rl.environments.catalogue.catalogue import (
    CatalogueError,
    environment_catalogue,
    idea_corpus,
    load_catalogue,
)
from ideator_rl.environments.catalogue.edits import Choice, Edit, Parameter
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import Idea, parse_idea
from ideator_rl.implementers.implementer import get_implementer
from ideator_rl.patch import PatchError, apply_patch

ENVIRONMENT = load_environment("nanogpt")
CATALOGUE = environment_catalogue(ENVIRONMENT)
BASE = ENVIRONMENT.baseline("cpu")


def read(experiment, changes="Edit train.py accordingly."):
    return {c.key: c.value for c in CATALOGUE.read(Idea(experiment, changes), BASE).choices}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("raise the learning rate to 3e-3", {"learning_rate": 0.003}),
        ("set lr = 0.003", {"learning_rate": 0.003}),
        ("Set `learning_rate=3e-3`.", {"learning_rate": 0.003}),
        ("use 3e-3 as the learning rate", {"learning_rate": 0.003}),
        ("a 0.003 learning rate", {"learning_rate": 0.003}),
        ("Increase the learning rate from 1e-3 to 6e-3.", {"learning_rate": 0.006}),
        ("change learning_rate from 0.001 to 0.006", {"learning_rate": 0.006}),
        ("learning rate 1e-3 -> 3e-3", {"learning_rate": 0.003}),
        ("Use a learning rate of 3×10⁻³.", {"learning_rate": 0.003}),
        ("Replace the learning rate of 1e-3 with 3e-3.", {"learning_rate": 0.003}),
        ("Triple the learning rate.", {"learning_rate": 0.003}),
        ("Use a 4x larger learning rate.", {"learning_rate": 0.004}),
        ("Increase the learning rate by a factor of 3.", {"learning_rate": 0.003}),
        ("reduce the learning rate by 50%", {"learning_rate": 0.0005}),
        ("Use a higher learning rate.", {"learning_rate": 0.002}),
        ("halve the batch size", {"batch": 8}),
        ("Use smaller batches.", {"batch": 8}),
        ("batch size from 16 to 8", {"batch": 8}),
        ("Use batches of 8 sequences.", {"batch": 8}),
        ("Train a 4-layer model with 8 heads.", {"layers": 4, "heads": 8}),
        ("Use four transformer layers and width 96.", {"layers": 4, "width": 96}),
        ("go from 2 layers to 1 layer", {"layers": 1}),
        ("Use a single layer.", {"layers": 1}),
        ("Use a deeper network.", {"layers": 4}),
        ("Set d_model to 128 and n_head to 2.", {"width": 128, "heads": 2}),
        ("Set weight decay to zero: no weight decay.", {"weight_decay": 0.0}),
        ("Remove weight decay.", {"weight_decay": 0.0}),
        ("Add dropout.", {"dropout": 0.1}),
        ("10% dropout", {"dropout": 0.1}),
        ("Set beta2 to 0.95.", {"beta2": 0.95}),
        ("Use rotary embeddings instead of learned positions.", {"rope": None}),
        ("Remove the learned position embedding and use RoPE.", {"rope": None}),
        ("Drop positional embeddings altogether.", {"nope": None}),
        ("Use RMSNorm rather than LayerNorm.", {"rmsnorm": None}),
        ("Add QK-norm (RMSNorm on queries and keys).", {"qk_norm": None, "rmsnorm": None}),
        ("Replace GELU with squared ReLU.", {"relu2": None}),
        ("Swap GELU for ReLU^2 activations", {"relu2": None}),
        ("Use ReLU.", {"relu": None}),
        ("Replace SwiGLU by GEGLU.", {"geglu": None}),
        ("Use a warmup of 20 steps, then cosine decay.", {"warmup": 20, "cosine": None}),
        ("Warm up the learning rate over 10 steps.", {"warmup": 10}),
        ("20-step learning rate warmup", {"warmup": 20}),
        ("Linearly decay the learning rate to 0.", {"linear_decay": None}),
        (
            "Use a learning rate of 6e-3 with a linear decay to zero.",
            {"learning_rate": 0.006, "linear_decay": None},
        ),
        ("Keep an exponential moving average of the weights (decay 0.98).", {"ema": 0.98}),
        ("Average the weights with EMA.", {"ema": 0.95}),
        ("Switch from AdamW to Muon.", {"muon": 0.02}),
        ("Use Muon with a learning rate of 0.05.", {"muon": 0.05}),
        ("Clip gradients at 0.5.", {"clip": 0.5}),
        ("Tie input and output embeddings.", {"weight_tying": None}),
        ("Share weights across layers.", {"shared_layers": None}),
        ("Logit softcapping with cap 30", {"softcap": 30.0}),
        ("Label smoothing 0.05", {"label_smoothing": 0.05}),
        ("Use SiLU, not GELU or ReLU.", {"silu": None}),
        ("Use Lion, but do not use dropout.", {"lion": 0.001}),
        ("Use a batch size of 8 and keep the learning rate at its default.", {"batch": 8}),
        ("Instead of AdamW use NAdam.", {"nadam": None}),
        ("Remove biases.", {"no_bias": None}),
        ("Zero-init the output projections", {"zero_init": None}),
        ("We will try a smaller learning rate, such as 3e-4.", {"learning_rate": 0.0003}),
        ("Use a larger learning rate (e.g. 3e-3).", {"learning_rate": 0.003}),
        ("Increase the lr (currently 1e-3) to 3e-3", {"learning_rate": 0.003}),
        ("The learning rate should be 4e-3.", {"learning_rate": 0.004}),
        ("learning_rate: 1e-3 → 3e-3", {"learning_rate": 0.003}),
        (
            "Set learning rate to 3e-3, batch size to 8, and layers to 1.",
            {"learning_rate": 0.003, "batch": 8, "layers": 1},
        ),
        ("Add learning rate decay.", {"cosine": None}),
        ("Decay the learning rate: a linear schedule with linear decay.", {"linear_decay": None}),
        ("Use AdamW with betas (0.9, 0.95).", {"beta2": 0.95}),
        ("Use wider MLPs.", {"mlp_ratio": 8}),
        (
            "Increase the number of attention heads to 8 and the number of layers to 6.",
            {"heads": 8, "layers": 6},
        ),
        ("A learning rate of 1e-3 is small. I propose increasing it to 4e-3.", {"learning_rate": 0.004}),
        ("Clip gradients at 1.0 so higher learning rates are stable.", {"clip": 1.0}),
        ("Multiply the learning rate by 3", {"learning_rate": 0.003}),
        ("Increase the learning rate 5x.", {"learning_rate": 0.005}),
        ("Make the learning rate three times larger", {"learning_rate": 0.003}),
        ("The batch size is reduced from 16 to 8 and context goes from 64 to 32.", {"batch": 8, "context": 32}),
        ("Increase the MLP hidden dimension from 4x to 8x.", {"mlp_ratio": 8}),
        ("Use twice as many layers", {"layers": 4}),
        ("Use batches of 4 (instead of 16) and lr 2e-3 (instead of 1e-3).", {"batch": 4, "learning_rate": 0.002}),
        ("lr: 3e-3; batch: 8", {"learning_rate": 0.003, "batch": 8}),
        ("Use a larger model with more layers and more heads.", {"layers": 4, "heads": 8}),
        ("Use learned positional embeddings with dropout 0.1.", {"dropout": 0.1}),
        ("Increase the context from 64 to 128 tokens.", {"context": 128}),
        ("The learned positions are replaced by rotary embeddings.", {"rope": None}),
        ("Add a sequence length warmup for the first 30% of training", {"seq_warmup": 0.3}),
    ],
)
def test_an_idea_is_read_as_the_edits_that_it_names(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Set x to -3.0.", -3.0), ("Set x to −3.0", -3.0), ("x=-.5", -0.5), ("set x to 1e-4", 1e-4), ("x to –3", -3.0),
        ("Set x from 0.1 to 0.3", 0.3), ("change x from -2 to -5", -5.0), ("x: 4.0 → -3.0", -3.0), ("x 4.0->-1", -1.0),
        ("Set x to minus 3", -3.0), ("Move x to negative 2.5", -2.5), ("Set x to 10^-3", 1e-3), ("x of 10⁻³", 1e-3),
        ("x = 2×10⁻³", 2e-3), ("Set x to (-3.0)", -3.0), ("Set `x` to `-3.0`", -3.0), ("**x = -3**", -3.0),
        ("set x to 5%", 0.05), ("set x to -5%", -0.05), ("x: 1.e-4", 1e-4), ("Set x to +3.0", 3.0), ("x to $-3$", -3.0),
        ("use -3 as x", -3.0), ("Set x to about -3", -3.0), ("x -3", -3.0),
    ],
)  # fmt: skip
def test_a_number_is_read_with_its_sign_and_its_exponent(text, value):
    toy = load_environment(TOY)
    choices = environment_catalogue(toy).read(Idea(text, "Edit train.py."), toy.baseline("cpu")).choices
    assert [(choice.key, choice.value) for choice in choices] == [("x", value)]


def test_a_comma_that_may_be_a_decimal_point_is_not_guessed():
    toy = load_environment(TOY)
    with pytest.raises(PatchError, match="names no edit"):
        environment_catalogue(toy).read(Idea("Set x to 1,5", "Edit train.py."), toy.baseline("cpu"))


def test_every_sampled_value_of_the_toy_is_read_as_itself():
    toy = load_environment(TOY)
    own, base = environment_catalogue(toy), toy.baseline("cpu")
    for key, edit in own.edits.items():
        for value in edit.parameter.sample:
            for seed in range(4):
                choice = Choice(key, value)
                assert own.read(own.describe([choice], random.Random(seed)), base).choices == (choice,)


def test_a_hostile_text_is_read_in_bounded_time():
    start = time.process_time()
    read("muon " * 3000 + "replace keep not without drop " * 500)
    assert time.process_time() - start < 5


def test_a_number_in_the_code_changes_settles_a_vague_experiment():
    assert read("A higher learning rate learns faster.", "Set learning_rate = 5e-3.") == {"learning_rate": 0.005}


def test_the_baselines_number_next_to_a_new_one_is_no_contradiction():
    assert read("A learning rate of 1e-3 is low.", "Set learning_rate = 3e-3.") == {"learning_rate": 0.003}


@pytest.mark.parametrize(
    "text",
    [
        "Use a mixture of experts.",
        "Do not use weight decay or cosine.",
        "Train for longer.",
        "The learning rate matters.",
        "Keep the learning rate at 1e-3 unchanged.",
        "Use better data instead of dropout.",
    ],
)
def test_an_idea_without_a_known_edit_is_unpatchable_and_the_known_ones_are_listed(text):
    with pytest.raises(PatchError, match="names no edit.*the catalogue has: learning_rate, batch") as caught:
        read(text)
    assert caught.value.kind == "unpatchable"


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "Set the learning rate to 50.",
            r"learning_rate = 50 is outside the range of this edit, 1e-05 … 1\.",
        ),
        ("Use 2.5 layers.", "layers = 2.5 is not a whole number"),
        ("Set lr = 0.003.\nSet lr = 0.006.", "learning_rate 2 values, 0.003 and 0.006; one is expected"),
        ("Add label smoothing of 7.", "label_smoothing = 7 is outside the range"),
        (f"Increase the batch size by a factor of 1{'0' * 309}.", "batch = inf is outside the range"),
    ],
)
def test_a_wrong_value_is_refused_with_the_expected_one(text, message):
    with pytest.raises(PatchError, match=message):
        read(text)


def test_a_range_without_end_takes_no_infinite_value():
    for whole in (False, True):
        with pytest.raises(PatchError, match="n = inf is outside the range"):
            Parameter(whole, 0, math.inf, ()).accept("n", math.inf)


def test_an_endless_factor_times_a_baseline_of_0_is_refused():
    parameter = Parameter(True, 0, 9, (1,))
    edit = Edit("x", "number", "x", (), (), (re.compile("x"),), "n", (), parameter)
    with pytest.raises(PatchError, match="x = nan is outside the range"):
        reading.read({"x": edit}, Idea(f"Multiply x by 1{'0' * 309}.", "Edit train.py."), {"x": 0.0})


def test_sentences_that_name_no_edit_are_reported():
    reading = CATALOGUE.read(Idea("Use RoPE.", "Use RoPE in Attention. Add a mixture of experts."), BASE)
    assert reading.missed == ("Add a mixture of experts.",)


def test_every_phrasing_of_every_edit_is_read_back():
    for edit in CATALOGUE.edits.values():
        for value in edit.parameter.sample if edit.parameter else (None,):
            for seed in range(8):
                idea = CATALOGUE.describe([Choice(edit.key, value)], random.Random(seed))
                assert CATALOGUE.read(idea, BASE).choices == (Choice(edit.key, value),), idea.text


def test_sampled_ideas_keep_the_form_are_short_and_are_read_back():
    texts = idea_corpus(ENVIRONMENT, 300, seed=1)
    assert texts == idea_corpus(ENVIRONMENT, 300, seed=1) and len(set(texts)) > 280
    for text in texts:
        assert CATALOGUE.read(parse_idea(text), BASE).choices
        assert len(text.split()) < 110


def test_the_rules_implementer_writes_a_patch_that_applies():
    idea = Idea("Use rotary embeddings instead of learned positions.", "Use rotary embeddings. Add snow.")
    rules = get_implementer("rules")
    patch = asyncio.run(rules.implement(idea, BASE, ENVIRONMENT, "cpu")).patch
    assert rules.name == "rules" and patch.startswith("Not understood, and left out: Add snow.\n")
    assert apply_patch(BASE, patch) == CATALOGUE.apply(BASE, [Choice("rope")])


def test_an_idea_that_asks_for_the_baseline_changes_nothing_and_is_recorded_so():
    with pytest.raises(PatchError, match="the baseline already has learning_rate = 0.001"):
        asyncio.run(get_implementer("rules").implement(Idea("Set lr to 1e-3.", "lr = 1e-3"), BASE, ENVIRONMENT, "cpu"))


def test_an_unknown_implementer_is_named():
    with pytest.raises(IdeatorError, match="'no.such.Thing' .implementers. cannot be imported.*PYTHONPATH"):
        get_implementer("no.such.Thing")


def test_a_catalogue_with_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "edits.yaml"
    path.write_text("file: a.py\nedits:\n  x: {kind: number, wrong: 1}\n")
    with pytest.raises(CatalogueError, match="x has unknown keys wrong"):
        load_catalogue(path)
