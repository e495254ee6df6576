"""What numbers a recipe's keys may have: told in one sentence, before TRL or torch would tell it in a traceback."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

AT_LEAST: dict[str, float] = {
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "steps_per_generation": 1, "num_iterations": 1,
    "max_completion_length": 1, "learning_rate": 0, "weight_decay": 0, "beta": 0, "max_grad_norm": 0, "epsilon": 0,
    "slots": 1, "cpu_threads": 1, "replicates": 1, "baseline_replicates": 1, "sft_steps": 0, "sft_batch_size": 1,
    "sft_examples": 1, "sft_learning_rate": 0, "prompt_parents": 1, "prompt_elites": 1, "imitation_weight": 0,
    "imitation_cells": 1, "max_usd": 0, "max_coder_tokens": 0, "max_gpu_hours": 0, "free_prompts": 0,
}  # fmt: skip
ABOVE: dict[str, float] = {"temperature": 0, "collapse_factor": 1, "collapse_ceiling": 0}
AT_MOST: dict[str, float] = {"free_prompts": 1}
LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "luspo", "cispo", "sapo", "vespo")
"""TRL's 1.16."""
COLLAPSE_ACTIONS = ("warn", "raise_temperature", "switch_advantage", "stop")
"""Those of `collapse_action`, which is not imported here: it loads torch."""


def out_of_range(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong, as the end of a sentence that begins with the recipe's name."""
    for key, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and (wanted := _missed(key, value)):
            yield f"has {key}: {value}. Expected {wanted}."
    if values.get("max_steps") == 0:
        yield "has max_steps: 0. Expected at least 1."
    if (loss := values.get("loss_type", LOSSES[0])) not in LOSSES:
        yield f"has loss_type: {loss!r}. Expected one of {', '.join(LOSSES)}."
    if (action := values.get("collapse_action", "warn")) not in COLLAPSE_ACTIONS:
        yield f"has collapse_action: {action!r}. Expected one of {', '.join(COLLAPSE_ACTIONS)}."
    if action == "raise_temperature" and values.get("temperature", 1.0) >= values.get("collapse_ceiling", 1.5):
        yield f"has a temperature of {values.get('temperature', 1.0):g}, which is no lower than its collapse_ceiling."
    if action != "warn" and not values.get("diversity", True):
        yield f"has collapse_action: {action} and diversity: false, without which nothing is seen. Leave one out."
    if not all(isinstance(name, str) for name in values.get("reward_funcs", [])):
        yield f"has reward_funcs: {values['reward_funcs']!r}. Expected names, such as [execution]."
    if not all(isinstance(name, str) and value is not None for name, value in _options(values)):
        yield f"has advantage_options: {values['advantage_options']!r}. Expected names with values, such as {{k: 4}}."


def _missed(key: str, value: float) -> str | None:
    """What was expected of a number that is out of its range."""
    if not math.isfinite(value):
        return "a finite number"
    if value < AT_LEAST.get(key, -math.inf):
        return f"at least {AT_LEAST[key]:g}"
    if value <= ABOVE.get(key, -math.inf):
        return f"a number above {ABOVE[key]:g}"
    return f"at most {AT_MOST[key]:g}" if value > AT_MOST.get(key, math.inf) else None


def _options(values: Mapping[str, Any]) -> Any:
    return (values.get("advantage_options") or {}).items()
