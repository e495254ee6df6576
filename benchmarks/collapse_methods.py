"""What the collapse benchmark compares: each method is what it changes in `collapse.yaml` or `collapse_search.yaml`.

Learning rates and evolution's numbers were tuned on the landscapes t0 and t1 before the first eight were measured;
`fours` on t0 to t11 after that, and on the second eight it was measured.  Every trial is in collapse_tuning.jsonl, with
what it cost.  The oracle's numbers are the best of a grid of 45 on t0 to t5, two runs each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAIN = ("grpo", "default", "evolution", "best_of_n", "max_at_k")
"""On eight landscapes."""
SCREENED = (
    "dr_grpo", "loo", "entropic", "anneal", "ips", "share", "puct", "default_max_at_k",
    "remedy_length", "remedy_diversity", "remedy_dynamic_prompts",
)  # fmt: skip
"""On three: screening, no claim."""
REFERENCE = ("oracle",)
"""On the eight too, in the tables only: it reads the encoding, which no ideator sees."""
UNSEEN = tuple(f"s{number}" for number in range(8))
TUNING = tuple(f"t{number}" for number in range(12))
SCREENING = UNSEEN[:3]
FURTHER = tuple(f"s{number}" for number in range(8, 16))
AGAIN = ("grpo", "default", "fours", "evolution", "best_of_n", "oracle")
"""Eight more landscapes, added because the first eight did not separate `default` and `evolution`."""
FORECAST = ("screen4", "screen8")
"""Evolution with a screen, on all sixteen: 4 or 8 ideas sampled for each that is run."""
MIXED = ("default_screen4", "default_screen8")
"""The default mix with a screen: its numbers are the mix's own, nothing was tuned."""
UPDATES = ("default_twice", "default_small")
"""On the eight: more updates for each experiment, by training each batch twice or by batches a quarter as large."""

BUDGET, MOST_PROPOSED = 2048, 3072
"""Unique experiments of a cell, and the ideas after which it ends although it has not run so many."""
LONG = 8192
"""Unique experiments of the long cells, of `LONG_METHODS`: four times as many, with the numbers tuned for the short."""
LONG_METHODS = ("default", "evolution", "grpo", "screen8")
BATCH = 64
"""Ideas of a step of RL and of an epoch of a search."""

REUSE: dict[str, Any] = {
    "prompt_strategy": "top_k",
    "free_prompts": 0.25,
    "prompt_parents": 2,
    "prompt_elites": 20,
    "num_generations": 16,
}
"""Prompts that carry parents, as in recipes/default.yaml: one free group in four, advantages within groups of 16."""
DEFAULT: dict[str, Any] = {
    **REUSE,
    "reward_funcs": ["rewards.improvement.improvement_reward"],
    "imitation_weight": 0.5,
    "imitation_cells": 48,
}
"""The learning rules of recipes/default.yaml."""


RL, SEARCH, ORACLE = "rl", "search", "oracle"
"""By the trainer; by the search engine with the frozen ideator; by `collapse_oracle.py`, without an ideator."""
FOURS: dict[str, Any] = {
    **DEFAULT,
    "num_generations": 4,
    "prompt_elites": 8,
    "free_prompts": 0.0,
    "imitation_weight": 2.0,
}
"""The mix nearer to evolution: 16 pairs of parents a step, of the 8 best, and no prompt without.  Tuned after the first
eight landscapes were known, and measured on the other eight."""


@dataclass(frozen=True)
class Method:
    name: str
    label: str
    """As the table and the figure call it."""
    kind: str = RL
    keys: dict[str, Any] = field(default_factory=dict)


def steps_of(keys: dict[str, Any], ideas: int) -> int:
    """Optimizer steps in which an arm of RL samples so many ideas, those that a screen leaves out not counted."""
    batch = keys.get("per_device_train_batch_size", BATCH) * keys.get("gradient_accumulation_steps", 1)
    run_of_batch = batch // (keys.get("screen") or {}).get("over", 1)
    return ideas * int(keys.get("num_iterations", 1)) // run_of_batch


def _rl(name: str, label: str, keys: dict[str, Any] | None = None) -> Method:
    return Method(name, label, keys=keys or {})


