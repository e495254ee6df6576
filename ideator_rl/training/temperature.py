"""Another sampling temperature for a GRPO trainer that trains already: what samples and what the loss divides by.

TRL reads its temperature once, when it is made: its generation settings, its vLLM engine, and the fused head of the
model, whose log-probs are those of the temperature-scaled policy, each keep their own copy.  All are changed together,
so that log-probs stay those of the distribution that was sampled from.  To be called between batches, at every rank.

Batches that were sampled before keep the log-probs of their time, where the pipeline keeps any (staleness, quorum,
deadline): the ratio to them is then the true one between the policy at the new temperature and what it was sampled
from.  Their log-probs under the reference model stay those of the old temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CellType
from typing import Any

from trl.trainer import utils

from ideator_rl.errors import IdeatorError

NAME = "temperature"


def set_temperature(trainer: Any, temperature: float) -> None:
    """
    Raises:
        IdeatorError: this TRL keeps its temperature where it cannot be changed.
    """
    heads = fused_heads(trainer)
    trainer.temperature = temperature
    if hasattr(trainer, "generation_config"):
        trainer.generation_config.temperature = temperature
        trainer.generation_kwargs[NAME] = temperature
    if getattr(trainer, "vllm_generation", None) is not None:
        trainer.vllm_generation.temperature = temperature
    for cell in heads:
        cell.cell_contents = temperature


def fused_heads(trainer: Any) -> list[CellType]:
    """Where the fused heads of the policy and of the reference model keep their temperature; none before TRL had them.

    Raises:
        IdeatorError: there are such heads, and their temperature is not found.
    """
    if not hasattr(utils, "add_fused_lm_head"):
        return []  # log-probs are computed with `trainer.temperature`
    found = []
    for model in (trainer.model, getattr(trainer, "ref_model", None)):
        if model is None:
            continue
        cells = [cell for forward in _forwards(model) for cell in _cells(forward)]
        if not cells:
            raise IdeatorError(
                "This version of TRL keeps the temperature of its log-probs where it cannot be changed. Use another "
                "collapse_action than raise_temperature, or TRL 1.16."
            )
        found.append(cells[0])
    return found


def _forwards(model: Any) -> Iterator[Callable[..., Any]]:
    """The forward of the model below its adapters, as it is called, and as it was before accelerate wrapped it."""
    while hasattr(model, "module"):
        model = model.module
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    for name in ("forward", "_original_forward"):
        if (forward := getattr(model, name, None)) is not None:
            yield forward


def _cells(forward: Callable[..., Any] | None) -> Iterator[CellType]:
    while forward is not None:
        function = getattr(forward, "__func__", forward)
        code, closure = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
        if code is not None:
            yield from (cell for name, cell in zip(code.co_freevars, closure, strict=True) if name == NAME)
        forward = getattr(forward, "__wrapped__", None)
