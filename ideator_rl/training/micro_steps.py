"""Micro-steps: the forward passes of one process, several of which make an optimizer step."""

from __future__ import annotations

from typing import Any

from transformers import Trainer


def micro_steps(trainer: Trainer, steps: int) -> int:
    """The micro-steps of a training's first optimizer steps; to be called while it trains.

    Transformers ends each epoch with a shorter step where its micro-steps are no whole number of steps.
    """
    accumulated = trainer.args.gradient_accumulation_steps
    loader: Any = trainer.callback_handler.train_dataloader
    per_epoch = len(loader)
    epochs, others = divmod(steps, -(-per_epoch // accumulated))
    return epochs * per_epoch + others * accumulated
