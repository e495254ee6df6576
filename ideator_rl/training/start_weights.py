"""The weights that a run started from, and steps back towards them.

    θ ← 0.8 θ + 0.2 θ₀

A policy that learns from forecasts may leave the region where they hold: it repeats itself, and few of its ideas are
new.  Then it goes a fifth of the way back.  The start is in main memory: one copy of what is trained, adapters alone
where there are such.

Where each process holds a part of the weights (FSDP, DeepSpeed), no step back is made: the optimizer has copies of its
own there, in other shapes.
"""

from __future__ import annotations

from typing import Any

import torch

SHARE_BACK = 0.2


class StartWeights:
    """A copy of the parameters of `model` that are trained, as they are now."""

    def __init__(self, model: torch.nn.Module):
        self._start = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def step_back(self, model: torch.nn.Module, share: float = SHARE_BACK) -> None:
        """Move the parameters of `model` by `share` of the way to the start."""
        for name, parameter in model.named_parameters():
            if name in self._start:
                parameter.lerp_(self._start[name].to(parameter.device), share)


def start_weights(trainer: Any) -> StartWeights | None:
    """The weights of a trainer that has not trained yet; None where they are in parts."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return None
    return StartWeights(trainer.accelerator.unwrap_model(trainer.model))
