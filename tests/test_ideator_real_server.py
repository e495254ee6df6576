"""A search's recipe with a small warmed-up model behind `transformers serve`: unchanged but for two keys."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import model_server
import pytest
from conftest import TOY
from transformers import AutoTokenizer

from ideator_rl.storage.run_reader import read_run

MISSING = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""Adds nothing: the model was warmed up on bare prompts."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; the dev extra brings them"),
]
COMMAND = str(Path(sys.executable).with_name("ideator-rl"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """The folder of a model of some 60k parameters that writes ideas for the toy environment, also when shown some."""
    out = tmp_path_factory.mktemp("warm") / "model"
    size = {
        "vocab_size": 400, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 512,
    }  # fmt: skip
    words = ["sft", TOY.with_name("toy_recipe.yaml"), "--env", TOY, "--sft_steps", 300, "--out", out]
    words += ["--scratch_model", json.dumps(size), "--prompt_strategy", "top_k", "--free_prompts", 0.5]
    subprocess.run([COMMAND, *map(str, words)], check=True)
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(out)
    return out


def search(folder, *more):
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(
        json.dumps({
            "output_dir": str(folder), "env": str(TOY), "strategy": "evolution", "epoch_size": 8, "batch": 4,
            "max_ideas": 24, "slots": 2, "embedder": "hashed",
        })
    )  # fmt: skip
    subprocess.run([COMMAND, "search", str(recipe), *more], check=True)
    return read_run(folder)


@pytest.mark.parametrize("ideator", ["chat", "local"])
def test_a_search_asks_a_warmed_up_model_and_most_of_its_ideas_reach_execution(warm, ideator, tmp_path):
    options = {"as_trained": True, "max_tokens": 110}
    if ideator == "local":
        run = search(
            tmp_path / "run", "--ideator", "local", "--ideator_options", json.dumps({**options, "model": str(warm)})
        )
    else:
        sampling = {"generation_config": json.dumps({"do_sample": True})}
        with model_server.served(warm, tmp_path / "log") as url:
            options |= {"base_url": url, "models": str(warm), "extra_body": sampling}
            run = search(tmp_path / "run", "--ideator", "chat", "--ideator_options", json.dumps(options))
    statuses = Counter(rollout.status for rollout in run.rollouts)
    never_ran = sum(statuses[name] for name in ("malformed", "unpatchable", "rejected"))
    assert len(run.rollouts) == 24 and never_ran <= 12, statuses
    assert len({rollout.idea for rollout in run.rollouts}) > 5 and run.lineage
