"""How the reward functions of a batch find its records in stock TRL, which calls each function on its own.

This library's trainer hands them a `RewardContext`.  In stock TRL the function that runs experiments announces its
batch here, and the others find it by texts, step and place to run, on the same event loop.  So an experiment is run
and paid for once, however many functions read its record.  The functions of a batch must start together, as those of
TRL 1.16 do (`asyncio.gather`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ideator_rl.reward import BatchOutcomes
from ideator_rl.reward_buffer import REQUIRED_COLUMNS

from .decorator import Call

TURNS = 5
"""Turns of the event loop in which the functions of a batch start: one or two, and some to spare."""

_batches: dict[tuple[Any, ...], BatchOutcomes] = {}
"""Batches whose experiments run.  Only the event loop's thread reads and writes its own keys."""


@contextmanager
def announced(call: Call) -> Iterator[BatchOutcomes]:
    """The outcomes of a batch whose experiments are run inside; must be called on the event loop."""
    if call.context is not None and call.context.outcomes is not None:
        yield call.context.outcomes
        return
    key = _key(call)
    outcomes = _batches[key] = BatchOutcomes(len(call.texts))
    try:
        yield outcomes
    finally:
        if _batches.get(key) is outcomes:
            del _batches[key]
        outcomes.end()


async def outcomes_of(call: Call) -> BatchOutcomes | None:
    """The outcomes of this batch, if another of its reward functions runs the experiments; to be asked at its start."""
    if call.context is not None and call.context.outcomes is not None:
        return call.context.outcomes
    if any(name not in call.columns for name in REQUIRED_COLUMNS):
        return None
    key = _key(call)
    for _ in range(TURNS):
        if key in _batches:
            return _batches[key]
        await asyncio.sleep(0)
    return _batches.get(key)


def _key(call: Call) -> tuple[Any, ...]:
    where = tuple(tuple(call.columns.get(name, ())) for name in REQUIRED_COLUMNS)
    return id(asyncio.get_running_loop()), call.step, tuple(call.texts), where
