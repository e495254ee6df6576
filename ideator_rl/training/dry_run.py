"""What a training run would cost: ideas, experiments, GPU-hours, and tokens and USD of the coder LLM.

Nothing is started, and no network is used.  "At most" marks an upper bound: ideas that repeat, fail early or cannot be
implemented cost less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ideator_rl.config.fleet import read_fleet
from ideator_rl.environments.environment import load_environment
from ideator_rl.executor.cascade_estimate import cascade_lines
from ideator_rl.executor.fleet_estimate import debug_note, fleet_lines, hardware_line
from ideator_rl.implementers.implementer import estimate_cost, writes_trusted_code
from ideator_rl.llm.estimate import Amount
from ideator_rl.llm.model_lookup import PACKAGE
from ideator_rl.llm.probe import NOT_ASKED
from ideator_rl.sandbox.choose import choose_sandbox
from ideator_rl.training.recipe.recipe import Recipe

DEFAULT_COMPLETION = 256
"""TRL's default of max_completion_length."""
CHARACTERS_PER_TOKEN = 4


def dry_run(recipe: Recipe, notes: Sequence[str] = ()) -> str:
    """The estimate as text, for `recipe.world` processes.

    Args:
        notes: sentences of the checks that the run would make, for people.

    Raises:
        IdeatorError: the environment is not usable, or there is no sandbox here.
    """
    ours = recipe.ours
    environment = load_environment(ours.env).at(ours.preset)
    preset = environment.preset(ours.preset)
    sandbox = choose_sandbox(ours.isolation, trusted=writes_trusted_code(ours.implementer))
    rollouts = recipe.rollouts
    ideas = rollouts * recipe.generation_batch
    # None for an implementer that asks no LLM.
    coder = estimate_cost(ours.implementer, ours.coder, ideas, environment, ours.preset)
    per_idea = coder.experiments_per_idea if coder is not None else 1
    # At most: every idea leads to another codebase, and crashes in every round but the last.
    runs = ideas * per_idea
    experiments = runs + ours.baseline_replicates
    cheap = environment.preset(ours.cascade.preset) if ours.cascade is not None else None
    lines = [
        "Nothing was started. This run would take:",
        f"ideas        {ideas} in {rollouts} batches of {recipe.generation_batch}",
        f"experiments  at most {experiments} of {environment.name} ({preset.name}), isolation {sandbox.level}"
        + debug_note(per_idea),
        hardware_line(preset, experiments, cheap, runs) + _cap(ours.max_gpu_hours, "GPU-hours"),
        *fleet_lines(
            preset,
            read_fleet(ours.fleet),
            recipe.generation_batch * per_idea,
            rollouts,
            ours.baseline_replicates,
            cheap,
        ),
        *cascade_lines(ours.cascade, environment, ours.preset, ideas),
        *_screen(recipe, rollouts),
        _ideator(recipe, ideas, recipe.prompt(environment)),
    ]
    if coder is not None:
        lines.append(
            f"coder LLM    {_amount(coder.low)} if every first draft is right; at most {_amount(coder.high)}"
            + _cap(ours.max_usd, "USD")
            + _cap(ours.max_coder_tokens, "tokens")
        )
        if ours.probe:
            lines.append(NOT_ASKED)
    model = ours.model_name_or_path or ""
    if model and not model.startswith(PACKAGE) and not Path(model).exists():
        lines.append(f"memory       not estimated here; for a model on the hub: accelerate estimate-memory {model}")
    return "\n".join([*lines, *(f"note         {note}" for note in notes)])


def _screen(recipe: Recipe, rollouts: int) -> list[str]:
    """What a screen runs of a batch, and of the run if the first outcomes suffice.

    Args:
        rollouts: batches of the run.
    """
    screen = recipe.ours.screen
    if screen is None:
        return []
    first, batch = screen.outcomes_before(recipe.screened_budget), recipe.generation_batch
    # Batches before the screen ranks are run whole, those too that are sampled before their outcomes are known.
    whole = min(rollouts, math.ceil(first / batch) + recipe.ours.max_staleness)
    ideas = whole * batch + (rollouts - whole) * recipe.executed_share
    share = f"{recipe.executed_share} of the {batch} ideas of a batch are run, after {first} outcomes"
    return [f"screen       {share}; {ideas} in all, if a quarter of these succeed"]


def _ideator(recipe: Recipe, ideas: int, prompt: str) -> str:
    """Processes of the ideator, and tokens that it reads and writes: four characters of a prompt count as one."""
    written = ideas * int(recipe.grpo.get("max_completion_length") or DEFAULT_COMPLETION)
    read = ideas // recipe.num_generations * len(prompt) // CHARACTERS_PER_TOKEN
    processes = "1 process" if recipe.world == 1 else f"{recipe.world} processes, one GPU each"
    if recipe.grpo.get("use_cpu"):
        processes = processes.removesuffix(", one GPU each") + " on CPUs"
    return (
        f"ideator      {processes}; at most {written / 1e6:.3g} M tokens sampled, on prompts "
        f"of about {read / 1e6:.3g} M"
    )


def _amount(amount: Amount) -> str:
    return f"{amount.calls:,} calls, {amount.tokens / 1e6:.3g} M tokens, {amount.usd:,.2f} USD"


def _cap(cap: float | None, unit: str) -> str:
    return "" if cap is None else f"; capped at {cap:g} {unit}"
