"""What the comparison with a weak ideator compares: each arm is what it changes in a recipe.

The frozen arms change `search_nanogpt_cpu.yaml`, the others `default.yaml`, whose screen `mix` leaves out.  The ideator
is weak by its warm-up alone: the first number of `SFT_STEPS` after which at least `LEAST_RUNNABLE` of its answers can
be run.  Nothing else was tuned here: evolution's numbers are those of the landscapes (collapse_methods.py), and the mix
is the recipe's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from collapse_methods import TUNED

SFT_STEPS, LEAST_RUNNABLE = (200, 240, 280, 320, 400), 0.30
"""Of the warm-up, tried in this order; recipes/default.yaml has 400.  Under seed 0, 3 % of the answers could be run
after 100 steps, and 15 % after 160."""
SEARCH, RL = "search", "rl"
IDEAS = 8
"""Ideas for each experiment of the budget, after which a cell ends although it has not run so many."""
OVER = 4
"""Ideas sampled for each that a screen runs.  8 would leave a batch of RL two executed ideas a group."""
MOST_TOKENS = 128
"""Of an answer, in all arms: `max_completion_length` of recipes/default.yaml."""
MOST_AFTER, SHARE_AFTER = 64, 4
"""Outcomes before a screen ranks: the least of 64 and a quarter of the budget."""


@dataclass(frozen=True)
class Arm:
    label: str
    """As the table and the figure call it."""
    kind: str
    keys: dict[str, Any] = field(default_factory=dict)
    over: int = 1
    """Ideas sampled for each that is run; 1 is no screen."""
    learn: str = "executed"
    """What a screened policy learns from, as the key of the same name."""


# About as many experiments between two updates in all arms of RL: 32 ideas of which 40 % run are 13, and a screen runs
# 16 of 64.
MIX: dict[str, Any] = {
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
}
SCREENED_MIX: dict[str, Any] = {
    "num_generations": 16,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 4,
}
ARMS = {
    "frozen": Arm("evolution, frozen ideator", SEARCH, {"epoch_size": 16}),
    "frozen_screen": Arm("evolution + screen, frozen ideator", SEARCH, {"epoch_size": 8}, OVER),
    "mix": Arm("RL, the default mix", RL, MIX),
    "mix_screen": Arm("RL, the default mix + screen", RL, SCREENED_MIX, OVER),
}
"""Run by default."""
VARIANTS = {
    "frozen_screen8": Arm("evolution + screen ×8, frozen ideator", SEARCH, {"epoch_size": 8}, 8),
    "mix_screen8": Arm("RL, the default mix + screen ×8", RL, {**SCREENED_MIX, "gradient_accumulation_steps": 8}, 8),
    "mix_predicted": Arm(
        "RL, the default mix + screen, learning from forecasts", RL, SCREENED_MIX, OVER, learn="predicted"
    ),
    "mix_twice": Arm("RL, the default mix, batches trained twice", RL, {**MIX, "num_iterations": 2, "save_steps": 2}),
    "mix_small": Arm("RL, the default mix, batches of 16 ideas", RL, {**MIX, "gradient_accumulation_steps": 2}),
    "mix_pairs": Arm(
        "RL, the default mix, parents of their own for each two ideas",
        RL,
        {**MIX, "num_generations": 2, "prompt_elites": 8, "free_prompts": 0.0},
    ),
    "grpo": Arm(
        "GRPO, one prompt, no imitation",
        RL,
        {**MIX, "prompt_strategy": None, "reward_funcs": ["execution"], "imitation_weight": 0.0},
    ),
}
"""Run where they are named: what the trainer's keys allow for few and dear experiments, and plain GRPO."""
ALL = ARMS | VARIANTS
PAIRS = (
    ("frozen_screen", "frozen"),
    ("mix", "frozen"),
    ("mix", "frozen_screen"),
    ("mix_screen", "frozen_screen"),
    ("mix_screen", "mix"),
    ("mix_screen", "frozen"),
    ("frozen_screen8", "frozen"),
    ("mix_screen8", "mix"),
    ("mix_predicted", "mix_screen"),
    ("mix_twice", "mix"),
    ("mix_small", "mix"),
    ("mix_pairs", "mix"),
    ("grpo", "mix"),
    ("grpo", "frozen"),
)
"""Compared by seed, where both were run."""


def keys_of(arm: Arm, budget: int) -> dict[str, Any]:
    """The keys of an arm at a budget of distinct experiments, for its recipe."""
    after = max(2, min(MOST_AFTER, budget // SHARE_AFTER))
    screen = {"over": arm.over, "after": after, "learn": arm.learn} if arm.over > 1 else None
    shared = {"quorum": 1.0, "baseline_replicates": 3, **arm.keys, "screen": screen}
    most_ideas = IDEAS * budget * arm.over
    if arm.kind == SEARCH:
        return {
            "strategy": "evolution",
            **TUNED["evolution"],
            "ideator": "local",
            "batch": 1,  # a pair of parents of its own for each idea
            "asks_at_once": 16,
            # RL is not ended for repeating itself either.
            "patience": most_ideas,
            "max_experiments": budget,
            "max_ideas": most_ideas,
            **shared,
        }
    return {
        "scratch_model": None,
        "sft_steps": 0,
        "max_staleness": 0,
        "report_to": "none",
        "max_steps": math.ceil(most_ideas / ideas_a_batch(arm)) * arm.keys.get("num_iterations", 1),
        **shared,
    }


def ideas_a_batch(arm: Arm) -> int:
    """Ideas that are sampled between two updates of an arm of RL."""
    return int(arm.keys["per_device_train_batch_size"] * arm.keys["gradient_accumulation_steps"])
