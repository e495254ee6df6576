"""What `IdeatorGRPOTrainer` refuses: evaluation during training, and reward models."""

from __future__ import annotations

from typing import Any

import torch

from ideator_rl.errors import IdeatorError

NO_EVALUATION = (
    "Evaluation during training is not supported: its experiments would be mixed with those of training. Leave "
    "eval_strategy out, and measure checkpoints apart."
)


def refuse_evaluation(args: Any) -> None:
    if str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no":
        raise IdeatorError(NO_EVALUATION)


def refuse_models(functions: list[Any]) -> None:
    if any(isinstance(function, torch.nn.Module) for function in functions):
        raise IdeatorError("A reward model was given as a reward function. Wrap it in a function that scores texts.")
