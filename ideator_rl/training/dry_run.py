"""What a training run would cost: ideas, experiments, GPU-hours, and tokens and USD of the coder LLM.

Nothing is started, and no network is used.  "At most" marks an upper bound: ideas that repeat, fail early or cannot be
implemented cost less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.environments.environment import Preset, load_environment
from ideator_rl.implementers.implementer import estimate_cost, writes_trusted_code
from ideator_rl.llm.estimate import Amount
from ideator_rl.llm.model_files import PACKAGE
from ideator_rl.sandbox.choose import choose_sandbox
from ideator_rl.training.recipe.recipe import Recipe
from ideator_rl.training.tracking import trackers

EPOCHS = 3
"""TRL's default, where a recipe gives no max_steps."""


@dataclass(frozen=True)
class Cost:
    """What the experiments of a run may cost."""

    rollouts: int
    """Batches of ideas."""
    ideas: int
    experiments: int
    """At most: every idea another codebase, and the baseline's runs."""
    gpu_hours: float
    cpu_hours: float
    """At most, start-up included; of a budget on the wall clock, CPUs held."""


def cost(recipe: Recipe, preset: Preset) -> Cost:
    """The most that a recipe's experiments may cost."""
    steps = int(recipe.grpo.get("max_steps", -1))
    rollouts = math.ceil(steps / recipe.steps_per_rollout) if steps > 0 else EPOCHS
    ideas = rollouts * recipe.generation_batch
    experiments = ideas + recipe.ours.baseline_replicates
    hours = experiments * (preset.budget.seconds + preset.budget.startup_allowance) / 3600
    cpus = 1 if preset.budget.clock == "cpu" else preset.resources.cpus
    return Cost(rollouts, ideas, experiments, hours * preset.resources.gpus, hours * cpus)


def dry_run(recipe: Recipe) -> str:
    """The estimate as text, for `recipe.world` processes.

    Raises:
        IdeatorError: the environment is not usable, or its sandbox does not hold here.
    """
    trackers(recipe)
    ours = recipe.ours
    environment = load_environment(ours.env)
    preset = environment.preset(ours.preset)
    sandbox = choose_sandbox(ours.isolation, trusted=writes_trusted_code(ours.implementer))
    most = cost(recipe, preset)
    lines = [
        "Nothing was started. This run would take:",
        f"ideas        {most.ideas} in {most.rollouts} batches of {recipe.generation_batch}",
        f"experiments  at most {most.experiments} of {environment.name} ({preset.name}), isolation {sandbox.level}",
        f"hardware     at most {most.gpu_hours:.1f} GPU-hours and {most.cpu_hours:.1f} CPU-hours for experiments"
        + _cap(ours.max_gpu_hours, "GPU-hours"),
    ]
    asked = estimate_cost(ours.implementer, ours.coder, most.ideas, environment, ours.preset)
    if asked is not None:
        lines.append(
            f"coder LLM    {_amount(asked.low)} if every first draft is right; at most {_amount(asked.high)}"
            + _cap(ours.max_usd, "USD")
            + _cap(ours.max_coder_tokens, "tokens")
        )
    model = ours.model_name_or_path or ""
    if model and not model.startswith(PACKAGE) and not Path(model).exists():
        lines.append(f"memory       not estimated here; for a model on the hub: accelerate estimate-memory {model}")
    return "\n".join(lines)


def _amount(asked: Amount) -> str:
    return f"{asked.calls:,} calls, {asked.tokens / 1e6:.3g} M tokens, {asked.usd:,.2f} USD"


def _cap(cap: float | None, unit: str) -> str:
    return "" if cap is None else f"; capped at {cap:g} {unit}"
