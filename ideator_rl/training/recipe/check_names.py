"""What a recipe names by name or dotted path, looked up before anything is started or written.

Reward functions and their options, trackers, embedder, prompt strategy, advantage, cluster weight.  Only the last two,
and an embedder that is a model, cost an import of torch, and only where a recipe names them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from typing import Any

from ideator_rl.archive.parents import get_strategy
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.errors import IdeatorError
from ideator_rl.registry import resolve_reward
from ideator_rl.reward import RewardTraits, traits_of
from ideator_rl.reward_buffer import BufferConfig
from ideator_rl.training.recipe.recipe import Recipe
from ideator_rl.training.tracking import trackers

GIVEN = (
    "prompts", "completions", "completion_ids", "prompt", "completion", "parents", "trainer_state", "log_metric",
    "log_extra",
)  # fmt: skip
"""What reward functions are given besides."""


def check_names(recipe: Recipe) -> None:
    """
    Raises:
        IdeatorError: something named is not known, not installed, or does not take its options.
    """
    ours = recipe.ours
    found = [resolve_reward(name) for name in ours.reward_funcs]
    traits = [traits_of(function) for function in found]
    if sum(each.runs_experiments for each in traits) > 1:
        raise IdeatorError(
            f"reward_funcs has {', '.join(ours.reward_funcs)}, of which more than one runs every idea. Name one of "
            "them; functions of your own that run none may stand beside it."
        )
    needy = [name for name, each in zip(ours.reward_funcs, traits, strict=True) if each.needs_experiments]
    # A function that declares nothing may run them.
    if needy and not any(each.runs_experiments or each.needs_experiments is None for each in traits):
        raise IdeatorError(
            f"reward_funcs has {needy[0]}, which reads what the experiments did, and none "
            "that runs them. Name one beside it, for example reward_funcs: [execution, simplicity]."
        )
    weights = recipe.grpo.get("reward_weights")
    if weights is not None and len(weights) != len(found):
        raise IdeatorError(
            f"reward_weights has {len(weights)} numbers for {len(found)} reward_funcs. Give one for each."
        )
    _check_options(ours.reward_options or {}, ours.reward_funcs, traits)
    trackers(recipe)
    if ours.diversity and ours.diversity_embedder != "auto":  # what `auto` takes can be had
        get_embedder(ours.diversity_embedder)
    if ours.prompt_strategy is not None:
        get_strategy(ours.prompt_strategy, shown=ours.prompt_parents, elites=ours.prompt_elites)
    if ours.advantage is not None or ours.cluster_weight is not None:
        from ideator_rl.training.advantages import check_cluster_weight, make_advantage

        if ours.advantage is not None:
            make_advantage(ours.advantage, ours.advantage_options, recipe.num_generations)
        if ours.cluster_weight is not None:
            check_cluster_weight(ours.cluster_weight)


def _check_options(given: dict[str, Any], names: list[str], traits: list[RewardTraits]) -> None:
    """Check options against those that the functions declare; a function that declares none takes any.

    Raises:
        IdeatorError: none of them takes an option, one refuses a value, or a name is taken.
    """
    taken = {*(column.name for column in fields(BufferConfig)), *GIVEN}
    if clash := sorted(taken & set(given)):
        raise IdeatorError(f"reward_options has {clash[0]!r}, which says something else to every reward function.")
    known: dict[str, Any] = {}
    for each in traits:
        known.update(each.options or {})
    for name, value in given.items():
        if name in known:
            known[name].check(name, value)
        elif all(each.options is not None for each in traits):
            hint = did_you_mean(name, sorted(known))
            raise IdeatorError(f"reward_options has {name!r}, which none of {', '.join(names)} takes. {hint}")


def check_installed(recipe: Recipe) -> None:
    """
    Raises:
        IdeatorError: the recipe needs a package that this machine lacks.
    """
    if recipe.grpo.get("use_vllm") and importlib.util.find_spec("vllm") is None:
        raise IdeatorError(
            "The recipe has use_vllm: true, and vllm is not installed here. Install it (docs/how-to/scaling.md), "
            "or give --use_vllm false."
        )
