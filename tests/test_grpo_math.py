"""The arithmetic environment: its problems, its grades, its catalogue, and that all of it trains."""

import importlib.util
import itertools
import json
import random
import sys

import pytest
import torch
from catalogue_checks import CatalogueChecks

from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import PatchError, judge

ENVIRONMENT = load_environment("grpo_math")
CHECKS = CatalogueChecks(ENVIRONMENT, "cpu", "grpo.py")
CATALOGUE, BASE = CHECKS.catalogue, CHECKS.base
PREPARE = load_trusted(ENVIRONMENT.root / "prepare.py")
EVALUATOR = load_trusted(ENVIRONMENT.root / "evaluator.py")


@pytest.fixture
def module(monkeypatch):
    """Imports a source of grpo.py beside the baseline's model.py."""
    importlib.import_module("torch._dynamo")
    monkeypatch.syspath_prepend(str(ENVIRONMENT.root / "baseline"))

    def build(source, folder):
        (folder / "grpo.py").write_text(source)
        spec = importlib.util.spec_from_file_location("grpo_" + folder.name, folder / "grpo.py")
        built = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(built)
        return built

    yield build
    sys.modules.pop("model", None)


def test_no_hidden_problem_is_public_and_every_answer_is_right():
    splits = PREPARE.problems()
    prompts = [problem["prompt"] for split in splits.values() for problem in split]
    assert len(set(prompts)) == len(prompts) == sum(PREPARE.SIZES.values())
    for problem in itertools.chain(*splits.values()):
        one, sign, other = problem["prompt"][:3], problem["prompt"][3], problem["prompt"][4:7]
        a, b = int(one), int(other)
        assert problem["answer"] == str({"+": a + b, "-": a - b, "*": a * b}[sign])


def test_every_problem_fits_the_policy_and_uses_the_evaluators_alphabet(module, tmp_path):
    model = module(BASE["grpo.py"], tmp_path).read_policy.__globals__
    assert model["ALPHABET"] == EVALUATOR.ALPHABET and len(EVALUATOR.ALPHABET) == ENVIRONMENT.preset("cpu").vocab
    for problem in itertools.chain(*PREPARE.problems().values()):
        assert set(problem["prompt"] + problem["answer"]) <= set(EVALUATOR.ALPHABET)
        assert len(problem["answer"]) < EVALUATOR.MAX_TOKENS
        assert len(problem["prompt"]) + EVALUATOR.MAX_TOKENS <= model["CONTEXT"]


class Scripted:
    """Stands in for a scoring run: answers with the logits of a function from a text to its next character."""

    def __init__(self, private, speak, split="main"):
        self.private, self.split, self.notes, self._speak = private, split, {}, speak
        self.received, self.seconds_loading = 0, 0.0

    def open_scorer(self, public=None):
        return self

    def warm_up(self, shapes):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def logits(self, tokens, positions):
        texts = ["".join(EVALUATOR.ALPHABET[token] for token in row) for row in tokens]
        chosen = torch.tensor([EVALUATOR.ALPHABET.index(self._speak(text)) for text in texts])
        return torch.nn.functional.one_hot(chosen, len(EVALUATOR.ALPHABET))[:, None].float().numpy()


def says(answers):
    def speak(text):
        prompt, _, written = text.partition("=")
        return (answers[prompt + "="] + "\n" + 9 * "0")[len(written)]

    return speak


@pytest.mark.parametrize(
    "answer, share",
    [
        (lambda right: right, 1.0),
        (lambda right: right + "0", 0.0),
        (lambda right: "0" + right, 0.0),
        (lambda right: right[:-1], 0.0),
        (lambda right: right if right.startswith("-") else "=", 1 / 3),
    ],
)
def test_an_answer_counts_only_if_all_of_it_is_right(answer, share, tmp_path):
    problems = [
        {"prompt": "047+380=", "answer": "427"},
        {"prompt": "001-999=", "answer": "-998"},
        {"prompt": "999*009=", "answer": "8991"},
    ]
    (tmp_path / "confirm.jsonl").write_text("\n".join(map(json.dumps, problems)))
    speak = says({problem["prompt"]: answer(problem["answer"]) for problem in problems})
    assert EVALUATOR.evaluate(Scripted(tmp_path, speak, "confirm")) == pytest.approx(share)


