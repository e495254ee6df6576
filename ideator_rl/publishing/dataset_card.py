"""The card of a run's trajectories: what a row is, how it was made, what each column means, and what to beware of."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from typing import Any

import yaml

from ideator_rl.experiment import RERUN_REPLICATE
from ideator_rl.publishing.card import environment_name, table
from ideator_rl.publishing.published import Published
from ideator_rl.publishing.trajectories import COLUMNS, EXPERIMENTS, PROPOSALS
from ideator_rl.storage.records import Run
from ideator_rl.training.recipe.recipe import Recipe

TEXT = """---
{head}---

# Trajectories of an ideator on {env}

What a language model proposed while it was trained on the environment `{env}` (preset `{preset}`), and what happened
when its ideas were run: the model wrote an idea, the implementer `{implementer}` turned it into a patch, the patched
codebase was run in a sandbox, and the environment's own evaluator measured `{metric}` ({better} is better).{model}
Written by ideator_rl {ours}.

**Beware.** Ideas and patches are output of a model that was rewarded for a metric. Some were caught cheating (status
`invalid`), some do harm when run. Read them as data; run them in a sandbox only. License: {license}.

    from datasets import load_dataset
    rows = load_dataset(folder, split="train")                      # one row a proposal
    runs = load_dataset(folder, "{experiments}", split="train")     # one row an experiment, baselines and re-runs too

## Counts

{counts}
## `{proposals}`: one row a proposal, in the order of the journal

{of_proposals}
## `{experiments}`: one row an experiment

Experiments with equal codebase, seed and setting are one, however often they were proposed. Baselines: {baselines};
re-runs of what had been chosen: {reruns}.

{of_experiments}
Logs and error messages are left out. What looked like a secret was replaced by `(hidden)`.
"""


def dataset_card(run: Run, recipe: Recipe, published: Published, model: str | None, license: str | None) -> str:
    """Markdown with the hub's metadata block.

    Args:
        model: the hub name of the model that was trained, if it has one.
    """
    ours = recipe.ours
    statuses = Counter(row.status for row in run.rollouts)
    records = run.experiments.values()
    kinds = Counter(
        "baseline" if e.is_baseline else "rerun" if e.replicate >= RERUN_REPLICATE else "idea" for e in records
    )
    head: dict[str, Any] = {
        "license": license or "unknown",
        "task_categories": ["text-generation"],
        "tags": ["ideator_rl", "research-ideas", "reinforcement-learning"],
        "configs": [_config(PROPOSALS, default=True), _config(EXPERIMENTS, default=False)],
    }
    return TEXT.format(
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True),
        env=environment_name(recipe, published),
        preset=ours.preset,
        implementer=ours.implementer,
        metric=run.metric,
        better="lower" if run.direction == "min" else "higher",
        model=f"\nThe model: [{model}](https://huggingface.co/{model})." if model else "",
        ours=version("ideator-rl"),
        license=license or "unknown; nobody has stated one",
        counts=table(["status", "proposals"], [[status, str(count)] for status, count in statuses.most_common()]),
        proposals=PROPOSALS,
        experiments=EXPERIMENTS,
        baselines=kinds["baseline"],
        reruns=kinds["rerun"],
        of_proposals=_columns(PROPOSALS),
        of_experiments=_columns(EXPERIMENTS),
    )


def _config(name: str, default: bool) -> dict[str, Any]:
    files = [{"split": "train", "path": f"data/{name}.parquet"}]
    return {"config_name": name, "data_files": files, **({"default": True} if default else {})}


def _columns(name: str) -> str:
    return table(["column", "type", "meaning"], [[f"`{c.name}`", c.kind, c.meaning] for c in COLUMNS[name]])
