"""The environment of problems with answers: its baseline on a random model of two layers, its catalogue, its data."""

import importlib
import importlib.util
import json
import random
import sys
import types

import pytest
import torch
from catalogue_checks import CatalogueChecks
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import apply_patch, judge

ENVIRONMENT = load_environment("math_grpo")
CHECKS = CatalogueChecks(ENVIRONMENT, "cpu_lm", "grpo.py")
CATALOGUE, BASE = CHECKS.catalogue, CHECKS.base
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 <>/=+."
TINY = {"prompts": 2, "group": 4, "updates": 2, "micro": 3, "max_tokens": 8, "steps": 2, "max_length": 64, "reserve": 0,
        "learning_rate": 0.01, "dtype": '"float32"', "rows": 5}  # fmt: skip
needs_math = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="needs the extra `math`")


def tiny_data(folder):
    """Public data with a random Qwen2 of two layers over characters; the end of a text pads."""
    vocabulary = {"<|end|>": 0} | {letter: place for place, letter in enumerate(LETTERS, 1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="."))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", clean_up_tokenization_spaces=False
    ).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    (folder / "template.txt").write_text("sum {problem} =")
    problems = [{"problem": f"{a}+{b}", "answer": str(a + b)} for a in range(5) for b in range(8, 12)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, problems)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def build(monkeypatch):
    """Imports a codebase's grpo.py with settings for the tiny model, and its modules beside it."""
    importlib.import_module("torch._dynamo")
    names = ("policy", "grade", "rollout", "grpo")

    def module(tree, folder, **settings):
        folder.mkdir(exist_ok=True)
        source = tree["grpo.py"]
        for name, value in (TINY | settings).items():
            lines = [line for line in source.splitlines() if line.startswith(f"{name} = ")]
            source = source.replace(lines[0], f"{name} = {value}")
        for name, text in (tree | {"grpo.py": source}).items():
            (folder / name).write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        return importlib.import_module("grpo")

    yield module
    for name in names:
        sys.modules.pop(name, None)


def trained(module, data, folder, monkeypatch, seconds=600):
    """Trains, and returns the sum of all changes of weights."""
    from safetensors.torch import load_file

    artifact = folder / "artifact"
    artifact.mkdir()
    for name, value in {"DATA": data, "ARTIFACT": artifact, "BUDGET_SECONDS": seconds, "SEED": 0}.items():
        monkeypatch.setenv(f"IDEATOR_{name}", str(value))
    # A random model answers nothing right: some of its answers are rewarded for what they hold.
    monkeypatch.setattr(module, "reward", lambda problem, text: float(sum(map(ord, text)) % 2))
    module.main()
    before = load_file(data / "model" / "model.safetensors")
    after = load_file(artifact / "model.safetensors")
    assert [path.name for path in artifact.iterdir()] == ["model.safetensors"]
    assert {name: (w.shape, w.dtype) for name, w in before.items()} == {
        name: (w.shape, w.dtype) for name, w in after.items()
    }
    assert all(bool(torch.isfinite(weight).all()) for weight in after.values())
    return sum(float((after[name] - before[name]).abs().sum()) for name in before)


@needs_math
def test_the_baseline_trains_a_model_of_two_layers_within_its_steps(build, data, tmp_path, monkeypatch, capsys):
    assert trained(build(BASE, tmp_path / "code"), data, tmp_path, monkeypatch) > 0
    assert capsys.readouterr().out.strip().endswith("2 steps")


@needs_math
def test_the_known_good_edit_updates_on_answers_above_their_groups_mean_alone(build, data, tmp_path, monkeypatch):
    tree = apply_patch(BASE, (ENVIRONMENT.root / ENVIRONMENT.at("cpu_lm").known_good).read_text())
    judge(BASE, tree, ENVIRONMENT.rules)
    grpo, updates = build(tree, tmp_path / "code"), []
    update = grpo.update

    def recorded(policy, optimizer, answers, old, advantages_B):
        updates.append(advantages_B)
        update(policy, optimizer, answers, old, advantages_B)

    monkeypatch.setattr(grpo, "update", recorded)
    assert trained(grpo, data, tmp_path, monkeypatch) > 0
    assert updates and all(bool((advantages_B > 0).all()) for advantages_B in updates)


