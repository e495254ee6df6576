"""Warm-ups: where their rows come from, and what is left of a real one on the toy environment."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ideator_rl.experiment import Experiment
from ideator_rl.sft import main
from ideator_rl.storage.idea_context import Base, IdeaContext
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import read_run
from ideator_rl.training.sft.data import (
    RowSource,
    WarmupDataError,
    cut_after_idea,
    rows_for_model,
    rows_from_file,
    rows_from_run,
)

HERE = Path(__file__).parent
TOY = ["--config", str(HERE / "toy_recipe.yaml"), "--env", str(HERE / "toy_env"), "--sft_examples", "40"]
IDEA = "[Experiment] raise x [Code Changes] set x to {} [End]"


@pytest.fixture
def write_rows(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
        return path

    return write


def test_a_trajectory_file_gives_its_rows_and_reports_the_rows_that_it_skips(write_rows):
    messages = [{"role": "user", "content": "go"}]
    source = rows_from_file(
        write_rows(
            {"completion": "so " + IDEA.format(1), "prompt": messages, "status": "succeeded"},
            "",
            {"idea": IDEA.format(2), "thought": "because"},
            {"idea": IDEA.format(3), "thought": "", "prompt": "own"},
            {"completion": "no idea at all", "status": "malformed"},
        ),
        "the environment's",
    )
    assert source.rows == [
        (messages, "so " + IDEA.format(1)),
        ("the environment's", "because " + IDEA.format(2)),
        ("own", IDEA.format(3)),
    ]
    assert source.notes == [
        "1 rows that did not succeed were left out",
        "1 rows without a prompt get the environment's",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "a list. Expected an object"),
        ({"prompt": "p"}, "expected text under `completion`"),
        ({"thought": "t"}, "expected text under `completion`"),
        ({"completion": 3}, "expected text under `completion`"),
        ({"completion": "[Experiment] x [End]"}, "holds no idea: no [Code Changes]"),
        ({"completion": IDEA, "prompt": []}, "expected a prompt of text, or a list of messages"),
        ({"completion": IDEA, "prompt": [{"role": "user"}]}, "expected a prompt of text, or a list of messages"),
    ],
)
def test_a_bad_line_is_reported_with_its_number(write_rows, line, message):
    with pytest.raises(WarmupDataError) as caught:
        rows_from_file(write_rows({"completion": IDEA}, "", line), "p")
    assert "line 3: " in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_with_nothing_to_learn_from_is_refused(write_rows, tmp_path):
    with pytest.raises(WarmupDataError, match="no row to learn from"):
        rows_from_file(write_rows({"status": "failed", "completion": ""}), "p")
    with pytest.raises(WarmupDataError, match="cannot be read: No such file"):
        rows_from_file(tmp_path / "none.jsonl", "p")


def test_a_completion_is_kept_up_to_the_end_of_its_idea():
    assert cut_after_idea("I think\n" + IDEA.format(1) + " and so on [End]") == "I think\n" + IDEA.format(1)
    hunk = "[Experiment] x [Code Changes]\n@@ -1 +1 @@\n-[End]\n+b\n[End]"
    assert cut_after_idea(hunk + "\nmore") == hunk
    drafted = f"As in {IDEA.format(1)}, so\n</think>\n{IDEA.format(1)}"
    assert cut_after_idea(drafted + " and on") == drafted


@pytest.fixture
def run(tmp_path):
    """A run of three steps of two ideas: three trees, one of them proposed twice, one that failed; a baseline at 5."""
    folder = tmp_path / "run"
    journal = Journal(folder / "buffer.sqlite")
    outcomes = [("a", 3.0), ("b", 7.0), ("a", 3.5), ("c", 1.0), (None, None), ("d", None)]
    for row, (tree, value) in enumerate(outcomes):
        step, position = divmod(row, 2)
        journal.propose(step, [f"thought {row} " + IDEA.format(row)])
        record = Experiment(
            f"id{row}",
            "succeeded" if value else "failed",
            IDEA.format(row),
            "toy",
            "cpu",
            replicate=row,
            metric={"name": "height", "value": value, "direction": "min"} if value else None,
            tree=tree or "",
            implementer="rules",
        )
        journal.settle(step, position, record)
    baseline = Experiment("base", "succeeded", "", "toy", "cpu", implementer="baseline", tree="base")
    baseline.metric = {"name": "height", "value": 5.0, "direction": "min"}
    journal.record(baseline)
    journal.close()
    return folder


def test_the_best_ideas_of_a_run_are_distinct_by_tree_and_keep_their_thoughts(run):
    source = rows_from_run(run, "toy", "p", best=9, above_baseline=False)
    assert source.rows == [("p", f"thought {row} " + IDEA.format(row)) for row in (3, 0, 1)]
    assert source.notes == ["3 of 3 prompts were deleted from disk; the environment's replaces them"]
    assert [text[:9] for _, text in rows_from_run(run, "toy", "p", 2, False).rows] == ["thought 3", "thought 0"]


def test_above_baseline_selects_ideas_that_beat_the_baseline(run):
    assert len(rows_from_run(run, "toy", "p", 9, above_baseline=True).rows) == 2


def test_an_idea_of_a_run_is_paired_with_its_own_prompt(run):
    folder = run / "rollouts" / "000001"
    folder.mkdir(parents=True)
    groups = [{"prompt": "first group"}, {"prompt": "second group"}]
    (folder / "batch.json").write_text(json.dumps({"groups": groups, "completions": ["", ""]}))
    rows = dict((text[:9], prompt) for prompt, text in rows_from_run(run, "toy", "p", 9, False).rows)
    assert rows == {"thought 3": "second group", "thought 0": "p", "thought 1": "p"}
    # With a screen, the first row that was run may be any row of the batch.
    run_texts = [row.completion for row in read_run(run).rollouts if row.step == 1]
    texts = ["not run"] * 3 + run_texts
    groups = [{"prompt": str(row)} for row in range(len(texts))]
    (folder / "batch.json").write_text(json.dumps({"groups": groups, "completions": texts}))
    rows = dict((text[:9], prompt) for prompt, text in rows_from_run(run, "toy", "p", 9, False).rows)
    assert rows["thought 3"] == str(next(row for row, text in enumerate(texts) if "thought 3" in text))


def test_an_idea_about_inherited_code_is_paired_with_the_prompt_that_showed_it(run):
    """Its edits fit no other code; the journal keeps the prompt when the batch is gone."""
    before = read_run(run)
    journal = Journal(run / "buffer.sqlite")
    for step, base in ((0, Base(problem="the parent is gone")), (1, Base("b", "patch", ("id1",)))):
        rows = [row for row in before.rollouts if row.step == step]
        contexts = {index: IdeaContext(f"prompt {step} {index}", base) for index in range(2)}
        journal.propose(step, [row.completion for row in rows], contexts=contexts)
        for row in rows:
            journal.settle(step, row.position, before.experiments[row.experiment_id])
    journal.close()
    source = rows_from_run(run, "toy", "p", 9, False)
    assert dict((text[:9], prompt) for prompt, text in source.rows) == {
        "thought 3": "prompt 1 1",
        "thought 0": "p",
        "thought 1": "p",
    }
    assert source.notes == ["2 of 3 prompts were deleted from disk; the environment's replaces them"]


def test_a_run_without_a_usable_idea_is_refused(run, tmp_path):
    with pytest.raises(WarmupDataError, match="tried its ideas in toy, and this recipe is about other"):
        rows_from_run(run, "other", "p", 9, False)
    journal = Journal(tmp_path / "empty" / "buffer.sqlite")
    journal.close()
    with pytest.raises(WarmupDataError, match="No idea of the run .* succeeded"):
        rows_from_run(tmp_path / "empty", "toy", "p", 9, False)


def test_rows_are_shaped_for_the_model_or_refused_with_their_number():
    messages = [{"role": "user", "content": "go"}]
    both = RowSource([("go", "a"), (messages, "b")], "")
    assert rows_for_model(both, True, lambda row: 1, None) == [(messages, "a"), (messages, "b")]
    with pytest.raises(WarmupDataError, match="Row 2 has messages"):
        rows_for_model(both, False, lambda row: 1, None)
    with pytest.raises(WarmupDataError, match="Row 2 has 9 tokens, and the model holds 8"):
        rows_for_model(RowSource([("p", "a"), ("p", "b")], ""), False, lambda row: 8 + (row[1] == "b"), 8)


def test_the_rows_of_the_catalogue_are_answers_to_the_prompts_that_the_recipe_will_ask_with(capsys, tmp_path):
    words = [*TOY, "--prompt_strategy", "top_k", "--free_prompts", "0.25", "--sft_steps", "1"]
    small = (
        "vocab_size: 320, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 512"
    )
    assert main([*words, "--scratch_model", f"{{{small}}}", "--out", str(tmp_path / "warm")]) == 0
    assert "30 of them answer prompts that show past ideas" in capsys.readouterr().err
    tokenizer = json.loads((tmp_path / "warm/tokenizer.json").read_text())
    assert any("better" in token for token in tokenizer["model"]["vocab"]), "it has read such prompts"


def test_model_sizes_that_contradict_each_other_are_refused_with_one_sentence(tmp_path, capsys):
    odd = "{vocab_size: 300, hidden_size: 15, num_hidden_layers: 1, num_attention_heads: 2}"
    assert main([*TOY, "--scratch_model", odd, "--out", str(tmp_path / "warm")]) == 2
    assert re.search(r"sft: scratch_model .* hidden size \(15\)", capsys.readouterr().err)
    assert not (tmp_path / "warm").exists()


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft") / "warm"
    assert main([*TOY, "--out", str(folder), "--sft_steps", "4"]) == 0
    return folder


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_warm_up_writes_a_loadable_model_and_its_card_only(warm):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(warm), AutoTokenizer.from_pretrained(warm)
    assert model.config.vocab_size == len(tokenizer) and model.config.use_cache
    card = (warm / "README.md").read_text()
    assert "40 ideas sampled" in card and "after 4 steps" in card and str(warm.parent) not in card
    assert [path.name for path in warm.parent.iterdir()] == ["warm"] and not (warm / "training_args.bin").exists()


def test_equal_seeds_give_equal_weights_and_others_do_not(warm, tmp_path, capsys):
    for name, seed in (("again", "3"), ("other", "4")):
        assert main([*TOY, "--out", str(tmp_path / name), "--sft_steps", "4", "--seed", seed]) == 0
    first, again, other = weights(warm), weights(tmp_path / "again"), weights(tmp_path / "other")
    assert all(first[key].equal(again[key]) for key in first)
    assert not all(first[key].equal(other[key]) for key in first if first[key].shape == other[key].shape)
    text = capsys.readouterr().out
    assert f"--scratch_model null --sft_steps 0 --model_name_or_path {tmp_path}/other" in text


def test_a_warm_model_is_warmed_up_further_by_merged_adapters_on_the_rows_of_a_file(warm, tmp_path, write_rows):
    rows = write_rows(*({"completion": f"hm {IDEA.format(n)}"} for n in range(8)))
    given = ["--scratch_model", "null", "--model_name_or_path", str(warm), "--lora_r", "2"]
    words = ["--data", str(rows), "--adapters", "--sft_steps", "2", "--out", str(tmp_path / "further")]
    assert main([*TOY, *given, *words]) == 0
    before, after = weights(warm), weights(tmp_path / "further")
    assert before.keys() == after.keys()
    changed = {key for key in before if not before[key].equal(after[key])}
    assert changed and all("self_attn" in key or "mlp" in key for key in changed)
    assert "adapters, merged in" in (tmp_path / "further" / "README.md").read_text()


def test_an_interrupted_warm_up_leaves_no_file(warm, tmp_path):
    from ideator_rl.training.sft.warmup import FitSettings, fine_tune

    def cut(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(str(warm), tmp_path / "cut", [("p", IDEA)] * 4, FitSettings(2, 1e-3, 2, 0), cut)
    assert not list(tmp_path.iterdir())


def test_weights_that_were_not_gathered_are_an_error(warm, tmp_path, monkeypatch):
    from trl import SFTTrainer

    from ideator_rl.errors import IdeatorError
    from ideator_rl.training.sft.warmup import FitSettings, fine_tune

    monkeypatch.setattr(SFTTrainer, "save_model", lambda *_: None)  # what ZeRO-3 does where it may not gather
    with pytest.raises(IdeatorError, match="zero3_save_16bit_model: true"):
        fine_tune(str(warm), tmp_path / "m", [("p", IDEA)] * 4, FitSettings(1, 1e-3, 2, 0), lambda *_: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--sft_steps", "0", "--scratch_model", "null", "--model_name_or_path", "x"], "--sft_steps 100"),
        (["--data", "x", "--from-run", "y"], "Both --data and --from-run"),
        (["--out", "/tmp"], "/tmp exists already"),
        (["--best", "0"], "argument --best: expected a whole number from 1 up, got '0'"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--sft_step", "3"], "Did you mean 'sft_steps'?"),
    ],
)
def test_unusable_options_are_refused_with_one_sentence(words, text, capsys):
    assert main([*TOY, *words]) == 2
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1


def test_one_process_is_this_one_and_several_are_launched_by_accelerate(monkeypatch, call, tmp_path):
    launched, ran = [], []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", launched.append)
    monkeypatch.setattr("ideator_rl.sft.run", lambda argv: ran.append(argv) or 0)
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # without an accelerate config of the user's
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    recipe, out = str(HERE / "toy_recipe.yaml"), str(tmp_path / "m")
    words = ["sft", recipe, "--env", str(HERE / "toy_env"), "--from-run", "r", "--out", out, "--seed", "5"]
    expected = ["--config", recipe, "--from-run", "r", "--out", out, "--env", str(HERE / "toy_env"), "--seed", "5"]
    assert call(*words, "--num-processes", "1")[0] == 0 and ran == [expected] and not launched
    config = str(HERE.parent / "recipes" / "accelerate" / "cpu2.yaml")
    assert call(*words, "--accelerate-config", config, "--num-processes", "2")[0] == 0
    (args,) = launched
    assert (args.quiet, args.module, args.config_file, args.num_processes) == (True, True, config, 2)
    assert [args.training_script, *args.training_script_args] == ["ideator_rl.sft", *expected]
    assert os.environ["PYTHONSAFEPATH"] == "1"
    assert call("sft", recipe, "--sft_steps", "0")[0] == 2


@pytest.mark.slow
def test_two_processes_make_one_model(tmp_path):
    config = HERE.parent / "recipes" / "accelerate" / "cpu2.yaml"
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "-m", "ideator_rl.sft"]
    done = subprocess.run(
        [*line, *TOY, "--out", str(tmp_path / "m"), "--sft_steps", "2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The model is in") == 1 and done.stderr.count("learning from") == 1
    assert weights(tmp_path / "m")


@pytest.mark.parametrize("module", ["train", "sft"])
def test_a_launched_module_lists_its_options(module):
    argv = [sys.executable, "-m", f"ideator_rl.{module}", "--help"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stdout.startswith(f"usage: ideator_rl.{module} ")
