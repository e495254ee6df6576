import subprocess
import sys

import old_runs
import pytest
import yaml

from ideator_rl.config.recipe_file import read_recipe
from ideator_rl.errors import IdeatorError
from ideator_rl.search.config import SearchConfig
from ideator_rl.storage.bucket import absolute_url
from ideator_rl.training.recipe.recipe import RecipeError, load_recipe, refuse_other

GOOD = {
    "env": "nanogpt",
    "output_dir": "runs/x",
    "model_name_or_path": "some/model",
    "per_device_train_batch_size": 8,
    "num_generations": 4,
}


@pytest.fixture
def write_recipe(tmp_path):
    def write(**changes):
        path = tmp_path / "r.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in {**GOOD, **changes}.items() if value is not None}))
        return str(path)

    return write


def refusal(path, *argv):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, list(argv))
    message = str(caught.value)
    assert path in message or argv, "a refusal names the recipe"
    return message


def test_keys_of_trl_and_of_this_library_are_separated(write_recipe):
    recipe = load_recipe(write_recipe(learning_rate=1, use_peft=True, lora_r=4, slots=3, beta=0.0))
    assert recipe.ours.slots == 3 and recipe.model == {"use_peft": True, "lora_r": 4}
    assert recipe.grpo["learning_rate"] == 1.0 and isinstance(recipe.grpo["learning_rate"], float)
    assert recipe.bucket.startswith("file:///") and recipe.bucket.endswith("/runs/x/bucket")


def test_a_bucket_and_a_recording_are_stored_by_their_absolute_paths(write_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("s3://lab/runs", "memory://x", "~/runs", "/runs/b"):
        assert absolute_url(url) == url
    coder = {"record": "calls.jsonl"}
    saved = yaml.safe_load(load_recipe(write_recipe(bucket="shared", implementer="llm", coder=coder)).text())
    assert saved["bucket"] == str(tmp_path / "shared") and saved["coder"] == {"record": str(tmp_path / "calls.jsonl")}
    monkeypatch.chdir("/")
    assert load_recipe(write_recipe(**saved)).bucket == str(tmp_path / "shared")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("learning_rat", "learning_rate"), ("sft_step", "sft_steps"), ("lora_alfa", "lora_alpha"), ("envs", "env")],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(write_recipe, key, nearest):
    assert f"Did you mean '{nearest}'?" in refusal(write_recipe(**{key: 1}))


def test_a_key_similar_to_none_is_refused_without_a_guess(write_recipe):
    assert "unknown key 'zzz'" in refusal(write_recipe(zzz=1))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("max_steps", 3.5, "a whole number other than 0, at most 10^9"),
        ("bf16", "maybe", "true or false or null"),
        ("slots", "two", "a whole number of at least 1 or null"),
        ("reward_funcs", 3, "a list"),
        ("scratch_model", 3, "a mapping or null"),
        ("learning_rate", "fast", "a number of at least 0"),
        ("env", [7], "text"),
        ("use_peft", 1, "true or false"),
    ],
)
def test_a_wrong_type_is_refused_with_the_value_and_the_expected_type(write_recipe, key, value, expected):
    message = refusal(write_recipe(**{key: value}))
    assert f"{key}: {value!r}" in message and f"Expected {expected}." in message


@pytest.mark.parametrize(
    ("keys", "expected_text"),
    [
        ({"per_device_train_batch_size": 0}, "at least 1"),
        ({"gradient_accumulation_steps": 0}, "at least 1"),
        ({"num_iterations": 0}, "at least 1"),
        ({"max_steps": 0}, "other than 0"),
        ({"learning_rate": -1.0}, "at least 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"deadline": float("nan")}, "a finite number"),
        ({"imitation_weight": float("inf")}, "a finite number"),
        ({"max_usd": -1.0}, "at least 0"),
        ({"loss_type": "nope"}, "dr_grpo"),
        ({"reward_funcs": [3]}, "reward_funcs[0]: 3. Expected text"),
        (
            {"advantage": "max_at_k", "advantage_options": {"k:2": None}},
            "advantage_options.k:2: None. Expected a value",
        ),
        ({"advantage": ""}, "Expected the name of an advantage or null"),
        ({"save_only_model": True}, "nothing to resume from"),
        ({"push_to_hub": True}, "ideator-rl export"),
        ({"eval_strategy": "steps"}, "eval_strategy"),
        ({"fp16": True, "screen": {"over": 2, "learn": "none"}}, "Use bf16: true"),
        ({"fp16": True, "screen": {"over": 2, "learn": "predicted"}}, "Use bf16: true"),
    ],
)
def test_numbers_and_names_out_of_range_are_refused_at_once(write_recipe, keys, expected_text):
    assert expected_text in refusal(write_recipe(**keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"collapse_action": "raise_temperature"},
        {"collapse_action": "switch_advantage"},
        {"collapse_factor": 1.3},
        {"collapse_advantage_options": {"k": 8}},
    ],
)
def test_a_removed_key_is_refused_with_what_to_write_instead(write_recipe, keys):
    message = refusal(write_recipe(**keys))
    assert next(iter(keys)) in message and "write `collapse_action: warn` or `collapse_action: stop`" in message


