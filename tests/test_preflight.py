"""What the end of a run needs is tried at its start: a model that could not be trained, saved or asked is refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TOY
from hub_server import Hub
from tiny_policy import save_policy

from ideator_rl.environments.environment import load_environment
from ideator_rl.llm.model_check import check_model
from ideator_rl.llm.model_lookup import ModelError, require_model
from ideator_rl.train import main
from ideator_rl.training.preflight import PreflightError, check_ideator, check_recipe
from ideator_rl.training.recipe.recipe import load_recipe

RECIPE = str(Path(__file__).parent / "toy_recipe.yaml")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return Path(save_policy(tmp_path_factory.mktemp("policy") / "model"))


@pytest.fixture
def model(policy, tmp_path):
    """A copy of a small model to damage."""
    shutil.copytree(policy, tmp_path / "m")
    return tmp_path / "m"


def overrides(folder, model, *more):
    words = ["--output_dir", str(folder), "--env", str(TOY), "--scratch_model", "null", "--sft_steps", "0"]
    return [*words, "--model_name_or_path", str(model), *more]


def recipe_for(folder, model, *more):
    return load_recipe(RECIPE, overrides(folder, model, *more))


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def shard(folder, first="model-00001-of-00002.safetensors"):
    (folder / "model.safetensors").rename(folder / first)
    table = {"a": first, "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def remove(folder, *names):
    for name in names:
        (folder / name).unlink()


BROKEN_FOLDERS = {
    "no weights": (lambda m: remove(m, "model.safetensors"), "it holds no weights. Expected model.safetensors"),
    "empty weights": (lambda m: (m / "model.safetensors").write_bytes(b""), "is cut short, or no file of weights (0 b"),
    "half the weights": (
        lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:5000]),
        "(5000 bytes). Copy or download it again",
    ),
    "a missing shard": (shard, "model-00002-of-00002.safetensors is missing"),
    "an index that is none": (
        lambda m: (remove(m, "model.safetensors"), (m / "model.safetensors.index.json").write_text("[]")),
        "is no index of weights",
    ),
    "GGUF files": (
        lambda m: (remove(m, "config.json"), (m / "q4.gguf").write_bytes(b"GGUF")),
        "it holds q4.gguf without a config.json",
    ),
    "adapters": (
        lambda m: (m / "config.json").rename(m / "adapter_config.json"),
        "it holds adapters without their base. Merge them",
    ),
    "no tokenizer": (lambda m: remove(m, "tokenizer.json"), "it holds no tokenizer"),
    "a config that is cut": (lambda m: (m / "config.json").write_text('{"model'), "config.json is not JSON"),
    "a config that is a list": (lambda m: (m / "config.json").write_text("[]"), "config.json is no JSON object"),
}


@pytest.mark.parametrize(("damage", "sentence"), BROKEN_FOLDERS.values(), ids=BROKEN_FOLDERS)
def test_a_folder_without_a_complete_model_is_refused_without_torch_saying_what_is_missing(model, damage, sentence):
    assert require_model(str(model)) is None
    damage(model)
    with pytest.raises(ModelError) as refusal:
        require_model(str(model))
    assert sentence in str(refusal.value)


def test_the_folder_of_a_run_stands_for_its_model(model, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.move(model, tmp_path / "run" / "model")
    assert require_model(str(tmp_path / "run")) is None
    with pytest.raises(ModelError, match="ideator-rl export"):
        require_model(str(tmp_path))


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("the pickle ran code",)


HARMFUL = Harmful()
BROKEN_MODELS = {
    "a token without a row": (
        lambda m: change(m / "tokenizer_config.json", pad_token="<pad>", added_tokens_decoder={}),
        r"its pad token '<pad>' has the number \d+, and the embedding \d+ rows. Call model.resize_token_embeddings",
    ),
    "no end of text": (
        lambda m: (
            change(m / "tokenizer_config.json", eos_token=None),
            change(m / "config.json", eos_token_id=None),
            change(m / "generation_config.json", eos_token_id=None),
        ),
        "has no token that ends a text",
    ),
    "an unknown architecture": (lambda m: change(m / "config.json", model_type="yours"), "cannot be loaded: "),
    "no language model": (
        lambda m: change(m / "config.json", architectures=["LlamaForSequenceClassification"]),
        "LlamaForSequenceClassification writes no text",
    ),
    "no architecture": (lambda m: change(m / "config.json", architectures=None), "names no causal language model"),
    "weights of another size": (lambda m: change(m / "config.json", hidden_size=64), "hold no fitting weights"),
    "weights of more layers": (lambda m: change(m / "config.json", num_hidden_layers=3), "which would be random"),
    "code of its own": (
        lambda m: change(m / "config.json", model_type="mine", auto_map={"AutoConfig": "c.C"}),
        "needs code of its repository, which is never run",
    ),
    "a tokenizer that is none": (
        lambda m: (m / "tokenizer.json").write_text("{}"),
        "tokenizer of .* cannot be loaded: KeyError: 'added_tokens' Expected what `save_pretrained` writes",
    ),
    "another way to store weights": (
        lambda m: change(m / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "cannot be loaded: Loading a GPTQ quantized model requires",
    ),
    "a pickle that would run code": (
        lambda m: (remove(m, "model.safetensors"), torch.save({"a": HARMFUL}, m / "pytorch_model.bin")),
        "cannot be loaded: Weights only load failed",
    ),
    "a template that fails": (
        lambda m: (m / "chat_template.jinja").write_text("{{ raise_exception('one role') }}"),
        "chat template cannot write the prompt: one role",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), BROKEN_MODELS.values(), ids=BROKEN_MODELS)
def test_a_model_that_could_not_be_trained_or_saved_is_refused_before_its_weights_are_read(model, damage, sentence):
    damage(model)
    with pytest.raises(ModelError, match=sentence) as refusal:
        check_model(str(model), "Propose.")
    assert str(refusal.value).count("\n") == 0


def test_a_good_model_passes_without_a_word(policy):
    checked = check_model(str(policy), "Propose.")
    assert checked.notes == [] and checked.parameters > 10_000 and checked.model.device.type == "meta"


def test_a_generation_config_that_cannot_be_saved_is_repaired_and_said(model):
    (model / "generation_config.json").write_text(
        '{"eos_token_id": 0, "do_sample": false, "temperature": 0.9, "top_p": 0.6, "early_stopping": true, '
        '"repetition_penalty": 1.1}'
    )
    checked = check_model(str(model), "Propose.")
    assert "cannot be saved with early_stopping, temperature, top_p" in checked.notes[0]
    repaired = checked.model.generation_config
    assert repaired.eos_token_id == 0 and repaired.repetition_penalty == 1.1 and repaired.do_sample is False


def test_a_tokenizer_without_an_end_takes_the_models(model):
    change(model / "tokenizer_config.json", eos_token=None, pad_token=None)
    checked = check_model(str(model), "Propose.")
    assert checked.form.tokenizer.eos_token_id == 0 and "names no end of text" in checked.notes[0]
    assert checked.form.tokenizer.pad_token_id == 0


@pytest.mark.slow
def test_a_model_whose_generation_config_cannot_be_saved_is_trained_warmed_up_and_exported(model, tmp_path, call):
    generation = {"eos_token_id": 0, "do_sample": False, "temperature": 0.9}
    (model / "generation_config.json").write_text(json.dumps(generation))
    run = tmp_path / "run"
    words = overrides(run, model, "--max_steps", "1", "--max_completion_length", "8", "--save_steps", "1000")
    assert main(["--config", RECIPE, *words, "--sft_steps", "1"]) == 0
    saved = json.loads((run / "model" / "generation_config.json").read_text())
    assert "temperature" not in saved and saved["eos_token_id"] == 0
    assert call("export", run, "--out", tmp_path / "out")[0] == 0


def test_a_refused_start_leaves_the_folder_free_for_the_same_command(model, policy, tmp_path, capsys):
    run = tmp_path / "run"
    change(model / "tokenizer_config.json", pad_token="<pad>")
    for _ in range(2):
        assert main(["--config", RECIPE, *overrides(run, model)]) == 2
        assert "resize_token_embeddings" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == [".lock"]
    short = ["--max_steps", "1", "--max_completion_length", "8"]
    assert main(["--config", RECIPE, *overrides(run, policy, *short, "--loss_type", "grpo", "--optim", "adamm")]) == 2
    assert "TRL refuses this recipe" in capsys.readouterr().err and not (run / "recipe.yaml").exists()
    # Another model from the hub that cannot be saved as it is: repaired at the start, saved at the end.
    shutil.copytree(policy, tmp_path / "mended")
    (tmp_path / "mended" / "generation_config.json").write_text('{"eos_token_id": 0, "temperature": 0.9}')
    assert main(["--config", RECIPE, *overrides(run, tmp_path / "mended", *short)]) == 0
    assert "temperature" not in (run / "model" / "generation_config.json").read_text()


def test_what_a_start_found_in_its_folder_stays_when_it_is_refused(model, tmp_path):
    run = tmp_path / "run"
    (run / "warmup").mkdir(parents=True)
    (run / "warmup" / "mine").write_text("x")
    change(model / "config.json", num_hidden_layers=3)
    assert main(["--config", RECIPE, *overrides(run, model)]) == 2
    assert (run / "warmup" / "mine").read_text() == "x"


def test_a_wrong_model_is_refused_before_torch_or_trl_is_imported(tmp_path):
    code = (
        "import sys; from ideator_rl.train import main; status = main(sys.argv[1:]);"
        "print(status, *({'torch', 'transformers', 'trl', 'accelerate'} & set(sys.modules)))"
    )
    words = ["--config", RECIPE, *overrides(tmp_path / "run", "some/model")]
    environment = {"PATH": "/usr/bin:/bin", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert ended.stdout == "2\n" and ended.stderr.count("\n") == 1
    assert "There is no folder some/model here" in ended.stderr and "the hub cannot be reached" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_a_wrong_model_before_it_becomes_the_accelerate_line(call, tmp_path, monkeypatch):
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("it was launched"))
    for command in ("train", "sft"):
        words = overrides(tmp_path / "run", tmp_path / "none", "--sft_steps", "1")
        code, _, err = call(command, RECIPE, *words)
        assert code == 2 and "There is no folder" in err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tries_what_the_run_tries_but_asks_no_network(model, tmp_path, capsys):
    words = ["--config", RECIPE, "--dry-run"]
    run = tmp_path / "run"
    assert main([*words, *overrides(run, model)]) == 0
    remove(model, "model.safetensors")
    assert main([*words, *overrides(run, model)]) == 2 and "it holds no weights" in capsys.readouterr().err
    assert main([*words, *overrides(run, "some/model")]) == 0
    assert "note         some/model is not in this machine's cache" in capsys.readouterr().out
    assert not run.exists()


@pytest.fixture
def hub(monkeypatch):
    with Hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield server


WHOLE = {"config.json": b"{}", "model.safetensors": b""}
HUB = {
    "a name that is not there": ({}, False, "the hub has no such model, or a private one"),
    "GGUF files only": ({"config.json": b"{}", "q4.gguf": b""}, False, "holds no weights that transformers trains"),
    "weights without a config": ({"model.safetensors": b""}, False, "on the hub has no config.json"),
    "terms to accept": (WHOLE, True, "only to users who accepted its terms"),
}


@pytest.mark.parametrize(("files", "gated", "sentence"), HUB.values(), ids=HUB)
def test_the_hub_is_asked_for_a_model_that_is_not_in_the_cache(hub, files, gated, sentence):
    hub.repos["model", "some/good"] = WHOLE
    assert require_model("some/good") == "some/good is not in this machine's cache; the run downloads it"
    if files:
        hub.repos["model", "some/model"] = files
    if gated:
        hub.gated.add("some/model")
    with pytest.raises(ModelError, match=sentence):
        require_model("some/model")


def test_without_a_network_a_model_that_is_not_in_the_cache_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="The hub is not asked"):
        require_model("some/model", ask_hub=False)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--load_in_4bit", "true"], "bitsandbytes is not installed here"),
        (["--attn_implementation", "flash_attention_2"], "cannot be loaded: .*[Ff]lash"),
        (
            [
                "--scratch_model",
                "{{hidden_size: 15, num_attention_heads: 2}}",
                "--model_name_or_path",
                "null",
                "--sft_steps",
                "2",
            ],
            "not a Llama",
        ),
        (["--use_peft", "--lora_target_modules", "[nothing]"], "adapters do not fit the model: "),
        (["--chat_template_kwargs", "[1]"], "chat_template_kwargs"),
        (["--sft_steps", "2", "--env", "{bare}"], "has no catalogue of edits"),
        (["--output_dir", "{file}/run"], "is no folder. Give another --output_dir"),
        (["--prompts", "longest"], "longest"),
        (["--reward_funcs", "[nowhere.f]"], "cannot be imported"),
    ],
)
def test_what_the_end_of_a_run_would_miss_is_refused_before_its_start(policy, tmp_path, more, sentence):
    shutil.copytree(TOY, tmp_path / "bare")
    manifest = tmp_path / "bare" / "env.yaml"
    lines = [line for line in manifest.read_text().splitlines() if not line.startswith("catalogue")]
    manifest.write_text("\n".join(lines) + "\n")
    (tmp_path / "file").write_text("")
    words = [word.format(bare=tmp_path / "bare", file=tmp_path / "file") for word in more]
    with pytest.raises(Exception, match=sentence):
        recipe = recipe_for(tmp_path / "run", policy, *words)
        check_recipe(recipe)
        check_ideator(recipe, load_environment(recipe.ours.env))


def test_training_on_a_reported_metric_needs_a_key(policy, tmp_path):
    shutil.copytree(TOY, tmp_path / "reported")
    manifest = tmp_path / "reported" / "env.yaml"
    manifest.write_text(re.sub(r"^(metric: \{.*)\}", r"\1, source: reported}", manifest.read_text(), flags=re.M))
    words = ("--env", str(tmp_path / "reported"))
    with pytest.raises(PreflightError, match="or set allow_reported: true"):
        check_recipe(recipe_for(tmp_path / "run", policy, *words))
    check_recipe(recipe_for(tmp_path / "run", policy, *words, "--allow_reported", "true"))


def test_a_disk_without_room_for_one_checkpoint_is_refused(policy, tmp_path, monkeypatch):
    environment = load_environment(str(TOY))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    recipe = recipe_for(tmp_path / "run", policy)
    with pytest.raises(PreflightError, match="needs at least .* for one checkpoint and its models"):
        check_ideator(recipe, environment)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=700_000))
    notes = check_ideator(
        recipe_for(tmp_path / "run", policy, "--max_steps", "9", "--save_total_limit", "null"), environment
    )
    assert "give --save_total_limit 2" in notes[-1]


def test_a_context_that_is_too_short_is_refused_where_positions_are_learned(policy, tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    environment = load_environment(str(TOY))
    tokenizer = AutoTokenizer.from_pretrained(policy)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), eos_token_id=0, **sizes)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(PreflightError, match="the model has positions for 32. Lower max_completion_length"):
        check_ideator(recipe_for(tmp_path / "run", tmp_path / "m"), environment)
    inheriting = ["--inherit", "chosen", "--prompt_strategy", "top_k", "--code_tokens", "4000"]
    with pytest.raises(PreflightError, match=r"have \d{4,} tokens.*Lower max_completion_length or code_tokens"):
        check_ideator(recipe_for(tmp_path / "run", tmp_path / "m", *inheriting), environment)
    # Rotary positions go on, at a loss of quality.
    notes = check_ideator(recipe_for(tmp_path / "run", policy, "--max_completion_length", "500"), environment)
    assert "more than the 128 of the model's context" in notes[0]


def test_an_own_function_in_the_working_directory_is_found_by_a_dry_run_as_by_the_run(policy, tmp_path, monkeypatch):
    (tmp_path / "rewards_of_mine.py").write_text(
        "def short(completions, **_):\n    return [0.0 for _ in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    recipe = recipe_for(tmp_path / "run", policy, "--reward_funcs", "[rewards_of_mine.short]")
    assert check_recipe(recipe, dry=True) == check_recipe(recipe) == []
