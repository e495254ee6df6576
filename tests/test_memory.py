"""Sizes against real models on the meta device, and bytes against sums done by hand."""

import json
from pathlib import Path

import pytest
import yaml

from ideator_rl.training.launch import DDP, FSDP, ZERO2, ZERO3, Launch, LaunchError, read_launch
from ideator_rl.training.memory import estimate, memory_text
from ideator_rl.training.model_size import FAMILIES, UnknownSize, count, shipped, size_of
from ideator_rl.training.recipe.keys import IdeatorConfig
from ideator_rl.training.recipe.recipe import Recipe

SMALL = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
CASES = {
    "llama": [
        {},
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        {"head_dim": 16, "num_key_value_heads": None},
    ],
    "mistral": [{"head_dim": 8}, {"tie_word_embeddings": True}],
    "mixtral": [{"num_local_experts": 3, "num_experts_per_tok": 2}],
    "qwen2": [{}, {"tie_word_embeddings": True}],
    "qwen3": [{"head_dim": 16}, {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}],
    "qwen3_moe": [
        {"head_dim": 16, "num_experts": 5, "moe_intermediate_size": 12, "num_experts_per_tok": 2},
        {
            "head_dim": 8,
            "num_experts": 5,
            "moe_intermediate_size": 12,
            "decoder_sparse_step": 2,
            "attention_bias": True,
        },
        {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 12, "mlp_only_layers": [0, 3]},
    ],
}
RECIPE = {"output_dir": "x", "per_device_train_batch_size": 2, "max_completion_length": 100}


