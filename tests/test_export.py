"""Exports of a run written by these tests (real weights, an invented journal), and refusals."""

import json
import shutil
import sqlite3
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
import torch
import yaml
from conftest import sentence
from exported_run import RECIPE, checkpoint, exported_text, interrupted, policy
from huggingface_hub import DatasetCard, ModelCard
from recorded import journal, record
from safetensors.torch import load_file

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import RERUN_REPLICATE
from ideator_rl.publishing.cards import MAX_CHARACTERS, _eval_results
from ideator_rl.publishing.export import Options, export_to_folder, recipe_of
from ideator_rl.publishing.weights import make_loadable, newest_weights
from ideator_rl.storage.run_reader import read_run
from ideator_rl.training.models import ModelError, save_weights

LINEAGE = "create table if not exists lineage (child text, parents_json text, step integer)"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return interrupted(tmp_path_factory.mktemp("runs") / "toy")


@pytest.fixture(scope="module")
def out(run, tmp_path_factory):
    target = tmp_path_factory.mktemp("exports") / "out"
    export_to_folder(run, target, Options(license="apache-2.0", dataset="me/ideas"))
    return target


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def finish(run):
    """Save a model as a run does at its end."""
    model, tokenizer = policy(run / "unused")
    save_weights(model, tokenizer, run / "model")
    (run / "model" / "README.md").write_text("a card of the run")
    return run / "model"


def rewrite(run, **keys):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **keys}))


def test_the_exported_model_loads_and_generates(out):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    inputs = tokenizer("[Experiment] Set", return_tensors="pt")
    tokens = model.generate(inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=4, min_new_tokens=4)
    assert tokens.shape[1] == inputs.input_ids.shape[1] + 4 and model.config.use_cache
    assert model.config.rope_parameters["rope_theta"] == 5e5 and model.generation_config.eos_token_id == 0


def test_an_adapter_is_merged_as_its_formula_says(run, out):
    base, adapter = (
        load_file(run / "warmup" / "model.safetensors"),
        load_file(run / "checkpoint-2" / "adapter_model.safetensors"),
    )
    merged = load_file(out / "model" / "model.safetensors")
    assert set(merged) == set(base)
    changed = set()
    for name, before in base.items():
        a, b = (adapter.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight") for side in "AB")
        expected = before if a is None else before + 6 / 3 * (b @ a)
        torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-6)
        changed |= {name.split(".")[-2]} if not torch.equal(merged[name], before) else set()
    assert changed == {"q_proj", "down_proj"}


