"""Prompts that show code, and the context of the model that reads them."""

from pathlib import Path

import pytest
from conftest import TOY, replace_line, run
from tiny_policy import save_policy
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ideator_rl.environments.environment import load_environment
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.training.preflight import PreflightError, check_ideator
from ideator_rl.training.prompts import archive_prompts
from ideator_rl.training.recipe.recipe import load_recipe

COMPLETION = 100
WORDS = f"""--env {TOY} --sft_steps 0 --scratch_model null --prompt_strategy top_k --inherit best_parent --free_prompts 0.0
--code_tokens 900 --max_completion_length {COMPLETION} --prompt_parents 2""".split()


def test_a_window_that_inherited_code_may_exceed_is_refused_where_positions_are_learned(tmp_path):
    """The prompt without past ideas shows the few lines of the baseline; a parent's code may fill its whole share."""
    save_policy(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    folder = str(tmp_path / "m")
    recipe = load_recipe(
        str(Path(__file__).parent / "toy_recipe.yaml"),
        [*WORDS, "--output_dir", str(tmp_path), "--model_name_or_path", folder],
    )
    # Ideas that leave no room in the share of the files, and none in that of the diffs.
    code = {letter: f"z = {number}.0" + f"\n# {letter * 9}" * 90 for number, letter in enumerate("ab")}
    ideas = [
        f"[Experiment] {'why ' * 60} [Code Changes]\n{replace_line('z = 4.0', text)}[End]" for text in code.values()
    ]
    config = BufferConfig(str(TOY), "cpu", f"file://{tmp_path}/b", run_dir=str(tmp_path), implementer="direct")
    buffer = RewardBuffer(config)
    assert [record.status for record in run(buffer.score(ideas, step=0))] == ["succeeded"] * 2
    prompt = archive_prompts(recipe, buffer, False).rows(1, 1)[0]["prompt"]
    buffer.close()
    needed = len(tokenizer(prompt).input_ids) + COMPLETION

    def check(positions):
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions}
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), eos_token_id=0, **sizes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return check_ideator(recipe, load_environment(TOY).at("cpu"))

    advice = f"the model has positions for {needed - 1}. Lower max_completion_length or code_tokens"
    with pytest.raises(PreflightError, match=advice):
        check(needed - 1)
    assert check(2 * needed) == [], "the bound is not far off"