def real(config):
    """The model that transformers builds of a config, without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def parameters(model, only=lambda parameter: True):
    return sum(parameter.numel() for parameter in model.parameters() if only(parameter))


@pytest.mark.parametrize(
    "config",
    [{"model_type": kind, **SMALL, **changes} for kind, cases in CASES.items() for changes in cases],
    ids=lambda config: config["model_type"],
)
def test_counts_are_those_of_the_real_model(config):
    model = real(config)
    size = count({**config, "num_experts_per_tok": config.get("num_experts_per_tok", 1)}, "x", "here")
    assert size.parameters == parameters(model)
    layers = [parameters(layer) for layer in model.model.layers]
    assert size.layer == max(layers) and size.layers == len(layers)


def test_every_family_is_held_against_a_real_one():
    assert set(CASES) == set(FAMILIES)


@pytest.mark.parametrize("file", shipped(), ids=lambda file: file.stem)
def test_shipped_configs_are_counted_as_the_real_model(file):
    config = json.loads(file.read_text())
    assert size_of(config["_name_or_path"], None).parameters == parameters(real(config))


def test_shipped_configs_have_the_sizes_that_their_makers_publish():
    published = {
        "Qwen3-30B-A3B": 30.5,
        "Qwen3-8B": 8.2,
        "Qwen3-4B": 4.0,
        "Qwen3-0.6B": 0.6,
        "SmolLM2-135M-Instruct": 0.135,
    }
    counted = {file.stem: size_of(json.loads(file.read_text())["_name_or_path"], None) for file in shipped()}
    assert {name: pytest.approx(billions, abs=0.05) for name, billions in published.items()} == {
        name: size.parameters / 1e9 for name, size in counted.items()
    }


def test_a_scratch_model_is_counted_as_it_is_made():
    from ideator_rl.training.recipe.recipe import load_recipe

    scratch = load_recipe("quickstart.yaml").ours.scratch_model
    assert size_of(None, scratch).parameters == parameters(
        real({"model_type": "llama", "tie_word_embeddings": True, **scratch})
    )


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize("modules", [None, ["q_proj", "o_proj"], "all-linear"])
def test_adapters_are_counted_as_peft_makes_them(kind, modules):
    from peft import LoraConfig, get_peft_model

    config = {"model_type": kind, **SMALL, **CASES[kind][0]}
    size = count(config, "x", "here")
    wanted = LoraConfig(r=4, target_modules=modules, task_type="CAUSAL_LM")
    if modules is None and kind == "qwen3_moe":
        with pytest.raises(ValueError, match="target_modules"):
            get_peft_model(real(config), wanted)
        with pytest.raises(UnknownSize, match="Name them"):
            size.adapters(4, modules)
        return
    if modules == "all-linear" and kind == "qwen3_moe":
        with pytest.raises(UnknownSize, match="Adapters on experts of x are not counted"):
            size.adapters(4, modules)
        return
    model = get_peft_model(real(config), wanted)
    assert size.adapters(4, modules) == parameters(model, lambda parameter: parameter.requires_grad)


def test_what_is_not_known_is_said_plainly(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    for name, words in [
        ("some/model", "size of some/model is not known here"),
        (str(tmp_path), "is a mamba, which is not counted"),
    ]:
        text = memory_text(recipe(name), Launch(), 10)
        assert text.startswith("memory       not estimated: ") and words in text and "\n" not in text
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    assert "lacks a number: 'num_hidden_layers'" in memory_text(recipe(str(tmp_path)), Launch(), 10)
    assert "load_in_4bit is not counted" in memory_text(recipe(load_in_4bit=True), Launch(), 10)


def recipe(name="Qwen/Qwen3-0.6B", world=1, **keys):
    ours = {"use_peft", "lora_r", "lora_target_modules", "dtype", "load_in_4bit"}
    model = {key: value for key, value in keys.items() if key in ours}
    grpo = {key: value for key, value in keys.items() if key not in ours}
    return Recipe(IdeatorConfig(env="x", model_name_or_path=name), {**RECIPE, **grpo}, model, world)


def parts(launch, **keys):
    found = estimate(recipe(world=launch.processes, **keys), launch, prompt_tokens=20)
    return {part.name: part.bytes for part in found.parts}


N = 596_049_920
ROWS, TOKENS = 2, 120


def test_one_gpu_with_fp32_weights_and_bf16_arithmetic():
    got = parts(Launch())
    assert got["weights"] == 4 * N and got["16-bit copies"] == 2 * N and got["gradients"] == 4 * N
    assert got["optimizer states"] == 8 * N and "reference model" not in got and "gathered weights" not in got
    # 28 layers of 8 heads of 128 for keys and for values, 2 bytes
    assert got["key-value cache"] == ROWS * TOKENS * 28 * 8 * 128 * 2 * 2
    layer = (4 * 1024 + 2 * 2048 + 2 * 1024 + 4 * 3072) * 2
    assert got["activations"] == ROWS * TOKENS * (28 * 1024 * 2 + 2 * layer)


def test_bf16_weights_have_bf16_gradients_and_states():
    got = parts(Launch(8), dtype="bfloat16")
    assert (got["weights"], got["gradients"], got["optimizer states"]) == (2 * N, 2 * 2 * N, 4 * N)
    assert "16-bit copies" not in got


@pytest.mark.parametrize(
    ("sharding", "weights", "gradients", "states"),
    [(ZERO2, 2, 2 / 8, 12 / 8), (ZERO3, 2 / 8, 2 / 8, 12 / 8), (FSDP, 4 / 8, 4 / 8, 8 / 8)],
)
def test_what_sharding_divides(sharding, weights, gradients, states):
    got = parts(Launch(8, sharding))
    assert (got["weights"], got["gradients"], got["optimizer states"]) == (weights * N, gradients * N, states * N)
    assert ("gathered weights" in got) == (sharding != ZERO2)


def test_zero3_gathers_the_whole_model_to_generate_unless_told_otherwise_or_vllm_does_it():
    cache = parts(Launch(8, ZERO2))["key-value cache"]
    assert parts(Launch(8, ZERO3))["key-value cache"] == cache + 2 * N
    assert parts(Launch(8, ZERO3), ds3_gather_for_generation=False)["key-value cache"] == cache
    assert "key-value cache" not in parts(Launch(8, ZERO3), use_vllm=True)


def test_adapters_leave_the_model_frozen():
    got = parts(Launch(8), use_peft=True, lora_r=16, lora_target_modules=["q_proj"], dtype="bfloat16", beta=0.1)
    trained = 28 * 16 * (1024 + 2048)
    assert got["weights"] == 2 * N and got["adapters"] == 4 * trained and got["gradients"] == 4 * 2 * trained
    assert got["optimizer states"] == 8 * trained and "reference model" not in got


def test_a_kl_term_needs_a_reference_model():
    assert parts(Launch(8, ZERO3), beta=0.01)["reference model"] == 2 * N / 8
    assert parts(Launch(8, ZERO2), beta=0.01)["reference model"] == 2 * N
    assert "reference model" not in parts(Launch(8, ZERO3), beta=0.0)


def test_without_a_gpu_all_is_fp32():
    got = parts(Launch(2, cpu=True))
    assert got["weights"] == 4 * N and "16-bit copies" not in got and got["gradients"] == 2 * 4 * N


def test_offloading_takes_states_and_weights_from_the_gpu():
    got = parts(Launch(8, ZERO3, offload_optimizer=True, offload_weights=True))
    assert "optimizer states" not in got and "weights" not in got and "gradients" in got


def test_vllm_beside_the_trainer_takes_its_share_and_says_when_it_is_too_little():
    keys = {"use_vllm": True, "vllm_gpu_memory_utilization": 0.3}
    found = estimate(recipe("Qwen/Qwen3-30B-A3B", **keys), Launch(), 20)
    (part,) = [part for part in found.parts if part.name == "vLLM"]
    assert part.bytes == pytest.approx(24e9) and "TOO LITTLE" in part.formula
    split = recipe("Qwen/Qwen3-30B-A3B", **keys, vllm_tensor_parallel_size=4)
    (part,) = [part for part in estimate(split, Launch(8), 20).parts if part.name == "vLLM"]
    # 24 GB less 2 × 30.53 / 4 = 15.27 leave 8.73; a token's 96 kB are divided by 4 too
    assert "8.7 of key-value cache (355 k tokens)" in part.formula


def test_a_vllm_server_holds_the_model_elsewhere():
    found = estimate(recipe("Qwen/Qwen3-30B-A3B", use_vllm=True, vllm_mode="server"), Launch(), 20)
    assert "61 GB of weights" in found.elsewhere and "vLLM" not in {part.name for part in found.parts}


def test_the_peak_counts_the_larger_phase_once():
    found = estimate(recipe(), Launch(), 20)
    by_name = {part.name: part.bytes for part in found.parts}
    phases = by_name.pop("activations"), by_name.pop("key-value cache")
    assert found.total == pytest.approx(sum(by_name.values()) + max(phases))
    assert "too much for 80 GB" in estimate(recipe("Qwen/Qwen3-30B-A3B"), Launch(), 20).text()
    assert "too much" not in found.text()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp", Launch(8, DDP)),
        ("zero2", Launch(8, ZERO2)),
        ("zero3", Launch(8, ZERO3)),
        ("fsdp", Launch(8, FSDP)),
        ("cpu2", Launch(2, DDP, cpu=True)),
    ],
)
def test_shipped_accelerate_configs_are_read(name, expected):
    file = Path(__file__).parent.parent / "recipes" / "accelerate" / f"{name}.yaml"
    assert read_launch(str(file)) == expected and read_launch(str(file), 4).processes == 4


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"distributed_type": "MULTI_GPU"}, "num_processes: None"),
        ({"num_processes": 2, "distributed_type": "MEGATRON_LM"}, "distributed_type: MEGATRON_LM"),
        ({"num_processes": 2, "distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 7}}, "zero_stage: 7"),
        ({"num_processes": 2, "distributed_type": "FSDP", "fsdp_config": {"fsdp_sharding_strategy": "X"}}, "'X'"),
        ([1], "must be a mapping"),
    ],
)
def test_a_launch_that_is_not_understood_is_refused(tmp_path, body, words):
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(body))
    with pytest.raises(LaunchError) as caught:
        read_launch(str(file))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(LaunchError, match="cannot be read"):
        read_launch(str(tmp_path / "none.yaml"))


def test_a_deepspeed_file_beside_the_config_is_read(tmp_path):
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}}
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": zero}))
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump(
            {
                "num_processes": 4,
                "distributed_type": "DEEPSPEED",
                "deepspeed_config": {"deepspeed_config_file": "ds.json"},
            }
        )
    )
    assert read_launch(str(tmp_path / "a.yaml")) == Launch(4, ZERO3, offload_optimizer=True)