def test_ideas_may_change_the_training_but_not_the_model():
    judge(BASE, BASE | {"grpo.py": BASE["grpo.py"] + "\n", "extra.py": "x = 1\n"}, ENVIRONMENT.rules)
    with pytest.raises(PatchError, match=r"model\.py"):
        judge(BASE, BASE | {"model.py": BASE["model.py"] + "\n"}, ENVIRONMENT.rules)


@pytest.mark.parametrize("preset", ENVIRONMENT.presets)
def test_every_edit_applies_at_every_value_to_every_preset_and_travels_as_a_diff(preset):
    assert len(CATALOGUE.edits) >= 10
    CHECKS.check_each(preset)


def test_all_phrasings_of_an_edit_are_read_as_it():
    CHECKS.check_phrasings()


def test_every_pair_in_both_orders_gives_one_tree_that_compiles_or_contradicts():
    CHECKS.check_pairs()


def test_group_advantages_rewards_and_masks_are_those_of_grpo(module, tmp_path):
    grpo = module(BASE["grpo.py"], tmp_path)
    rewards_PG = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    advantages_PG = grpo.advantages(rewards_PG)
    assert advantages_PG[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert advantages_PG[1].tolist() == [0.0] * 4
    problem = {"prompt": "001+001=", "answer": "2"}
    assert [grpo.reward(problem, answer) for answer in ("2", "02", "", None)] == [1.0, 0.0, 0.0, 0.0]
    log_B1, old_B1 = torch.log(torch.tensor([[1.5], [1.5], [0.5], [0.5]])), torch.zeros(4, 1)
    advantages_B1 = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert grpo.surrogate(log_B1, old_B1, advantages_B1)[:, 0].tolist() == pytest.approx([1.2, -1.5, 0.5, -0.8])


def test_sampled_tokens_count_up_to_the_first_end(module, tmp_path):
    grpo = module(BASE["grpo.py"], tmp_path)
    torch.manual_seed(0)
    policy = grpo.read_policy(PREPARE.POLICY)
    asked_BT = torch.tensor([grpo.encode("047+380=")] * 64)
    tokens_BT, counts_BA = grpo.sample(policy, asked_BT)
    for row, counts in zip(tokens_BT[:, 8:].tolist(), counts_BA.tolist(), strict=True):
        ended = row.index(grpo.END) + 1 if grpo.END in row else len(row)
        assert counts == [place < ended for place in range(len(row))]


def _trained(module, source, folder, monkeypatch, seconds):
    folder.mkdir()
    data = ENVIRONMENT.data("cpu")
    for name, value in {"DATA": data.public, "ARTIFACT": folder, "BUDGET_SECONDS": seconds, "SEED": 0}.items():
        monkeypatch.setenv(f"IDEATOR_{name}", str(value))
    grpo = module(source, folder)
    grpo.main()
    before, after = (grpo.read_policy(path / "policy.safetensors") for path in (data.public, folder))
    weights = zip(before.parameters(), after.parameters(), strict=True)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in after.parameters())
    return sum(float((one - other).detach().abs().sum()) for one, other in weights)


def test_the_baseline_trains_within_its_budget(module, tmp_path, monkeypatch, capsys):
    assert _trained(module, BASE["grpo.py"], tmp_path / "base", monkeypatch, 6.0) > 0
    assert int(capsys.readouterr().out.split()[-2]) > 1  # steps: one took 1.5 seconds on the slowest machine seen


@pytest.mark.slow
@pytest.mark.parametrize("key", CATALOGUE.edits)
def test_every_edit_trains(key, module, tmp_path, monkeypatch):
    assert _trained(module, CHECKS.applied(key)["grpo.py"], tmp_path / key, monkeypatch, 1.5) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_edits_drawn_together_train(seed, module, tmp_path, monkeypatch):
    chosen = []
    for key in random.Random(seed).sample(list(CATALOGUE.edits), len(CATALOGUE.edits)):
        if len(chosen) < 4 and CHECKS.applied(*chosen, key) is not None:
            chosen.append(key)
    assert _trained(module, CHECKS.applied(*chosen)["grpo.py"], tmp_path / f"s{seed}", monkeypatch, 2.5) > 0