def test_a_finished_run_gives_its_own_model_bit_for_bit(copy, tmp_path):
    model = finish(copy)
    exported = export_to_folder(copy, tmp_path / "out", Options())
    assert exported.weights == "the model saved at the run's end"
    assert (tmp_path / "out" / "model" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert "a card of the run" not in (tmp_path / "out" / "model" / "README.md").read_text()


def test_a_requested_dtype_is_written(copy, tmp_path):
    model = finish(copy)
    export_to_folder(copy, tmp_path / "out", Options(dtype="bfloat16"))
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert all(after[name].dtype is torch.bfloat16 and after[name].equal(before[name].bfloat16()) for name in after)
    assert json.loads((tmp_path / "out" / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_checkpoint_of_whole_weights_needs_no_base(copy, tmp_path):
    for number in (1, 2, 3):
        shutil.rmtree(copy / f"checkpoint-{number}")
    model, tokenizer = policy(copy / "unused")
    checkpoint(copy / "checkpoint-5", model, tokenizer)
    shutil.rmtree(copy / "warmup")
    assert export_to_folder(copy, tmp_path / "out", Options()).weights == "checkpoint-5"
    exported = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert all(exported[name].equal(value) for name, value in load_file(copy / "unused" / "model.safetensors").items())


def test_a_broken_checkpoint_is_skipped_and_kept(run, out):
    assert (run / "checkpoint-3").is_dir() and newest_weights(run, 3).step == 2


def test_a_run_resumed_after_its_end_exports_its_newest_checkpoint(copy):
    finish(copy)
    (copy / "checkpoint-3" / "optimizer.pt").write_bytes((copy / "checkpoint-2" / "optimizer.pt").read_bytes())
    assert newest_weights(copy, 3).step is None, "three steps were asked for and taken"
    assert newest_weights(copy, 9).step is None, "saved after the last checkpoint: it ended early, at a cap"
    (copy / "checkpoint-3" / "trainer_state.json").write_text("{} ")
    assert newest_weights(copy, 3).step is None and newest_weights(copy, 9).step == 3


def test_a_missing_base_of_adapters_is_an_error(copy, tmp_path):
    shutil.rmtree(copy / "warmup")
    with pytest.raises(ModelError, match="which is gone. Restore that folder"):
        export_to_folder(copy, tmp_path / "place" / "out", Options())
    assert list((tmp_path / "place").iterdir()) == [], "an export that failed left something"


def test_weights_in_pieces_are_an_error(copy):
    shutil.rmtree(copy / "checkpoint-3")
    (copy / "checkpoint-2" / "adapter_model.safetensors").unlink()
    (copy / "checkpoint-2" / "global_step2").mkdir()
    (copy / "checkpoint-2" / "global_step2" / "rank_0_optim_states.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"in pieces of several processes.*zero_to_fp32"):
        newest_weights(copy, 3)


def test_the_dataset_loads_and_equals_the_journal(run, out, tmp_path):
    from datasets import load_dataset

    rows = load_dataset(str(out / "dataset"), split="train", cache_dir=str(tmp_path))
    with sqlite3.connect(run / "buffer.sqlite") as db:
        names = ("step", "position", "completion", "thought", "idea", "experiment_id", "status", "reward", "metric")
        query = "select step, position, completion, thought, idea, coalesce(experiment_id, ''), status, reward, metric from rollouts order by step, position"
        journal = [dict(zip(names, row, strict=True)) for row in db.execute(query)]
    assert [{name: row[name] for name in names} for row in rows] == journal and len(journal) == 8
    best = rows[1]
    assert best["direction"] == "min" and best["patch"].endswith("+x = 1.0\n") and best["seed"] == 11
    assert best["seconds_cpu"] == 1.5 and best["environment_sha256"] == "e" * 64 and best["parents"] == []
    assert rows[0]["cost_usd"] == 0.5 and rows[2]["error_kind"] == "crash" and rows[7]["patch"] is None


def test_experiments_are_a_table_of_their_own_with_baselines_and_reruns(out, tmp_path):
    from datasets import load_dataset

    rows = load_dataset(str(out / "dataset"), "experiments", split="train", cache_dir=str(tmp_path))
    kinds = [row["kind"] for row in rows]
    assert kinds.count("baseline") == 3 and kinds.count("rerun") == 2 and kinds.count("idea") == 5
    assert sorted(row["metric"] for row in rows if row["kind"] == "rerun") == [3.0, 3.5]


def test_parents_are_in_the_rows_of_the_step_they_led_to(copy, tmp_path):
    from pyarrow import parquet

    with sqlite3.connect(copy / "buffer.sqlite") as db:
        db.execute(LINEAGE)
        db.executemany("insert into lineage values (?,?,?)", [("b", '["a","c"]', 1), ("b", '["a","e"]', 1)])
    export_to_folder(copy, tmp_path / "out", Options())
    rows = parquet.read_table(tmp_path / "out" / "dataset" / "data" / "trajectories.parquet").to_pylist()
    assert [row["parents"] for row in rows if row["experiment_id"] == "b"] == [[], ["a", "c", "e"], ["a", "c", "e"]]


def test_the_metadata_of_both_cards_loads(run, out):
    card = ModelCard.load(out / "model" / "README.md")
    assert (
        card.data.library_name == "transformers" and card.data.license == "apache-2.0" and card.data.base_model is None
    )
    assert card.data.datasets == ["me/ideas"]
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["height of the best idea (mean of re-runs)"] == 3.25 and results["height of the baseline"] == 5.0
    data = DatasetCard.load(out / "dataset" / "README.md")
    assert data.data.license == "apache-2.0"
    assert [config["config_name"] for config in data.data.configs] == ["trajectories", "experiments"]


@pytest.mark.parametrize(
    "replicates, meaning, value",
    [
        ([0], "single run it was chosen for", 1.0),
        ([0, 1], "mean of the runs it was chosen for", 1.5),
        ([0, RERUN_REPLICATE], "mean of re-runs", 2.0),
    ],
)
def test_the_metadata_state_what_the_value_of_the_best_idea_is_a_mean_of(tmp_path, replicates, meaning, value):
    records = [record(f"{i}", value=1.0 + i, tree="t", replicate=number) for i, number in enumerate(replicates)]
    (best, *_) = _eval_results(read_run(journal(tmp_path, [records])))
    assert best.metric_name == f"height of the best idea ({meaning})" and best.metric_value == value


def test_the_model_card_states_the_results_of_the_run(out):
    import hashlib

    text = (out / "model" / "README.md").read_text()
    assert "Propose one experiment for the toy bowl." in text, "the prompt that it was trained with"
    assert "2.0000 when it was chosen; run again 3.2500 ± 0.25" in text and "5.0000 ± 0.29" in text
    assert "| 2 | 4 | 2 | 67% | 2.0000 | 2.0000 | 0.3333 |" in text and "```diff\n--- a/train.py" in text
    assert "5 distinct records (what never became a codebase included) and 4 patched codebases, of 8 proposals" in text
    assert "- 1.25 USD" in text and "- 0.5 GPU-hours" in text and "50 s of wall clock" in text and "seed 7" in text
    weights = hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert weights in text and "e" * 64 in text and "checkpoint-2, its adapter merged" in text
    shown = yaml.safe_load(text.rpartition("```yaml\n")[2].partition("```")[0])
    assert {key: shown[key] for key in RECIPE if key != "env"} == {
        key: value for key, value in RECIPE.items() if key != "env"
    }


def test_an_idea_that_was_not_run_again_is_called_flattered(copy, tmp_path):
    with sqlite3.connect(copy / "buffer.sqlite") as db:
        db.execute("delete from experiments where json_extract(record_json, '$.replicate') >= 100 or id like 'base%'")
    export_to_folder(copy, tmp_path / "out", Options())
    text = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "2.0000 in one run, seed 11, not run again" in text and "No baseline was run." in text


def test_a_run_without_a_single_idea_is_exported_too(copy, tmp_path):
    with sqlite3.connect(copy / "buffer.sqlite") as db:
        db.execute("delete from rollouts")
        db.execute("delete from experiments")
    assert export_to_folder(copy, tmp_path / "out", Options()).rows == {"trajectories": 0, "experiments": 0}
    assert "No idea succeeded." in ModelCard.load(tmp_path / "out" / "model" / "README.md").text


def test_text_of_a_model_cannot_end_its_code_block(copy, tmp_path):
    with sqlite3.connect(copy / "buffer.sqlite") as db:
        text = db.execute("select record_json from experiments where id='b'").fetchone()[0]
        evil = {**json.loads(text), "idea": "````\n# A heading\n![](https://example.org/x.png)\x1b[2J"}
        db.execute("update experiments set record_json=? where id='b'", (json.dumps(evil),))
    export_to_folder(copy, tmp_path / "out", Options())
    text = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "`````\n````\n# A heading" in text and "\x1b" not in text


def test_texts_of_a_model_are_not_interpreted_by_jinja_or_yaml(copy, tmp_path):
    with sqlite3.connect(copy / "buffer.sqlite") as db:
        for id, text in db.execute("select id, record_json from experiments").fetchall():
            record = json.loads(text)
            if record["metric"]:
                record["metric"]["name"] = "height\n---\nlicense: stolen\n{{ 1234 * 1000 }}"
            evil = {
                **record,
                "idea": "{{ 1234 * 1000 }}{% raw %}{{ exported.run }}",
                "hardware": "x\n---\nlicense: stolen\n---\n",
            }
            db.execute("update experiments set record_json=? where id=?", (json.dumps(evil), id))
    export_to_folder(copy, tmp_path / "out", Options(license="mit"))
    for kind, card in (("model", ModelCard), ("dataset", DatasetCard)):
        loaded = card.load(tmp_path / "out" / kind / "README.md")
        assert loaded.data.license == "mit" and "{{ 1234 * 1000 }}" in loaded.text and "1234000" not in loaded.text
    text = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "{{ 1234 * 1000 }}{% raw %}{{ exported.run }}" in text


def test_a_long_patch_is_cut_after_its_secrets_are_removed(copy, tmp_path):
    secret = "hf_" + "A1" * 12
    with sqlite3.connect(copy / "buffer.sqlite") as db:
        text = db.execute("select record_json from experiments where id='b'").fetchone()[0]
        patch = "x" * (MAX_CHARACTERS - 11) + "\n" + secret + "y" * 100
        db.execute(
            "update experiments set record_json=? where id='b'", (json.dumps({**json.loads(text), "patch": patch}),)
        )
    export_to_folder(copy, tmp_path / "out", Options())
    text = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "hf_" not in text and "(hidden)" in text


def test_no_secret_is_exported(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "key-of-the-environment")
    monkeypatch.setenv("CODER_PASS_PHRASE", "named-by-the-recipe")
    coder = {
        "models": "m", "base_url": "https://user:hunter2hunter2@host.example/v1?sig=sigsigsig", "api_key_env": "CODER_PASS_PHRASE",
        "extra_body": {"headers": {"Authorization": "Bearer abcabcabc"}},
    }  # fmt: skip
    rewrite(copy, coder=coder, hub_token="hf_fromtherecipe", bucket="s3://id:othersecret@team/bucket")
    with sqlite3.connect(copy / "buffer.sqlite") as db:
        leak = "key-of-the-environment named-by-the-recipe https://me:urlsecret@x.org hf_" + "A1" * 12
        db.execute("update rollouts set completion=?, idea=?", (leak, leak))
        text = db.execute("select record_json from experiments where id='b'").fetchone()[0]
        db.execute(
            "update experiments set record_json=? where id='b'",
            (json.dumps({**json.loads(text), "patch": leak, "idea": leak}),),
        )
    export_to_folder(copy, tmp_path / "out", Options())
    exported = exported_text(tmp_path / "out")
    for secret in (
        "key-of-the",
        "named-by",
        "urlsecret",
        "hf_A1",
        "hunter2",
        "sigsig",
        "abcabc",
        "fromtherecipe",
        "othersecret",
        "CODER_PASS",
    ):
        assert secret not in exported, secret
    assert "https://host.example/v1" in exported and "s3://team/bucket" in exported and "https://x.org" in exported
    assert str(copy) not in exported and str(tmp_path) not in exported, "a folder of this machine"


def test_charts_are_svg_files_that_need_no_page(out):
    for name in ("reward.svg", "best.svg"):
        text = (out / "model" / name).read_text()
        assert xml.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in text
        assert f"]({name})" in (out / "model" / "README.md").read_text()


def test_transformers_4_finds_its_tokenizer_class_and_rope_numbers(out, tmp_path):
    config = json.loads((out / "model" / "config.json").read_text())
    assert (
        config["architectures"] == ["LlamaForCausalLM"] and config["rope_theta"] == 5e5 and "rope_scaling" not in config
    )
    assert (
        json.loads((out / "model" / "tokenizer_config.json").read_text())["tokenizer_class"]
        == "PreTrainedTokenizerFast"
    )
    shutil.copytree(out / "model", tmp_path / "m")
    config.pop("rope_theta")
    scaled = {"rope_type": "linear", "factor": 2.0}
    (tmp_path / "m" / "config.json").write_text(
        json.dumps({**config, "rope_parameters": {**scaled, "rope_theta": 10.0}})
    )
    make_loadable(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["rope_theta"] == 10.0 and config["rope_scaling"] == scaled


UNSERVABLE = {
    "a file of the index is missing": lambda m: (
        (m / "model.safetensors").unlink(),
        (m / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
    ),
    "no config": lambda m: (m / "config.json").unlink(),
    "not a language model": lambda m: (m / "config.json").write_text('{"model_type": "vit"}'),
    "more tokens than rows": lambda m: (m / "config.json").write_text((m / "config.json").read_text().replace('"vocab_size": ', '"vocab_size": 3, "unused": ')),
}  # fmt: skip


@pytest.mark.parametrize("damage", UNSERVABLE.values(), ids=UNSERVABLE)
def test_a_damaged_model_is_not_exported(out, tmp_path, damage):
    shutil.copytree(out / "model", tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(ModelError, match="cannot be served"):
        make_loadable(tmp_path / "m")


def test_an_output_folder_with_files_is_refused_and_kept(call, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    code, _, err = call("export", run, "--out", tmp_path / "out")
    assert "not an empty folder" in sentence(code, err) and (tmp_path / "out" / "mine").read_text() == "x"


def test_the_command_prints_one_object_for_a_program(call, run, tmp_path):
    (tmp_path / "out").mkdir()
    code, out, _ = call("export", run, "--out", tmp_path / "out", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["rows"] == {"trajectories": 8, "experiments": 10}
    assert facts["weights"].startswith("checkpoint-2") and list(facts["sha256"]) == ["model.safetensors"]
    assert Path(facts["model"], "config.json").is_file() and Path(facts["dataset"], "README.md").is_file()


def test_a_folder_without_a_training_run_is_refused(call, copy, tmp_path):
    assert "holds no run" in sentence(*call("export", tmp_path, "--out", tmp_path / "out")[::2])
    (copy / "recipe.yaml").unlink()
    assert "no model to export" in sentence(*call("export", copy, "--out", tmp_path / "out")[::2])
    assert "--private is about" in sentence(*call("export", copy, "--out", tmp_path / "out", "--private")[::2])


def test_a_run_before_its_first_checkpoint_is_refused(copy):
    for path in copy.glob("checkpoint-*"):
        shutil.rmtree(path)
    with pytest.raises(IdeatorError, match="neither a trained model nor a whole checkpoint"):
        newest_weights(copy, 3)


@pytest.mark.parametrize("name, base", [
    ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"), ("gpt2", "gpt2"), ("/data/models/mine", None), ("./mine", None),
    ("package:some/x.gguf", None), ("tests", None), ("runs/first/model", None),
])  # fmt: skip
def test_a_base_model_is_named_in_the_metadata_only_if_it_is_on_the_hub(copy, name, base):
    from ideator_rl.publishing.cards import model_card

    rewrite(copy, scratch_model=None, model_name_or_path=name)
    text = model_card(recipe_of(read_run(copy)))
    assert ModelCard(text).data.base_model == base and "/data/models" not in text
