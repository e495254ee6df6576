"""What a recipe names by name or dotted path, looked up before anything is started or written.

Reward functions, trackers, prompt strategy, advantage, cluster weight.  Only the last two cost an import of torch, and
only where a recipe names them.
"""

from __future__ import annotations

import importlib.util

from ideator_rl.errors import IdeatorError
from ideator_rl.registry import resolve_reward
from ideator_rl.search.strategies import get_strategy
from ideator_rl.training.recipe import Recipe
from ideator_rl.training.tracking import trackers


def check_names(recipe: Recipe) -> None:
    """
    Raises:
        IdeatorError: something named is not known, not installed, or does not take its options.
    """
    ours = recipe.ours
    found = [resolve_reward(name) for name in ours.reward_funcs]
    if sum(getattr(function, "runs_experiments", False) for function in found) > 1:
        raise IdeatorError(
            f"reward_funcs has {', '.join(ours.reward_funcs)}, of which more than one runs every idea. Name one of "
            "them; functions of your own that run none may stand beside it."
        )
    trackers(recipe)
    if ours.prompt_strategy is not None:
        get_strategy(ours.prompt_strategy, shown=ours.prompt_parents, elites=ours.prompt_elites)
    if ours.advantage is not None or ours.cluster_weight is not None:
        from ideator_rl.training.advantages import check_cluster_weight, make_advantage

        if ours.advantage is not None:
            make_advantage(ours.advantage, ours.advantage_options, recipe.num_generations)
        if ours.cluster_weight is not None:
            check_cluster_weight(ours.cluster_weight)


def check_installed(recipe: Recipe) -> None:
    """
    Raises:
        IdeatorError: the recipe needs a package that this machine lacks.
    """
    if recipe.grpo.get("use_vllm") and importlib.util.find_spec("vllm") is None:
        raise IdeatorError(
            "The recipe has use_vllm: true, and vllm is not installed here. Install it (docs/training.md), or give "
            "--use_vllm false."
        )
