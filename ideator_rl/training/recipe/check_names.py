"""Looks up everything that a recipe refers to by name or dotted path, before a run starts or writes anything.

Reward functions and their options, trackers, embedder, prompt strategy, advantage, cluster weight.  Only the last two,
and an embedder that is a model, import torch.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ideator_rl.archive.bases import COLUMN, NONE
from ideator_rl.archive.parents import get_strategy
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.registry import resolve_reward
from ideator_rl.reward import RewardTraits, traits_of
from ideator_rl.reward_buffer import BufferConfig
from ideator_rl.screen.predictor import IdeatorModel, PredictorContext, load_predictor
from ideator_rl.training.recipe.recipe import Recipe
from ideator_rl.training.tracking import trackers

REWARD_ARGUMENTS = (
    "prompts", "completions", "completion_ids", "prompt", "completion", "parents", COLUMN, "trainer_state",
    "log_metric", "log_extra",
)  # fmt: skip
"""Arguments that reward functions get from the trainer: no option may have their names."""


def check_names(recipe: Recipe) -> None:
    """
    Raises:
        IdeatorError: a name is unknown, its package is not installed, or it does not take its options.
    """
    ours = recipe.ours
    traits = [traits_of(resolve_reward(name)) for name in ours.reward_funcs]
    if sum(trait.runs_experiments for trait in traits) > 1:
        raise IdeatorError(
            f"reward_funcs has {', '.join(ours.reward_funcs)}, of which more than one runs every idea. Name one of "
            "them; functions that run none may be added to it."
        )
    readers = [name for name, trait in zip(ours.reward_funcs, traits, strict=True) if trait.needs_experiments]
    # A function that declares nothing may run experiments.
    if readers and not any(trait.runs_experiments or trait.needs_experiments is None for trait in traits):
        raise IdeatorError(
            f"reward_funcs has {readers[0]}, which reads the results of experiments, and no function that runs them. "
            "Add one, for example reward_funcs: [execution, simplicity]."
        )
    # TRL would find this only after the model is loaded.
    weights = recipe.grpo.get("reward_weights")
    if weights is not None and len(weights) != len(traits):
        raise IdeatorError(
            f"reward_weights has {len(weights)} numbers for {len(traits)} reward_funcs. Give one for each."
        )
    _check_options(ours.reward_options or {}, ours.reward_funcs, traits)
    trackers(recipe)
    if ours.diversity and ours.diversity_embedder != "auto":  # `auto` chooses one that is installed
        get_embedder(ours.diversity_embedder)
    if ours.screen is not None:
        # The model itself may not be there yet: a warm-up or a model from scratch comes later.
        model = IdeatorModel(ours.model_name_or_path or "")
        environment = load_environment(ours.env).at(ours.preset)
        context = PredictorContext(environment, ours.preset, recipe.seed, ours.diversity_embedder, model=model)
        load_predictor(ours.screen.predictor, context)
        if not any(trait.runs_experiments for trait in traits):
            raise IdeatorError(
                "The recipe has a screen, and no reward function of it runs experiments. Add one, for example "
                "reward_funcs: [execution], or leave the screen out."
            )
    if ours.inherit != NONE and not any(trait.runs_experiments for trait in traits):
        raise IdeatorError(
            f"The recipe has inherit: {ours.inherit}, and no reward function of it runs ideas on inherited code. Add "
            "one that does, for example reward_funcs: [execution], or leave inherit out."
        )
    if ours.prompt_strategy is not None:
        get_strategy(ours.prompt_strategy, shown=ours.prompt_parents, elites=ours.prompt_elites)
    if ours.advantage is not None or ours.cluster_weight is not None:
        from ideator_rl.training.advantages import check_cluster_weight, make_advantage

        if ours.advantage is not None:
            make_advantage(ours.advantage, ours.advantage_options, recipe.num_generations)
        if ours.cluster_weight is not None:
            check_cluster_weight(ours.cluster_weight)


def _check_options(options: dict[str, Any], names: list[str], traits: list[RewardTraits]) -> None:
    """Check options against those that the functions declare; a function that declares none takes any.

    Raises:
        IdeatorError: none of them takes an option, one refuses a value, or a name is taken.
    """
    # Options reach the functions as columns: one with such a name would replace a column of our own.
    reserved = {*(column.name for column in fields(BufferConfig)), *REWARD_ARGUMENTS}
    if clash := sorted(reserved & set(options)):
        raise IdeatorError(f"reward_options has {clash[0]!r}, which has another meaning for every reward function.")
    declared: dict[str, Any] = {}
    for trait in traits:
        declared.update(trait.options or {})
    for name, value in options.items():
        if name in declared:
            declared[name].check(name, value)
        elif all(trait.options is not None for trait in traits):
            hint = did_you_mean(name, sorted(declared))
            raise IdeatorError(f"reward_options has {name!r}, which none of {', '.join(names)} takes. {hint}")
