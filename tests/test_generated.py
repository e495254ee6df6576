"""Answers that our generator samples from an experiment's weights, in a sandbox of its own."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen2Config

from ideator_rl.environments.preset import ScoringLimits
from ideator_rl.errors import IdeatorError
from ideator_rl.evaluation import ScorerFailed, generated, weights
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.scoring.scoring import ScoringRun

PROMPTS = ["one", "a longer prompt than that", "2 + 3", "one"]
VOCABULARY = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base of two layers, and an artifact with other weights of the same form."""
    root = tmp_path_factory.mktemp("generated")
    root.chmod(0o755)
    (root / "base").mkdir()
    (root / "artifact").mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(root / "base" / "tokenizer.json"))
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=299, bos_token_id=None, max_position_embeddings=256,
        architectures=["Qwen2ForCausalLM"], initializer_range=0.5,
    )  # fmt: skip
    (root / "base" / "config.json").write_text(config.to_json_string())
    for seed, name in enumerate(("base", "artifact")):
        save(state(policy(config, seed)), root / name / "model.safetensors")
    return root


def policy(config, seed):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save(tensors, path):
    save_file(tensors, path)
    path.chmod(0o644)  # an artifact is opened to the user of scorers when it is collected


def state(model):
    return {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


@pytest.fixture
def run(folder):
    return ScoringRun(
        folder / "artifact", folder, folder, "cpu", 0, {}, VOCABULARY, best_sandbox(), folder / "artifact", "model:load"
    )


def answers(run, folder, file="model.safetensors", **options):
    options = {"max_tokens": 12, "stop": "", "temperature": 0.0} | options
    path = weights(run, like=folder / "base", name=file)
    return generated(run, PROMPTS, base=folder / "base", weights=path, **options)


def test_the_likeliest_answers_are_those_of_the_model_alone_without_cache_and_padding(run, folder):
    tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
    model = policy(Qwen2Config.from_pretrained(folder / "base"), 1)
    expected = []
    for prompt in PROMPTS:
        tokens = tokenizer.encode(prompt).ids
        start = len(tokens)
        for _ in range(12):
            token = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
            if token == 299:
                break
            tokens.append(token)
        expected.append([tokenizer.decode(tokens[start:])])
    assert len({text for (text,) in expected}) == 3  # else nothing is compared
    # A stop in the middle of the first answer: that one ends there, the others go on.
    stop = expected[0][0][2:4]
    for (text,), (full,) in zip(answers(run, folder, stop=stop), expected, strict=True):
        assert text == (full[: full.index(stop) + len(stop)] if stop in full else full)
    assert sum(stop in full for (full,) in expected) < len(PROMPTS)
    assert run.notes["tokens"] > 0


@pytest.mark.slow  # each start of the generator imports torch and transformers
def test_samples_are_the_same_for_a_seed_and_differ_for_another(run, folder):
    first = answers(run, folder, temperature=1.0, samples=3, seed=1)
    assert [len(row) for row in first] == [3] * len(PROMPTS)
    assert len(set(first[0])) > 1
    assert first == answers(run, folder, temperature=1.0, samples=3, seed=1)
    assert first != answers(run, folder, temperature=1.0, samples=3, seed=2)


@pytest.mark.slow  # each start of the generator imports torch and transformers
@pytest.mark.parametrize(("scale", "temperature"), [(3e38, 0.0), (1e37, 0.01)])  # the second overflows once divided
def test_weights_that_overflow_fail_the_experiment(run, folder, scale, temperature):
    huge = state(policy(Qwen2Config.from_pretrained(folder / "base"), 1))
    huge["model.norm.weight"] = torch.full_like(huge["model.norm.weight"], scale)
    save(huge, folder / "artifact" / "huge.safetensors")
    with pytest.raises(ScorerFailed, match="not finite"):
        answers(run, folder, file="huge.safetensors", temperature=temperature)


@pytest.mark.slow  # each start of the generator imports torch and transformers
def test_weights_that_the_library_cannot_read_fail_the_experiment(run, folder):
    body = (folder / "artifact" / "model.safetensors").read_bytes()
    length = int.from_bytes(body[:8], "little")
    header = body[8 : 8 + length].rstrip().replace(b"[0,", b"[-0,")  # zero for Python, a fraction for the library
    (folder / "artifact" / "odd.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + body[8 + length :]
    )
    (folder / "artifact" / "odd.safetensors").chmod(0o644)
    with pytest.raises(ScorerFailed, match="cannot be read by safetensors"):
        answers(run, folder, file="odd.safetensors")


def test_answers_that_take_too_long_fail_the_experiment_and_leave_no_process(run, folder):
    hurried = dataclasses.replace(run, scoring=ScoringLimits(seconds=0.2))
    with pytest.raises(ScorerFailed, match="took over 0.2 s"):
        answers(hurried, folder)


@pytest.mark.slow  # each start of the generator imports torch and transformers
def test_a_generator_that_breaks_is_our_fault(run, folder, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "tokenizer.json").write_text((folder / "base" / "tokenizer.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such model"}))
    with pytest.raises(IdeatorError, match="The generator broke"):
        generated(
            run, ["x"], base=tmp_path, weights=folder / "artifact" / "model.safetensors", max_tokens=1, stop="",
            temperature=0,
        )  # fmt: skip