@needs_math
def test_log_probabilities_are_those_of_each_answer_alone(build, data, tmp_path):
    grpo = build(BASE, tmp_path / "code", temperature=0.7)
    policy = grpo.read_policy(data, "float32", "cpu")
    answers = [([5, 6, 7], [8, 9]), ([3], [4, 2, 6, 1]), ([9, 9, 2, 4], [7])]
    log_BA, entropy_BA, counts_BA = grpo.log_probabilities(policy, answers)
    assert counts_BA.sum(1).tolist() == [2, 4, 1]
    for row, (asked, given) in enumerate(answers):
        logits_TV = policy(torch.tensor([asked + given])).logits[0] / 0.7
        log_TV = logits_TV.log_softmax(-1)[len(asked) - 1 : -1]
        expected = log_TV[range(len(given)), given]
        assert log_BA[row, : len(given)].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        assert entropy_BA[row, : len(given)].tolist() == pytest.approx(
            (-log_TV.exp() * log_TV).sum(-1).tolist(), abs=1e-4
        )


@needs_math
def test_checkpointed_parts_give_the_gradient_of_the_whole(build, data, tmp_path):
    gradients = []
    for rows in (1, 1000):
        grpo = build(BASE, tmp_path / f"rows{rows}", rows=rows)
        policy = grpo.read_policy(data, "float32", "cpu")
        grpo.log_probabilities(policy, [([5, 6], [8, 9]), ([3], [4, 2, 6])])[0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-5)


