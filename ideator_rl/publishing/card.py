"""The model card of a trained ideator: what it is, what it was trained on, and what to expect of it.

While a run is under way the card says what is known from its recipe; an export adds the run's story.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.publishing.published import Published, of_recipe
from ideator_rl.training.models import PACKAGE
from ideator_rl.training.recipe.recipe import Recipe

_ON_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
TEXT = """---
{head}---

# An ideator for {env}

A language model that proposes research ideas in the form `[Experiment] … [Code Changes] … [End]`, trained from
{base} by GRPO on what happened when its ideas were run (environment `{env}`, preset `{preset}`, implementer
`{implementer}`, rewards {rewards}){warmup}. Made with ideator_rl {ours}, TRL {trl} and transformers {transformers}.

It was trained to write ideas for this one environment and is not meant for anything else.

{story}## Recipe

Secrets are hidden and folders shortened to their last part.

```yaml
{recipe}```
"""


@dataclass(frozen=True)
class Story:
    """What an export adds to a card."""

    text: str
    """Markdown sections."""
    head: dict[str, Any] = field(default_factory=dict)
    """Further keys of the hub's metadata block."""


def model_card(recipe: Recipe, story: Story | None = None) -> str:
    """Markdown with the hub's metadata block."""
    ours, name = recipe.ours, recipe.ours.model_name_or_path
    published = of_recipe(recipe)
    base = hub_base(recipe)
    head = {"library_name": "transformers", "tags": ["ideator_rl", "grpo", "trl"]}
    if base:
        head["base_model"] = base
    return TEXT.format(
        head=yaml.safe_dump({**head, **(story.head if story else {})}, sort_keys=False, allow_unicode=True),
        env=environment_name(recipe, published),
        preset=ours.preset,
        implementer=ours.implementer,
        rewards=", ".join(f"`{name}`" for name in ours.reward_funcs),
        base=f"`{published.name(name)}`" if name else "random weights, with a tokenizer made for it,",
        warmup=f", after {ours.sft_steps} steps of SFT on ideas from the environment's catalogue"
        if ours.sft_steps
        else "",
        story=story.text if story else "",
        ours=version("ideator-rl"),
        trl=version("trl"),
        transformers=version("transformers"),
        recipe=published.recipe(recipe),
    )


def hub_base(recipe: Recipe) -> str | None:
    """The base model's name on the hub, None for a folder, a package's file, or a model from scratch."""
    name = recipe.ours.model_name_or_path
    if name is None or name.startswith((PACKAGE, ".")) or not _ON_HUB.fullmatch(name) or Path(name).exists():
        return None
    return name


def environment_name(recipe: Recipe, published: Published) -> str:
    """Its name, or that of its folder."""
    return published.text(Path(recipe.ours.env).name)


def fenced(text: str, kind: str = "") -> str:
    """A code block that nothing in the text ends."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
