"""A recipe: one flat YAML in TRL's own keys (GRPOConfig, ModelConfig), plus ours.

An unknown key, a wrong type or numbers that do not divide fail within a second, with one sentence, before trl is
imported or a model is loaded.  The command line may override every key; the run folder stores the resolved recipe.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ideator_rl.archive.bases import NONE, own_prompt
from ideator_rl.config.backend_config import read_backend_config
from ideator_rl.config.base import read_config
from ideator_rl.config.fleet import read_fleet
from ideator_rl.config.recipe_file import RecipeError, read_recipe, read_saved
from ideator_rl.config.yaml_reader import dump_yaml, parse_yaml
from ideator_rl.environments.environment import Environment
from ideator_rl.llm.prompt_form import read_template_arguments
from ideator_rl.llm.settings import absolute_recordings
from ideator_rl.storage.bucket import absolute_url, check_url
from ideator_rl.training.recipe.keys import (
    AGGREGATION,
    REMOVED_KEYS,
    REMOVED_VALUES,
    TRL_SCALES,
    IdeatorConfig,
    our_keys,
    recipe_model,
    trl_keys,
)

DEFAULT_EPOCHS = 3
"""TRL's `num_train_epochs`, which ends a run without max_steps."""


@dataclass
class Recipe:
    ours: IdeatorConfig
    grpo: dict[str, Any]
    """Keys of TRL's GRPOConfig that the recipe sets."""
    model: dict[str, Any]
    """Keys of TRL's ModelConfig that the recipe sets."""
    world: int = field(default_factory=lambda: int(os.environ.get("WORLD_SIZE", "1")))
    """Processes that train."""

    @property
    def output_dir(self) -> Path:
        return Path(self.grpo["output_dir"])

    @property
    def bucket(self) -> str:
        return self.ours.bucket or (self.output_dir.absolute() / "bucket").as_uri()

    @property
    def seed(self) -> int:
        return self.grpo.get("seed", 42)

    @property
    def num_generations(self) -> int:
        return self.grpo.get("num_generations") or 8

    @property
    def template_arguments(self) -> dict[str, Any]:
        """`chat_template_kwargs`: arguments of the model's chat template.

        Raises:
            ModelError: it is no mapping.
        """
        return read_template_arguments(self.grpo.get("chat_template_kwargs"))

    @property
    def micro_batch(self) -> int:
        """Completions of one forward pass, over all processes."""
        return self.grpo.get("per_device_train_batch_size", 8) * self.world

    @property
    def generation_batch(self) -> int:
        """Completions generated at once, over all processes."""
        steps = self.grpo.get("steps_per_generation") or self.grpo.get("gradient_accumulation_steps", 1)
        return self.grpo.get("generation_batch_size") or self.micro_batch * steps

    @property
    def executed_share(self) -> int:
        """Completions of a generation batch that are run once a screen ranks; all without a screen."""
        return self.generation_batch // (self.ours.screen.over if self.ours.screen else 1)

    @property
    def screened_budget(self) -> int | None:
        """Experiments of the run if a screen ranked from the first batch on; None where epochs end the run."""
        return self.rollouts * self.executed_share if int(self.grpo.get("max_steps", -1)) > 0 else None

    @property
    def accumulation(self) -> int:
        """Micro-steps of an optimizer step."""
        return self.grpo.get("gradient_accumulation_steps", 1)

    @property
    def uses(self) -> int:
        """Micro-steps that one generation batch feeds."""
        return max(1, self.generation_batch // self.micro_batch * self.grpo.get("num_iterations", 1))

    @property
    def steps_per_rollout(self) -> int:
        """Whole optimizer steps that one generation batch feeds; 1 where several batches make a step."""
        return max(1, self.uses // self.accumulation)

    @property
    def rollouts(self) -> int:
        """Generation batches of the whole run."""
        steps = int(self.grpo.get("max_steps", -1))
        if steps <= 0:
            epochs = self.grpo.get("num_train_epochs", DEFAULT_EPOCHS)
            steps = math.ceil(epochs * (math.lcm(self.uses, self.accumulation) // self.accumulation))
        return -(-steps * self.accumulation // self.uses)

    @property
    def groups_per_epoch(self) -> int:
        """Rows that the training dataset must have, so that an epoch holds whole optimizer steps."""
        batches = math.lcm(self.uses, self.accumulation) // self.uses
        return max(1, self.generation_batch // self.num_generations) * batches

    def prompt(self, environment: Environment) -> str:
        """What asks the ideator for an idea where it is shown no past ones.

        Raises:
            EnvironmentError_: the environment has no prompt of the recipe's kind.
        """
        return own_prompt(environment, self.ours.preset, self.ours.prompts, self.ours.inherit, self.ours.code_tokens)

    def text(self) -> str:
        """The resolved recipe as YAML: it can be run as it is."""
        ours = {key: value for key, value in self.ours.as_mapping().items() if value not in (None, "")}
        return dump_yaml({**ours, **self.model, **self.grpo})

    def save(self, path: Path) -> None:
        path.write_text(self.text(), encoding="utf-8")


def load_recipe(
    path: str, overrides: list[str] | None = None, world: int | None = None, batches: bool = True
) -> Recipe:
    """Read a recipe file and apply `--key value` overrides.

    Args:
        world: processes that will train; None for as many as this one was launched with.
        batches: check that batches divide; False for a recipe that will not be trained.

    Raises:
        RecipeError: no such file, an unknown key, a wrong type, or numbers that do not fit together.
    """
    recipe = parse_recipe(read_recipe(path, recipe_model(), overrides), f"The recipe {path} has")
    if recipe.ours.bucket:
        check_url(recipe.ours.bucket)
    # The run's folder stores these paths, and a later command may be called from another folder.
    recipe.ours = replace(recipe.ours, bucket=absolute_url(recipe.ours.bucket))
    if recipe.ours.implementer == "llm":  # another one may mean something else by these keys
        recipe.ours = replace(recipe.ours, coder=absolute_recordings(recipe.ours.coder))
    read_backend_config(recipe.ours.backend_config)  # for its error
    read_fleet(recipe.ours.fleet)
    if world is not None:
        recipe.world = world
    for problem in chain(_problems(recipe), _advantage_problems(recipe), _batch_problems(recipe) if batches else ()):
        raise RecipeError(f"The recipe {path} {problem}")
    return recipe


def parse_recipe(raw: Mapping[str, Any], lead: str) -> Recipe:
    """The keys and values of a recipe, each checked by itself.

    Args:
        lead: how a message begins, such as `The recipe r.yaml has`.

    Raises:
        RecipeError: an unknown or removed key, or a wrong type or range.
    """
    values = _without_removed(raw, lead)
    hint = "Training takes TRL's GRPOConfig keys and this library's; a search's recipe is for `ideator-rl search`."
    checked = read_config(recipe_model(), values, lead, RecipeError, hint)
    ours, model = our_keys(), trl_keys("model")
    values = {key: getattr(checked, key) for key in values}
    return Recipe(
        IdeatorConfig(**{key: value for key, value in values.items() if key in ours}),
        {key: value for key, value in values.items() if key not in ours and key not in model},
        {key: value for key, value in values.items() if key not in ours and key in model},
    )


def parse_stored_recipe(raw: Mapping[str, Any], lead: str) -> Recipe:
    """The recipe that a run saved, perhaps with other releases of this library and of TRL: keys that are gone since are
    left out.

    Raises:
        RecipeError: a wrong type or range.
    """
    removed = {key for key, value in raw.items() if isinstance(value, str) and (key, value) in REMOVED_VALUES}
    # Reports and exports must still read such a run, so these keys are dropped instead of refused.
    names = recipe_model().model_fields.keys() - removed
    return parse_recipe({key: value for key, value in raw.items() if key in names}, lead)


def _without_removed(raw: Mapping[str, Any], lead: str) -> dict[str, Any]:
    """A recipe without keys of 0.1.0 that are gone; a recipe saved by 0.1.0 holds their defaults."""
    for key, value in raw.items():
        advice = None
        # The default of 0.1.0 changes nothing, so a recipe that holds it is still accepted.
        if key in REMOVED_KEYS and value != REMOVED_KEYS[key][0]:
            advice = REMOVED_KEYS[key][1]
        elif isinstance(value, str):
            advice = REMOVED_VALUES.get((key, value))
        if advice is not None:
            raise RecipeError(f"{lead} {key}: {value!r}. {advice}")
    return {key: value for key, value in raw.items() if key not in REMOVED_KEYS}


FIXED = (
    "preset", "hardware", "seed", "reward_transform", "prompts", "replicates", "scratch_model", "use_peft", "lora_r",
    "num_generations", "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation",
    "generation_batch_size", "num_iterations", "chat_template_kwargs",
)  # fmt: skip
"""Keys that a resumed run cannot change: its records, batches and checkpoints would not fit together."""


def refuse_other(recipe: Recipe) -> None:
    """
    Raises:
        RecipeError: the run in the recipe's folder was started with another value of a key that is fixed.
    """
    saved = recipe.output_dir / "recipe.yaml"
    if not saved.is_file():
        return
    before, now = read_saved(saved), parse_yaml(recipe.text(), "The recipe", RecipeError)
    for key in FIXED:
        if before.get(key) != now.get(key):
            raise RecipeError(
                f"The run in {recipe.output_dir} was started with {key}: {before.get(key)!r}, and --resume asks for "
                f"{now.get(key)!r}. Leave it as it was, or start a new run."
            )


def _problems(recipe: Recipe) -> Iterator[str]:
    ours, grpo = recipe.ours, recipe.grpo
    if not ours.env:
        yield "has no 'env'. Add `env: NAME`; `ideator-rl env list` shows names."
    if not grpo.get("output_dir"):
        yield "has no 'output_dir'. Add a folder for the run, for example `output_dir: runs/first`."
    # Neither or both: there is no model, or no way to choose one.
    if bool(ours.scratch_model) == bool(ours.model_name_or_path):
        yield "must name one ideator: either model_name_or_path or scratch_model."
    if ours.scratch_model and not ours.sft_steps:
        yield "makes its ideator from scratch, which writes no ideas before it has seen some. Add sft_steps, e.g. 200."
    if ours.sft_steps and recipe.model.get("model_revision", "main") != "main":
        yield "has sft_steps and a model_revision. Download that revision and name its folder as model_name_or_path."
    if not ours.reward_funcs:
        yield "has no reward_funcs. Expected a list such as [execution]."
    if ours.prompt_parents > ours.prompt_elites:
        yield f"has prompt_parents: {ours.prompt_parents}. Expected 1 up to prompt_elites, {ours.prompt_elites}."
    if ours.inherit != NONE and ours.prompt_strategy is None:
        yield (
            f"has inherit: {ours.inherit} and no prompt_strategy, so that no prompt shows code to build on. Add one, "
            "for example prompt_strategy: top_k."
        )
    if grpo.get("save_only_model"):
        yield "has save_only_model: true, which leaves nothing to resume from. Leave it out."
    if grpo.get("push_to_hub"):
        yield "has push_to_hub: true, which would upload journals too. Leave it out, and use `ideator-rl export`."
    if grpo.get("eval_strategy", "no") not in ("no", None):
        yield "has an eval_strategy. Evaluation during training is not done; measure checkpoints apart."
    if ours.advantage_options and ours.advantage is None:
        yield "has advantage_options and no advantage. Add `advantage: NAME`, or leave the options out."
    if ours.collapse_action != "warn" and not ours.diversity:
        yield f"has collapse_action: {ours.collapse_action} and diversity: false: no alarm would sound. Leave one out."
    if ours.screen and ours.screen.learn == "predicted" and ours.cluster_weight:
        yield ("has screen.learn: predicted and a cluster_weight, which needs the results of all ideas. Leave one out.")
    if ours.screen and ours.screen.learn == "none" and ours.imitation_weight:
        yield "has screen.learn: none, which trains nothing, and an imitation_weight. Leave one out."
    # The loss of a batch that trains nothing reaches no parameter, and the scaler of fp16 raises without gradients.
    if grpo.get("fp16") and ours.screen and ours.screen.learn != "executed":
        yield (
            f"has fp16: true and screen.learn: {ours.screen.learn}, with which some batches train nothing: the scaler "
            "of fp16 does not allow it. Use bf16: true, or leave fp16 out."
        )


def _advantage_problems(recipe: Recipe) -> Iterator[str]:
    advantage = recipe.ours.advantage
    scale, aggregation = (recipe.grpo.get(key) for key in ("scale_rewards", "multi_objective_aggregation"))
    if aggregation not in (None, AGGREGATION):
        yield (
            f"has multi_objective_aggregation: {aggregation}. Expected {AGGREGATION}, since rewards are summed before "
            "they are compared within their group. Leave it out."
        )
    # Where both are set, TRL's key would be saved with the run and change nothing.
    if scale is not None and advantage is not None and TRL_SCALES.get(scale) != advantage:
        yield (
            f"has scale_rewards: {scale} and advantage: {advantage}, which scales rewards in its own way. Leave "
            "scale_rewards out, or set advantage: null."
        )
    if scale is not None and advantage is None and scale not in TRL_SCALES:
        yield f"has scale_rewards: {scale}. Expected {' or '.join(TRL_SCALES)}, or an `advantage` in its place."


def _batch_problems(recipe: Recipe) -> Iterator[str]:
    grpo = recipe.grpo
    batch, generations = recipe.generation_batch, recipe.num_generations
    if generations < 2:
        yield f"has num_generations: {generations}. A group needs at least 2 completions to compare."
    if batch % generations:
        per_device = grpo.get("per_device_train_batch_size", 8)
        yield (
            f"generates {batch} completions a batch ({per_device} a device), which num_generations {generations} does "
            f"not divide. Use a multiple of {generations}, for example per_device_train_batch_size: {generations}."
        )
    screen = recipe.ours.screen
    if screen and recipe.executed_share < 1:
        yield f"has screen.over: {screen.over} and {batch} completions a batch, so that none is run. Lower screen.over."
    if screen and screen.learn == "executed" and generations < 2 * screen.over:
        yield (
            f"has num_generations: {generations} and screen.over: {screen.over}: fewer than 2 ideas of a group are run "
            f"on average, and one alone trains nothing. Use num_generations: {2 * screen.over}, or lower screen.over."
        )
    if screen and screen.learn == "predicted" and recipe.uses < recipe.accumulation:
        yield (
            f"has screen.learn: predicted and batches of {batch} completions, several of which make an optimizer step: "
            f"none could be left out alone. Use steps_per_generation: {recipe.accumulation}."
        )
    interval = recipe.steps_per_rollout
    if int(grpo.get("save_steps", 500)) % interval:
        yield (
            f"saves every {grpo.get('save_steps', 500):g} steps and generates every {interval}: a run resumed between "
            f"two generations would not find its ideas again. Make save_steps a multiple of {interval}."
        )