def test_a_recipe_saved_by_0_1_0_is_read_with_the_defaults_of_keys_that_are_gone(tmp_path):
    folder = old_runs.unpack(tmp_path, "train") / "train"
    saved = (folder / "recipe.yaml").read_text()
    assert "collapse_factor: 1.2" in saved and "collapse_advantage: max_at_k" in saved
    recipe = load_recipe(str(folder / "recipe.yaml"), ["--output_dir", str(folder)])
    refuse_other(recipe)  # it may be resumed
    assert "collapse_factor" not in recipe.text()


@pytest.mark.parametrize(("accumulated", "uses", "batches"), [(4, 6, 2), (4, 2, 2), (2, 4, 1), (1, 1, 1), (6, 4, 3)])
def test_an_epoch_holds_whole_optimizer_steps(write_recipe, accumulated, uses, batches):
    keys = {"gradient_accumulation_steps": accumulated, "steps_per_generation": uses, "save_steps": 60}
    recipe = load_recipe(write_recipe(per_device_train_batch_size=8, num_generations=4, **keys))
    assert recipe.groups_per_epoch == batches * 2 * uses


@pytest.mark.parametrize(
    ("accumulated", "uses", "iterations", "length", "rollouts"),
    [
        (4, 1, 1, {"max_steps": 100}, 400),
        (4, 6, 1, {"max_steps": 4}, 3),  # 16 micro-steps: the last batch is used in part
        (2, 4, 2, {"max_steps": 10}, 3),
        (4, 1, 1, {}, 12),  # an epoch is an optimizer step of 4 batches
        (4, 6, 1, {"num_train_epochs": 1.5}, 4),  # an epoch is 3 optimizer steps: 5 steps have 20 micro-steps
    ],
)
def test_the_batches_of_a_run_are_counted_in_micro_steps(write_recipe, accumulated, uses, iterations, length, rollouts):
    keys = {"gradient_accumulation_steps": accumulated, "steps_per_generation": uses, "num_iterations": iterations}
    recipe = load_recipe(write_recipe(**keys, **length, save_steps=60, screen={"over": 2}))
    assert recipe.rollouts == rollouts
    assert recipe.screened_budget == (rollouts * recipe.generation_batch // 2 if "max_steps" in length else None)


def test_a_single_name_needs_no_list(write_recipe):
    recipe = load_recipe(write_recipe(reward_funcs="improvement"), ["--lora_target_modules", "all-linear"])
    assert recipe.ours.reward_funcs == ["improvement"] and recipe.model["lora_target_modules"] == ["all-linear"]


@pytest.mark.parametrize(
    ("keys", "expected_text"),
    [
        ({"reward_funcs": ["exekution"]}, "Did you mean 'execution'"),
        ({"prompt_strategy": "top_j"}, "top_j"),
        ({"advantage": "grop"}, "grpo"),
        ({"advantage": "max_at_k", "advantage_options": {"k": 64}}, "64"),
        ({"advantage_options": {"k": 4}}, "no advantage"),
        ({"cluster_weight": "isp"}, "ips"),
        ({"diversity_embedder": "nonsense"}, "no embedder 'nonsense'"),
        ({"report_to": "tensorbord"}, "tensorboard"),
        ({"reward_funcs": ["execution", "rewards.improvement.improvement_reward"]}, "more than one runs every idea"),
        ({"reward_funcs": ["execution", "lenght"]}, "Did you mean 'length'"),
        ({"reward_funcs": ["length", "simplicity"]}, "simplicity, which reads the results of experiments"),
        ({"reward_funcs": ["execution", "length"], "reward_options": {"lenght_cap": 9}}, "Did you mean 'length_cap'"),
        ({"reward_funcs": ["execution", "length"], "reward_options": {"length_cap": "9"}}, "a number of at least 1"),
        ({"reward_funcs": ["execution", "length"], "reward_weights": [1.0]}, "1 numbers for 2 reward_funcs"),
        ({"reward_options": {"length_cap": 9}}, "which none of execution takes. Known: none"),
        ({"reward_funcs": ["test_rewarding.bonus"], "reward_options": {"preset": "paper"}}, "has another meaning"),
        ({"reward_funcs": ["improvement"], "reward_options": {"improvement_k": 0}}, "at least 1"),
        ({"use_vllm": True}, "vllm is not installed"),
    ],
)
def test_names_in_a_recipe_are_looked_up_before_the_run_starts(write_recipe, capsys, tmp_path, keys, expected_text):
    from ideator_rl.train import main

    assert main(["--config", write_recipe(output_dir=str(tmp_path / "run"), **keys)]) == 2
    err = capsys.readouterr().err
    assert expected_text in err and "Traceback" not in err and not (tmp_path / "run").exists()


def test_an_option_of_a_function_without_declared_options_is_passed_on(write_recipe):
    from ideator_rl.training.recipe.check_names import check_names

    check_names(
        load_recipe(write_recipe(reward_funcs=["length", "test_rewarding.bonus"], reward_options={"own": [1, 2]}))
    )
    with pytest.raises(IdeatorError, match="own"):  # it would be nobody's
        check_names(load_recipe(write_recipe(reward_funcs=["length"], reward_options={"own": [1, 2]})))


def test_yaml_spellings_of_numbers_are_numbers(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(GOOD) + "learning_rate: 1e-3\n")
    assert load_recipe(str(path)).grpo["learning_rate"] == 0.001


def test_the_command_line_overrides(write_recipe):
    argv = ["--learning_rate", "2e-5", "--max-steps=3", "--reward_funcs", "[execution, format]", "--use_peft"]
    recipe = load_recipe(write_recipe(), argv)
    assert recipe.grpo["learning_rate"] == 2e-5 and recipe.grpo["max_steps"] == 3
    assert recipe.ours.reward_funcs == ["execution", "format"] and recipe.model["use_peft"] is True


def test_the_command_line_overrides_one_value_of_a_mapping(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("coder: &c {base_url: http://a/v1, models: m}\nideator_options: *c\nenv: nanogpt\n")
    argv = ["--coder.base_url", "http://b/v1", "--coder.extra.X-Name=7", "--strategy-options.free", "0.5"]
    assert read_recipe(str(recipe), SearchConfig, argv) == {
        "coder": {"base_url": "http://b/v1", "models": "m", "extra": {"X-Name": 7}},
        "ideator_options": {"base_url": "http://a/v1", "models": "m"},
        "env": "nanogpt",
        "strategy_options": {"free": 0.5},
    }
    again = ["--coder.models", "x", "--coder", "{models: y}", "--coder.models", "z"]
    assert read_recipe(str(recipe), SearchConfig, again)["coder"] == {"models": "z"}, "the last one counts"
    with pytest.raises(RecipeError, match="--env.x: expected env to be a mapping, got 'nanogpt'"):
        read_recipe(str(recipe), SearchConfig, ["--env.x", "1"])


def test_an_argument_that_is_no_override_is_refused(write_recipe):
    assert "Did not expect 'x'" in refusal(write_recipe(), "x")
    assert "not readable YAML" in refusal(write_recipe(), "--env", "[")


@pytest.mark.parametrize(
    ("changes", "argv"),
    [
        ({"env": None}, "has no 'env'"),
        ({"output_dir": None}, "has no 'output_dir'"),
        ({"model_name_or_path": None}, "must name one ideator"),
        ({"scratch_model": {"hidden_size": 8}, "sft_steps": 1}, "must name one ideator"),
        ({"model_name_or_path": None, "scratch_model": {"hidden_size": 8}}, "Add sft_steps"),
        (
            {"model_name_or_path": None, "scratch_model": {"hidden_size": "x"}, "sft_steps": 1},
            "scratch_model.hidden_size: 'x'. Expected a whole number",
        ),
        ({"reward_funcs": []}, "has no reward_funcs"),
        ({"sft_steps": 1, "model_revision": "v2"}, "Download that revision"),
        ({"advantage": "grpo", "scale_rewards": "none"}, "scale_rewards: none and advantage: grpo"),
        ({"advantage": "max_at_k", "scale_rewards": "group"}, "or set advantage: null"),
        ({"advantage": None, "scale_rewards": "batch"}, "scale_rewards: batch. Expected group or none"),
        ({"advantage": "loo", "multi_objective_aggregation": "normalize_then_sum"}, "Expected sum_then_normalize"),
        ({"slots": 0}, "of at least 1"),
        ({"num_generations": 3}, "does not divide"),
        ({"num_generations": 1}, "at least 2 completions"),
        ({"steps_per_generation": 4, "save_steps": 2}, "multiple of 4"),
    ],
)
def test_keys_that_contradict_each_other_are_refused_before_a_model_loads(write_recipe, changes, argv):
    assert argv in refusal(write_recipe(**changes))


@pytest.mark.parametrize(("scale", "advantage"), [("group", "grpo"), ("none", "dr_grpo"), ("none", None)])
def test_a_scale_that_the_advantage_computes_is_accepted(write_recipe, scale, advantage):
    assert load_recipe(write_recipe(scale_rewards=scale, advantage=advantage)).grpo["scale_rewards"] == scale


def test_checkpoints_between_optimizer_steps_of_one_rollout_count_accumulation(write_recipe):
    shape = {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "num_iterations": 2}
    assert load_recipe(write_recipe(**shape, save_steps=4)).steps_per_rollout == 4
    assert "multiple of 4" in refusal(write_recipe(**shape, save_steps=2))


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("env: a\nenv: b\n", "the key 'env' twice"),
        ("- a\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("env: [\n", "not readable YAML"),
        (b"\xff\xfe\x00", "is not UTF-8 text (UTF-16)"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_one_sentence(tmp_path, text, argv):
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(str(path), "--max_steps", "1")
    assert argv in message and "\n" not in message


def test_a_missing_file_is_refused_with_the_shipped_names():
    message = refusal("nowhere.yaml")
    assert "There is no recipe 'nowhere.yaml'" in message and "quickstart" in message
    assert "Did you mean 'quickstart'?" in refusal("quikstart")


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml"])
def test_a_shipped_recipe_loads_by_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # an own folder of this name is no recipe
    assert load_recipe(name).ours.env == "nanogpt"


def test_a_misspelled_folder_does_not_load_the_shipped_recipe_of_the_same_name():
    assert "There is no recipe 'mine/quickstart.yaml'" in refusal("mine/quickstart.yaml")


@pytest.mark.parametrize(
    "word",
    [
        "--preset=slow",
        "--seed=9",
        "--num_generations=8",
        "--use_peft=true",
        "--reward_transform=identity",
        "--generation_batch_size=16",
    ],
)
def test_a_resumed_run_cannot_change_keys_that_its_records_depend_on(write_recipe, tmp_path, word):
    recipe = load_recipe(write_recipe(output_dir=str(tmp_path), per_device_train_batch_size=8))
    refuse_other(recipe)
    recipe.save(tmp_path / "recipe.yaml")
    refuse_other(load_recipe(str(tmp_path / "recipe.yaml"), ["--max_steps", "9", "--learning_rate", "1e-3"]))
    key, _, value = word.removeprefix("--").partition("=")
    with pytest.raises(RecipeError, match=f"was started with {key}: "):
        refuse_other(load_recipe(str(tmp_path / "recipe.yaml"), [f"--{key}", value]))


def test_the_saved_recipe_can_be_run_as_it_is(write_recipe, tmp_path):
    recipe = load_recipe(write_recipe(learning_rate=1e-5, lora_r=4), ["--seed", "5"])
    recipe.save(tmp_path / "saved.yaml")
    reloaded = load_recipe(str(tmp_path / "saved.yaml"))
    assert (reloaded.ours, reloaded.grpo, reloaded.model) == (recipe.ours, recipe.grpo, recipe.model)


def test_a_wrong_recipe_ends_with_status_2_before_trl_is_imported(write_recipe):
    code = (
        "import sys; from ideator_rl.train import main; "
        f"status = main(['--config', {write_recipe(lerning_rate=1)!r}]); "
        "assert 'trl' not in sys.modules and 'torch' not in sys.modules; sys.exit(status)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
    assert "Did you mean 'learning_rate'?" in process.stderr


def test_a_command_line_without_a_recipe_is_refused(capsys):
    from ideator_rl.train import main

    assert main(["--max_steps", "3"]) == 2
    assert "No recipe was given" in capsys.readouterr().err