def _screened(over: int) -> dict[str, Any]:
    """The default mix whose groups are `over` times as large, so that as many ideas of a step are run as without."""
    return {
        **DEFAULT,
        "screen": {"over": over},
        "num_generations": 16 * over,
        "gradient_accumulation_steps": over,
    }


METHODS = {
    method.name: method
    for method in (
        _rl("grpo", "GRPO, one prompt"),
        _rl("default", "default mix: reuse + improvement + imitation", DEFAULT),
        Method("evolution", "evolution, frozen ideator", SEARCH, {"strategy": "evolution"}),
        Method("best_of_n", "best of n, frozen ideator", SEARCH, {"strategy": "best_of_n"}),
        Method(
            "screen4",
            "evolution + screen, 4 samples an experiment",
            SEARCH,
            {"strategy": "evolution", "screen": {"over": 4}},
        ),
        Method(
            "screen8",
            "evolution + screen, 8 samples an experiment",
            SEARCH,
            {"strategy": "evolution", "screen": {"over": 8}},
        ),
        _rl("default_screen4", "default mix + screen, 4 samples an experiment", _screened(4)),
        _rl("default_screen8", "default mix + screen, 8 samples an experiment", _screened(8)),
        _rl("default_twice", "default mix, each batch trained twice", {**DEFAULT, "num_iterations": 2}),
        _rl(
            "default_small",
            "default mix, four updates where it has one",
            {**DEFAULT, "per_device_train_batch_size": 16},
        ),
        _rl("max_at_k", "max@8, one prompt", {"advantage": "max_at_k", "advantage_options": {"k": 8}}),
        _rl("fours", "the mix in groups of four, 8 elites, no free prompts, imitation 2", FOURS),
        Method("oracle", "reference: genetic algorithm on the table, no ideator", ORACLE),
        _rl("dr_grpo", "Dr. GRPO", {"advantage": "dr_grpo"}),
        _rl("loo", "leave one out", {"advantage": "loo"}),
        _rl("entropic", "entropic", {"advantage": "entropic"}),
        _rl("anneal", "GRPO to max@8, annealed", {"advantage": "anneal", "advantage_options": {"k": 8}}),
        _rl("ips", "GRPO, rewards by inverse cluster share", {"cluster_weight": "ips"}),
        _rl("share", "GRPO, rewards by share of other clusters", {"cluster_weight": "share"}),
        _rl("puct", "default mix, parents by PUCT", {**DEFAULT, "prompt_strategy": "puct"}),
        _rl(
            "default_max_at_k",
            "default mix, max@4",
            {**DEFAULT, "advantage": "max_at_k", "advantage_options": {"k": 4}},
        ),
        _rl(
            "remedy_length",
            "GRPO + length bonus",
            {
                "reward_funcs": ["execution", "rewards.length.length_reward"],
                "reward_options": {"length_most": 0.3, "length_cap": 24},
            },
        ),
        _rl(
            "remedy_diversity",
            "GRPO − similarity to the last step",
            {
                "reward_funcs": ["execution", "rewards.similarity.similarity_penalty"],
                "reward_weights": [1.0, 0.3],
            },
        ),
        _rl(
            "remedy_dynamic_prompts",
            "GRPO, random past ideas in the prompt",
            {**REUSE, "prompt_strategy": "random"},
        ),
    )
}

EVOLUTION: dict[str, Any] = {
    "strategy_options": {"parents": 2, "elites": 8, "exploit_start": 1.0, "exploit_step": 0.0, "exploit_most": 1.0}
}
TUNED: dict[str, dict[str, Any]] = {
    "default": {"learning_rate": 3e-4},
    "default_screen4": {"learning_rate": 3e-4},
    "default_screen8": {"learning_rate": 3e-4},
    "default_twice": {"learning_rate": 3e-4},
    "default_small": {"learning_rate": 3e-4},
    "fours": {"learning_rate": 1e-4},
    "evolution": EVOLUTION,
    "screen4": EVOLUTION,
    "screen8": EVOLUTION,
    "oracle": {"elites": 8, "mutation": 0.7, "first_edits": 2},
}  # fmt: skip
"""Keys of a method as tuning left them; what is not named here is as in the recipe."""
