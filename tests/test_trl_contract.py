"""What this library assumes of TRL and transformers beyond their public interface, and what would break without it."""

import dataclasses
import inspect

import pytest
import transformers
import trl
from pydantic import TypeAdapter
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer, ModelConfig, SFTTrainer

from ideator_rl.training.build import RecipeTrainer
from ideator_rl.training.recipe.keys import trl_keys


def parameters(function):
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(("group", "config"), [("grpo", GRPOConfig), ("model", ModelConfig)])
def test_keys_read_from_the_source_are_those_of_the_dataclass(group, config):
    real = {field.name for field in dataclasses.fields(config) if field.init}
    assert set(trl_keys(group)) == real, "recipe_keys.py reads TRL's source wrongly: good recipes would be refused"


@pytest.mark.parametrize(("group", "config"), [("grpo", GRPOConfig), ("model", ModelConfig)])
def test_every_default_of_trl_has_the_type_that_a_recipe_may_give(group, config):
    for field in dataclasses.fields(config):
        if field.init and isinstance(field.default, str | int | float | bool | None):
            plain = field.default.value if hasattr(field.default, "value") else field.default
            TypeAdapter(trl_keys(group)[field.name]).validate_python(plain)  # a recipe may write TRL's own default


def test_the_wrapped_methods_have_the_same_arguments_and_callers():
    assert parameters(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"], "nothing would be pipelined"
    wanted = ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert parameters(GRPOTrainer._calculate_rewards) == wanted, "completions could not be caught before their rewards"
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "self._calculate_rewards(" in source, "rewards are computed elsewhere: experiments would run inside sampling"
    assert "gather(" in inspect.getsource(GRPOTrainer._calculate_rewards), "rewards are not gathered: wrong shape"
    assert "self._prepare_inputs(" in inspect.getsource(Trainer.training_step), "generation is outside the step"


def test_batches_are_counted_by_the_steps_of_micro_batches():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    for code in ("self._step % generate_every == 0", "self.args.steps_per_generation * self.num_iterations"):
        assert code in source, "a batch's index would be counted wrongly"
    assert "self._step += 1" in inspect.getsource(GRPOTrainer.training_step), "a batch's index would not change"
    assert "self._step = 0" in inspect.getsource(GRPOTrainer.__init__), "a resumed run would count twice"


def test_log_probs_of_sampling_time_are_computed_where_steps_do_not_align():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    condition = "self.args.gradient_accumulation_steps % generate_every != 0"
    assert condition in source and "self.args.steps_per_generation * self.num_iterations" in source, (
        "stale samples would be trained with ratio 1"
    )
    assert 'output["old_per_token_logps"]' in source, "stale samples would be trained with ratio 1"
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert 'inputs.get("old_per_token_logps")' in loss, "stale samples would be trained with ratio 1"
    assert 'inputs["tool_mask"]' in loss and '"tool_mask" not in inputs' in loss, "missing rows would not be masked"
    assert "per_token_logps, entropies" in loss, "log-probs are not the first that is returned: ratios would be wrong"
    assert "self._compute_loss(model, inputs)" in inspect.getsource(GRPOTrainer.compute_loss), "no mask, no imitation"


def test_the_corrected_metrics_are_logged_in_the_same_places():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    for name in ("reward", "reward_std", "frac_reward_zero_std"):
        assert f'self._metrics[mode]["{name}"].append(' in source, f"{name} would be logged before rewards are known"
    for name in ("prompt", "completion", "rewards", "advantages", "extra"):
        assert f'self._logs["{name}"]' in source, "the table of completions would be wrong"
    assert "self._metrics[mode]" in inspect.getsource(GRPOTrainer.log)


def test_prompts_come_in_the_order_of_one_sampler():
    assert parameters(GRPOTrainer._get_train_sampler) == ["self", "dataset"], "prompts would come in another order"
    source = inspect.getsource(GRPOTrainer._get_train_sampler)
    assert "mini_repeat_count=self.num_generations" in source and "repeat_count=self.num_iterations" in source
    init = inspect.getsource(GRPOTrainer.__init__)
    for name in ("reward_weights", "reward_func_names", "max_completion_length", "_tokenizer", "loss_type"):
        assert f"self.{name}" in init, f"the trainer reads {name}"


def test_the_model_card_is_written_by_a_public_method():
    for owner in (GRPOTrainer._save_checkpoint, GRPOTrainer.push_to_hub):
        if "create_model_card" in inspect.getsource(owner):
            break
    else:
        pytest.fail("TRL writes its card elsewhere: it would call a local base model None")
    assert RecipeTrainer.create_model_card is not GRPOTrainer.create_model_card


def test_a_reward_function_gets_the_step_and_the_loggers():
    source = inspect.getsource(GRPOTrainer._calculate_rewards)
    for name in ("trainer_state", "log_metric", "log_extra"):
        assert f'"{name}"' in source, f"execution_reward no longer gets {name}: steps or success would not be recorded"
    assert "iscoroutinefunction" in inspect.getsource(inspect.getmodule(GRPOTrainer)), "async rewards are not awaited"


def test_the_trainer_state_is_written_last():
    source = inspect.getsource(Trainer._save_checkpoint)
    calls = ["self.save_model(", "_save_optimizer_and_scheduler(", "_save_rng_state(", "save_to_json("]
    positions = [source.index(call) for call in calls]
    assert positions == sorted(positions), (
        "a kill could leave a checkpoint that looks whole; checkpoints.is_whole must follow"
    )


def test_a_resumed_run_generates_a_batch_first():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._buffered_inputs is None" in source, "a resumed run would train on nothing"
    config = GRPOConfig("x", use_cpu=True, bf16=False, gradient_accumulation_steps=4, report_to="none")
    assert config.steps_per_generation == 4, "recipe.generation_batch computes TRL's default wrongly"


def test_trl_refuses_batches_that_do_not_divide():
    with pytest.raises(ValueError, match="divisible"):
        GRPOConfig("x", use_cpu=True, bf16=False, per_device_train_batch_size=8, num_generations=3, report_to="none")


def test_sft_appends_the_end_token_to_a_completion(tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig

    from ideator_rl.training.models import build_ideator

    shape = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    source = build_ideator(None, {**shape, **heads}, ["Propose.", "An idea [End]"] * 9, tmp_path / "m", 0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(source),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": "Propose.", "completion": "An idea [End]"}]),
        args=SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
    )
    row = trainer.train_dataset[0]
    assert row["input_ids"][-1] == tokenizer.eos_token_id, "a warmed-up ideator would never stop after [End]"
    learned = row["completion_mask"] if "completion_mask" in row else [label != -100 for label in row["labels"]]
    prompt = len(tokenizer("Propose.").input_ids)
    assert not any(learned[:prompt]) and all(learned[prompt:]), "the warm-up would learn the prompt, or not the idea"


def test_the_installed_versions_are_in_the_tested_range():
    tested = tuple(int(number) for number in trl.__version__.split(".")[:2])
    assert (1, 14) <= tested < (1, 17), f"pyproject pins trl, yet {trl.__version__} is installed"
    assert int(transformers.__version__.split(".")[0]) < 6
