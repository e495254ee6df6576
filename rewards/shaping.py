"""Shaping: reward functions that look at words, beside the one that runs experiments.

`@shaping(options)` makes one of a function that says what texts are worth: a coroutine function as TRL calls it, and
its stream `as_completed` for this library's trainer.  It adds what all of them owe:

- a row whose experiment is lost gets None.  TRL sums what is there, so a number would be trained on alone.  In stock
  TRL the function therefore waits for the outcomes of its batch; the stream need not, as its trainer masks such rows.
- worth may depend on the outcome (`Worth.judged`); then each row is said when its outcome is known.
- options are columns of the dataset (`rewards.options`).

Where nothing runs experiments, all rows get what their words are worth.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, Experiment
from ideator_rl.reward import RowReward

from .execution import step_of, text_of
from .options import Options, read
from .under_way import Columns, UnderWay, under_way


@dataclass(frozen=True)
class Call:
    """One call of a reward function: N completions of one batch."""

    texts: list[str]
    apart: list[str]
    """What was thought apart from the text: `reasoning_content` or `thinking` of messages, which TRL parses where the
    tokenizer has a response template; else empty."""
    ids: list[list[int]] | None
    """Token ids of the completions, where they are given."""
    columns: Columns
    options: dict[str, Any]
    step: int | None
    """Names the batch in the journal; None outside of training."""
    tell: Callable[[str, float], None]
    """Logs a metric."""


@dataclass(frozen=True)
class Worth:
    """What N completions are worth."""

    words: list[float]
    """As far as words tell."""
    judged: Callable[[int, Experiment], float] | None = None
    """What a row is worth once its outcome, never a lost one, is known; None where that changes nothing."""


Valuing = Callable[[Call], Worth | Awaitable[Worth]]
"""Called when the batch begins, before any of its outcomes is known; what takes long is awaited."""


def shaping(options: Options, needs_experiments: bool = False) -> Callable[[Valuing], Any]:
    """Makes a reward function.

    Args:
        needs_experiments: refuse to work where no other function of the batch runs them.
    """

    def made(valuing: Valuing) -> Any:
        def call(completions: list[Any], ids: Any, state: Any, tell: Any, columns: Columns) -> Call:
            texts = [text_of(completion) for completion in completions]
            tell = tell or (lambda name, value: None)
            apart = [_thought_apart(completion) for completion in completions]
            return Call(texts, apart, ids, columns, read(options, columns), step_of(state), tell)

        async def reward(
            prompts: list[Any],
            completions: list[Any],
            completion_ids: list[list[int]] | None = None,
            *,
            trainer_state: Any = None,
            log_metric: Any = None,
            log_extra: Any = None,
            **columns: list[Any],
        ) -> list[float | None]:
            asked = call(completions, completion_ids, trainer_state, log_metric, columns)
            return await _rewards(valuing, asked, needs_experiments)

        async def as_completed(
            prompts: list[Any],
            completions: list[Any],
            completion_ids: list[list[int]] | None = None,
            *,
            trainer_state: Any = None,
            log_metric: Any = None,
            log_extra: Any = None,
            **columns: list[Any],
        ) -> AsyncIterator[RowReward]:
            asked = call(completions, completion_ids, trainer_state, log_metric, columns)
            async for each in _stream(valuing, asked, needs_experiments):
                yield each

        for each, name in ((reward, valuing.__name__), (as_completed, f"{valuing.__name__}.as_completed")):
            each.__name__, each.__qualname__ = name.rpartition(".")[2], name  # by which it is pickled
            each.__module__, each.__doc__ = valuing.__module__, valuing.__doc__
        reward.as_completed, reward.options = as_completed, options  # type: ignore[attr-defined]
        reward.needs_experiments = needs_experiments  # type: ignore[attr-defined]
        return reward

    return made


async def _rewards(valuing: Valuing, asked: Call, needs_experiments: bool) -> list[float | None]:
    worth, batch = await _begun(valuing, asked, needs_experiments)
    if batch is None:
        return [*worth.words]
    found = {row: record async for row, record in batch.as_completed()}
    return [_earned(worth, row, found[row]) for row in range(len(found))]


async def _stream(valuing: Valuing, asked: Call, needs_experiments: bool) -> AsyncIterator[RowReward]:
    worth, batch = await _begun(valuing, asked, needs_experiments)
    if batch is None or worth.judged is None:
        for row, value in enumerate(worth.words):
            yield RowReward(row, value)
        return
    async for row, record in batch.as_completed():
        yield RowReward(row, _earned(worth, row, record))


async def _begun(valuing: Valuing, asked: Call, needs_experiments: bool) -> tuple[Worth, UnderWay | None]:
    """What the words are worth, and the experiments under way; these are looked for first, before they can end."""
    made = valuing(asked)
    batch = await under_way(asked.texts, asked.columns, asked.step)
    if batch is None and needs_experiments:
        raise IdeatorError(
            f"{valuing.__name__} reads what the experiments of a batch did, and no other reward function of it runs "
            "them. Name one beside it, for example reward_funcs: [execution, simplicity]."
        )
    return (await made if inspect.isawaitable(made) else made), batch


def _thought_apart(completion: Any) -> str:
    if isinstance(completion, str):
        return ""
    return " ".join(message.get("reasoning_content") or message.get("thinking") or "" for message in completion)


def _earned(worth: Worth, row: int, record: Experiment | None) -> float | None:
    if record is None or record.status == LOST:
        return None
    return worth.judged(row, record) if worth.judged else worth.words[row]