@needs_math
def test_the_parts_of_grpo_have_the_papers_values(build, data, tmp_path):
    grpo = build(BASE, tmp_path / "code")
    advantages_PG = grpo.advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    assert advantages_PG[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert advantages_PG[1].tolist() == [0.0] * 4
    log_B1, old_B1 = torch.log(torch.tensor([[1.5], [1.5], [0.5], [0.5]])), torch.zeros(4, 1)
    objective = grpo.surrogate(log_B1, old_B1, torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    assert objective[:, 0].tolist() == pytest.approx([1.2, -1.5, 0.5, -0.8])
    values, counts = torch.tensor([[1.0, 1.0, 1.0], [4.0, 9.0, 9.0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert float(grpo.over_tokens(values, counts)) == pytest.approx(7 / 4)


class Written:
    """A policy whose answers are written beforehand; stands in for `generate`."""

    def __init__(self, tokenizer, texts):
        self.device, self._tokenizer, self._texts = torch.device("cpu"), tokenizer, texts

    def generate(self, input_ids, attention_mask, **_):
        self.asked = input_ids
        answers = [self._tokenizer(text)["input_ids"] for text in self._texts]
        longest = max(map(len, answers))
        padded = [answer + [0] * (longest - len(answer)) for answer in answers]
        return torch.cat([input_ids.repeat_interleave(len(answers) // len(input_ids), 0), torch.tensor(padded)], 1)


@needs_math
def test_answers_end_with_their_stop_or_their_end_and_hold_no_padding(build, data, tmp_path):
    grpo = build(BASE, tmp_path / "code")
    tokenizer = grpo.read_tokenizer(data)
    texts = ["<answer>7</answer>", "7", "abc<|end|>", "<answer>123456</answer>"]
    policy = Written(tokenizer, texts)
    sampling = grpo.engine("torch", policy, tokenizer, data / "model", 64, 0)
    answers = sampling.sample([[5], [6, 7, 8]], 2, 30, 1.0, "</answer>")
    assert policy.asked.tolist() == [[0, 0, 5], [6, 7, 8]]
    decoded = [tokenizer.decode(answer) for row in answers for answer in row]
    assert decoded == ["<answer>7</answer>", "7<|end|>", "abc<|end|>", "<answer>123456</answer>"]


@needs_math
def test_sampling_stops_at_the_closing_tag(build, data, tmp_path):
    grpo = build(BASE, tmp_path / "code")
    policy, tokenizer = grpo.read_policy(data, "float32", "cpu"), grpo.read_tokenizer(data)
    torch.manual_seed(0)
    sampling = grpo.engine("torch", policy, tokenizer, data / "model", 64, 0)
    # A single character stops a random model of 44 tokens soon enough to see it.
    answers = [tokenizer.decode(answer) for answer in sampling.sample([[5, 6]], 16, 40, 1.0, "a")[0]]
    assert any(answer.endswith("a") for answer in answers)
    assert all("a" not in answer[:-1] for answer in answers)


class ScriptedVllm(types.ModuleType):
    """Stands in for vLLM: notes what it is asked, and answers with numbered tokens."""

    def __init__(self):
        super().__init__("vllm")
        self.loaded, self.asked, self.resets = {}, None, 0
        runner = types.SimpleNamespace(
            model=types.SimpleNamespace(load_weights=lambda pairs: self.loaded.update(pairs))
        )
        worker = types.SimpleNamespace(driver_worker=types.SimpleNamespace(model_runner=runner))
        self.llm_engine = types.SimpleNamespace(model_executor=worker)
        self.SamplingParams = lambda **values: values
        self.LLM = self._start

    def _start(self, **options):
        self.options = options
        return self

    def reset_prefix_cache(self):
        self.resets += 1

    def generate(self, prompts, parameters, use_tqdm):
        self.asked = (prompts, parameters)
        outputs = [types.SimpleNamespace(token_ids=(number, 0)) for number in range(parameters["n"])]
        return [types.SimpleNamespace(outputs=outputs) for _ in prompts]


@needs_math
def test_vllm_gets_the_weights_and_answers_as_torch_does(build, data, tmp_path, monkeypatch):
    vllm = ScriptedVllm()
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "RANK", "LOCAL_RANK", "WORLD_SIZE",
                 "MASTER_ADDR", "MASTER_PORT"):  # fmt: skip
        monkeypatch.setenv(name, "1")
    grpo = build(BASE, tmp_path / "code", sampler='"vllm"')
    assert trained(grpo, data, tmp_path, monkeypatch) > 0
    assert vllm.options["model"] == str(data / "model") and vllm.options["max_model_len"] == 64
    assert vllm.asked[1]["stop"] == ["</answer>"] and vllm.asked[1]["n"] == 4 and len(vllm.asked[0]) == 2
    assert vllm.resets == 2
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "artifact" / "model.safetensors")
    assert set(vllm.loaded) == set(saved)
    assert all(torch.equal(vllm.loaded[name], saved[name]) for name in saved)


@needs_math
@pytest.mark.parametrize(
    "text, gold, right",
    [
        ("so </think> <answer> 8 </answer>", "8", True),
        ("</think>\n<answer>\\frac43</answer>.", "\\frac{4}{3}", True),
        ("</think> <answer>0.5</answer>", "\\frac{1}{2}", True),
        ("</think> <answer>9</answer>", "8", False),
        ("<answer>8</answer>", "8", False),
        ("</think> so <answer>8</answer>", "8", False),
        ("</think> </think> <answer>8</answer>", "8", False),
        ("</think> <answer>8", "8", False),
        ("</think> <answer>9 <answer>8</answer>", "8", False),
        ("</think> <answer></answer>", "8", False),
        ("</think> <answer>" + "8" * 600 + "</answer>", "8" * 600, False),
    ],
)
def test_an_answer_is_rewarded_for_its_value_in_the_form_that_the_evaluator_wants(text, gold, right, build, tmp_path):
    from ideator_rl.evaluation import answer_of

    grpo = build(BASE, tmp_path / "code")
    assert grpo.reward({"answer": gold, "thought": True}, text) == float(right)
    # The evaluator's texts end with the tag; its form for a prompt without a thought is the same without one.
    grade = sys.modules["grade"]
    ended = text.removesuffix(".")
    assert grade.answer_of(ended, True) == answer_of(ended)
    assert grade.answer_of(ended, False) == answer_of("</think> " + ended)


@pytest.mark.parametrize("preset", ENVIRONMENT.presets)
def test_every_edit_applies_at_every_value_to_every_preset_and_travels_as_a_diff(preset):
    assert len(CATALOGUE.edits) >= 25
    CHECKS.check_each(preset)


def test_all_phrasings_of_an_edit_are_read_as_it():
    CHECKS.check_phrasings()


def test_every_pair_in_both_orders_gives_one_tree_that_compiles_or_contradicts():
    CHECKS.check_pairs()


@needs_math
@pytest.mark.slow
@pytest.mark.parametrize("key", CATALOGUE.edits)
def test_every_edit_trains(key, build, data, tmp_path, monkeypatch):
    grpo = build(CHECKS.applied(key), tmp_path / "code", **({} if key in TINY else {}))
    assert trained(grpo, data, tmp_path, monkeypatch) > 0


@needs_math
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_edits_drawn_together_train(seed, build, data, tmp_path, monkeypatch):
    chosen = []
    for key in random.Random(seed).sample(list(CATALOGUE.edits), len(CATALOGUE.edits)):
        if len(chosen) < 4 and CHECKS.applied(*chosen, key) is not None:
            chosen.append(key)
    assert trained(build(CHECKS.applied(*chosen), tmp_path / "code"), data, tmp_path, monkeypatch) > 0
