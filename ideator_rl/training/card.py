"""The model card of a trained ideator: what it is, what it was trained on, and what to expect of it."""

from __future__ import annotations

from importlib.metadata import version

import yaml

from ideator_rl.training.models import PACKAGE
from ideator_rl.training.recipe import Recipe

TEXT = """---
{head}---

# An ideator for {env}

A language model that proposes research ideas in the form `[Experiment] … [Code Changes] … [End]`, trained from
{base} by GRPO on what happened when its ideas were run (environment `{env}`, preset `{preset}`, implementer
`{implementer}`, rewards {rewards}){warmup}. Made with ideator_rl {ours}, TRL {trl} and transformers {transformers}.

It was trained to write ideas for this one environment and is not meant for anything else.

## Recipe

```yaml
{recipe}```
"""


def model_card(recipe: Recipe) -> str:
    """Markdown with the hub's metadata block."""
    ours, name = recipe.ours, recipe.ours.model_name_or_path
    on_hub = name is not None and not name.startswith((PACKAGE, "/", "."))
    head = {"library_name": "transformers", "tags": ["ideator_rl", "grpo", "trl"]}
    return TEXT.format(
        head=yaml.safe_dump({**head, **({"base_model": name} if on_hub else {})}, sort_keys=False),
        env=ours.env,
        preset=ours.preset,
        implementer=ours.implementer,
        rewards=", ".join(f"`{name}`" for name in ours.reward_funcs),
        base=f"`{name}`" if name else "random weights, with a tokenizer made for it,",
        warmup=f", after {ours.sft_steps} steps of SFT on ideas from the environment's catalogue"
        if ours.sft_steps
        else "",
        ours=version("ideator-rl"),
        trl=version("trl"),
        transformers=version("transformers"),
        recipe=recipe.text(),
    )
