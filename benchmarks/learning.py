"""Did training help?  Runs ideas of the trained policy and of the frozen policy that it started from.

usage: python benchmarks/learning.py RUN_FOLDER [--ideas 32] [--seed 1000] [--slots N]

Samples equally many ideas from `<run>/warmup` and `<run>/model` with the run's own temperature and length, runs them in
turn about, so that both meet the same load, and prints success and the metric of the successes apart. New seeds: none
of these ideas was trained on, but an equal codebase is replayed from the run's bucket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from ideator_rl.environments.environment import load_environment
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.llm.model_files import load_tokenizer
from ideator_rl.llm.prompt_form import PromptForm
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.training.recipe.recipe import Recipe, load_recipe
from ideator_rl.training.session import buffer_config


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--ideas", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--slots", type=int)
    options = parser.parse_args()
    recipe = load_recipe(str(options.run / "recipe.yaml"))
    texts = {
        name: sample(options.run / folder, recipe, options.ideas, options.seed)
        for name, folder in (("frozen", "warmup"), ("trained", "model"))
    }
    records = asyncio.run(run_all(options, recipe, texts))
    for name in texts:
        print(row(name, records[name]))
    out = {name: [json.loads(record.to_json()) for record in rows] for name, rows in records.items()}
    (options.run / "learning.json").write_text(json.dumps(out))


def sample(folder: Path, recipe: Recipe, count: int, seed: int) -> list[str]:
    """Completions of the policy in a folder."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(seed)
    tokenizer, _ = load_tokenizer(folder, padding_side="left")
    form = PromptForm(tokenizer, recipe.template_arguments)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    text = load_environment(recipe.ours.env).prompt(recipe.ours.preset, recipe.ours.prompts)
    prompt = torch.tensor([form.ids(form.prompt(text))] * count)
    ids = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        temperature=recipe.grpo.get("temperature", 1.0),
        top_k=0,
        top_p=1.0,
        max_new_tokens=recipe.grpo.get("max_completion_length", 256),
    )
    return tokenizer.batch_decode(ids[:, prompt.shape[1] :], skip_special_tokens=True)


async def run_all(options: Any, recipe: Recipe, texts: dict[str, list[str]]) -> dict[str, list[Experiment]]:
    config = buffer_config(recipe)
    buffer = RewardBuffer(
        type(config)(**{**vars(config), "run_dir": str(options.run / "learning"), "slots": options.slots})
    )
    names = list(texts)
    mixed = [text for pair in zip(*texts.values(), strict=True) for text in pair]
    scored = await buffer.score(mixed, step=0)
    buffer.close()
    return {name: scored[index :: len(names)] for index, name in enumerate(names)}


def row(name: str, records: list[Experiment]) -> str:
    """Success rate and the metric of the successes, each with its standard error."""
    good = [float(record.metric["value"]) for record in records if record.status == SUCCEEDED and record.metric]
    share = len(good) / len(records)
    spread = (share * (1 - share) / len(records)) ** 0.5
    metric = "-"
    if len(good) > 1:
        error = statistics.stdev(good) / len(good) ** 0.5
        middle = f"median {statistics.median(good):.3f}, best {min(good):.3f}"
        metric = f"mean {statistics.mean(good):.3f} ± {error:.3f}, {middle}"
    trees = len({record.tree for record in records if record.tree})
    kinds = ", ".join(f"{count} {status}" for status, count in Counter(r.status for r in records).most_common())
    return (
        f"{name:<8} {len(records)} ideas: success {share:.0%} ± {spread:.0%}; metric of successes {metric}; "
        f"{trees} distinct codebases ({kinds})"
    )


if __name__ == "__main__":
    main()
