"""Shaping: reward functions that look at texts, and run no experiments themselves.

`@shaping(options)` makes a reward function of one that returns what texts are worth.  It adds:

- None for a row whose experiment is lost.  In stock TRL the function therefore waits for the outcomes of its batch;
  this library's trainer masks such rows itself, so that the stream need not wait.
- worth that depends on the outcome (`Worth.by_outcome`); each row is then yielded when its outcome is known.
- options as columns of the dataset (`options`).

Where no function of the batch runs experiments, every row gets `Worth.by_text`.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import InitVar, dataclass, field
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, Experiment
from ideator_rl.reward import RowReward

from .batches import outcomes_of
from .decorator import Call, reward_function
from .options import Options


@dataclass(frozen=True)
class Worth:
    """What N completions are worth."""

    by_text: list[float] = field(default_factory=list)
    """Computed from the texts alone."""
    by_outcome: Callable[[int, Experiment], float] | None = None
    """What a row is worth once its outcome is known, which is never a lost one; None where that changes nothing."""
    words: InitVar[list[float] | None] = None
    judged: InitVar[Callable[[int, Experiment], float] | None] = None
    """The names of 0.1.0."""

    def __post_init__(self, words: list[float] | None, judged: Callable[[int, Experiment], float] | None) -> None:
        for old, new, value in (("words", "by_text", words), ("judged", "by_outcome", judged)):
            if value is not None:
                warnings.warn(f"Worth({old}=…) is now Worth({new}=…).", DeprecationWarning, stacklevel=3)
                object.__setattr__(self, new, value)


Valuation = Callable[[Call], Worth | Awaitable[Worth]]
"""Called when the batch begins, before any of its outcomes is known; slow work must be awaited."""


def shaping(options: Options, needs_experiments: bool = False) -> Callable[[Valuation], Any]:
    """Make a reward function of a valuation.

    Args:
        needs_experiments: refuse to work where no other function of the batch runs them.
    """

    def decorate(valuation: Valuation) -> Any:
        @functools.wraps(valuation)
        async def stream(call: Call) -> AsyncIterator[RowReward]:
            # The past is read before the first turn of the event loop, in which records could arrive.
            worth = valuation(call)
            outcomes = await outcomes_of(call)
            if outcomes is None and needs_experiments:
                raise IdeatorError(
                    f"{valuation.__name__} reads what the experiments of a batch did, and no other reward function of "
                    "it runs them. Add one, for example reward_funcs: [execution, simplicity]."
                )
            worth = await worth if inspect.isawaitable(worth) else worth
            if outcomes is None or (worth.by_outcome is None and not call.as_list):
                for row, value in enumerate(worth.by_text):
                    yield RowReward(row, value)
                return
            async for row, record in outcomes.as_completed():
                yield RowReward(row, _reward(worth, row, record))

        return reward_function(options, needs_experiments=needs_experiments)(stream)

    return decorate


def _reward(worth: Worth, row: int, record: Experiment | None) -> float | None:
    if record is None or record.status == LOST:
        return None
    return worth.by_outcome(row, record) if worth.by_outcome else worth.by_text[row]
