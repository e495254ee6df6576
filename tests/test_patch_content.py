"""Data in a patch: weights are refused in every form, code is not."""

import importlib.util
import random
from dataclasses import replace
from pathlib import Path

import pytest
from patch_weights import FORMS, WEIGHTS

from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import PatchError, Rules, apply_patch, diff, judge, patched_tree
from ideator_rl.patch.content import new_content

BASE = {"train.py": "import numpy\n\nprint(numpy.ones(3))\n" + "".join(f"a{i} = {i}\n" for i in range(300))}
RULES = Rules(editable=("**",), max_files=100_000, max_bytes=10_000_000)
LIMIT = RULES.max_compressed_bytes


def refusal(tree, rules=RULES, base=BASE):
    with pytest.raises(PatchError) as caught:
        judge(base, tree, rules)
    assert caught.value.kind == "rejected"
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_refused_in_every_form(form):
    assert "max_compressed_bytes" in refusal(BASE | FORMS[form](WEIGHTS))


@pytest.mark.parametrize("form", FORMS)
def test_the_count_is_never_below_the_data_that_is_hidden(form):
    data = WEIGHTS[:20_000]
    # `_unicode` stores 15.3 of 16 bits.
    assert new_content(BASE, BASE | FORMS[form](data), enough=0) > 0.95 * len(data)


def test_weights_hidden_in_the_order_of_the_baselines_own_lines_are_counted():
    lines = BASE["train.py"].split("\n")[4:260]
    tree = BASE | {"train.py": "\n".join(lines[byte] for byte in WEIGHTS[:40_000])}
    assert "max_compressed_bytes" in refusal(tree)


def test_generations_of_small_patches_do_not_add_up():
    tree, share = dict(BASE), 6_000
    for generation in range(2):
        tree |= {f"g{generation}.py": FORMS["base85"](WEIGHTS[generation * share :][:share])["weights.py"]}
        judge(BASE, tree, RULES)
    tree |= {"g2.py": FORMS["base85"](WEIGHTS[2 * share :][:share])["weights.py"]}
    assert "max_compressed_bytes" in refusal(tree)


def test_text_of_the_baseline_is_no_room_for_data():
    """A baseline may hold data of its own; a patch that replaces it by other data gains nothing."""
    base = BASE | FORMS["base85"](WEIGHTS[:60_000])
    judge(base, base | {"train.py": "import weights\n" + base["train.py"]}, RULES)
    assert "max_compressed_bytes" in refusal(base | FORMS["base85"](WEIGHTS[60_000:90_000]), base=base)


@pytest.mark.parametrize("name", ["nanogpt", "grpo_math"])
def test_shipped_environments_refuse_the_weights_by_size_and_smaller_ones_by_content(name):
    environment = load_environment(name)
    base = environment.baseline("cpu")
    patches = [diff(base, base | FORMS["base85"](WEIGHTS[:size])) for size in (135_000, 30_000)]
    for patch, limit in zip(patches, (r"\(max_bytes\)", r"\(max_compressed_bytes\)"), strict=True):
        with pytest.raises(PatchError, match=limit) as caught:
            patched_tree(base, patch, environment.rules)
        assert caught.value.kind == "rejected"


@pytest.mark.parametrize("name", ["nanogpt", "grpo_math", "landscape"])
def test_every_edit_of_a_shipped_catalogue_is_far_below_the_limits(name):
    environment = load_environment(name)
    base = environment.baseline("cpu")
    trees = (
        [apply_patch(base, (environment.root / environment.known_good).read_text())] if environment.known_good else []
    )
    if environment.catalogue_path:
        catalogue, rng = environment_catalogue(environment), random.Random(1)
        for _ in range(150):
            try:
                trees.append(catalogue.apply(base, catalogue.sample(rng, rng.choice((1, 2, 4, 8)))))
            except PatchError:
                continue
        assert len(trees) > 60
    rules = environment.rules
    half = replace(rules, max_compressed_bytes=rules.max_compressed_bytes // 2, max_bytes=rules.max_bytes // 2)
    for tree in trees:
        judge(base, tree, half)


@pytest.mark.parametrize("name", ["nanogpt", "grpo_math"])
def test_shipped_environments_accept_a_rewrite_of_eighteen_kilobytes(name):
    environment = load_environment(name)
    base = environment.baseline("cpu")
    package = importlib.util.find_spec("jinja2").submodule_search_locations[0]
    text = Path(package, "loaders.py").read_text()[:18_000]
    path = next(path for path in base if path in ("train.py", "grpo.py"))
    tree = base | {path: text}
    assert new_content(base, tree, enough=0) > 4_096
    judge(base, tree, environment.rules)


@pytest.mark.parametrize("path", ["torch/optim/adam.py", "torch/nn/modules/transformer.py", "yaml/scanner.py",
                                  "trl/trainer/reward_trainer.py"])  # fmt: skip
def test_a_new_file_of_real_code_is_accepted(path):
    package = importlib.util.find_spec(path.split("/")[0]).submodule_search_locations[0]
    text = (Path(package).parent / path).read_text()
    judge(BASE, BASE | {"new.py": text}, replace(RULES, max_bytes=64_000))


def test_a_reindented_and_renamed_large_file_is_accepted():
    package = importlib.util.find_spec("trl").submodule_search_locations[0]
    text = Path(package, "trainer", "grpo_trainer.py").read_text()
    base = BASE | {"big.py": text}
    judge(base, base | {"big.py": text.replace("    ", "  ").replace("completion", "answer")}, RULES)
    judge(base, base | {"big.py": "", "moved.py": text}, RULES)


def test_another_limit_may_be_set():
    tree = BASE | FORMS["base85"](WEIGHTS[:30_000])
    judge(BASE, tree, replace(RULES, max_compressed_bytes=40_000))
    assert "at most 100 are allowed" in refusal(BASE | {"x.py": "y = 1\n" + "".join(map(chr, range(33, 126))) + "\n"},
                                                replace(RULES, max_compressed_bytes=100))  # fmt: skip
