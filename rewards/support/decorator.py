"""One decorator for reward functions: write the stream, get the list form too.

    @reward_function(OPTIONS, runs_experiments=True)
    async def my_reward(call):
        async for row, record, buffer in experiments(call):
            yield RowReward(row, record.reward)

`my_reward` is then a plain coroutine function for stock TRL, which awaits one list, and `my_reward.as_completed` the
stream that this library's trainer reads row by row.  Both take the arguments of `arguments`, and both can be pickled.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.reward import RowReward, text_of
from ideator_rl.reward_buffer import RewardContext

from .options import Options, read

Columns = dict[str, list[Any]]
"""The dataset's columns, one value a completion."""
OLD_FIELDS = {"apart": "reasoning", "ids": "completion_ids", "tell": "log"}
"""Fields of `Call` in 0.1.0."""


@dataclass(frozen=True)
class Call:
    """One call of a reward function: N completions of one batch."""

    texts: list[str]
    reasoning: list[str]
    """`reasoning_content` or `thinking` of messages, which TRL parses where the tokenizer has a response template; else
    empty."""
    completion_ids: list[list[int]] | None
    """Token ids of the completions, or None where the trainer gives none."""
    columns: Columns
    options: dict[str, Any]
    step: int | None
    """Names the batch in the journal; None outside of training."""
    log: Callable[[str, float], None]
    """Logs a metric."""
    log_extra: Callable[[str, list[Any]], None]
    """Adds a column to the trainer's table of completions."""
    prompts: list[Any] = field(default_factory=list)
    """What each completion answers, as text or messages; empty where it is not known."""
    context: RewardContext | None = None
    """The buffer and the outcomes of the batch, in this library's trainer; None in stock TRL."""
    as_list: bool = True
    """The caller awaits one list, as stock TRL does.  A row whose experiment is lost must then be None: TRL sums the
    numbers of all functions, and would train on the bonus alone."""

    def __getattr__(self, name: str) -> Any:
        if name not in OLD_FIELDS:
            raise AttributeError(name)
        warnings.warn(f"Call.{name} is now Call.{OLD_FIELDS[name]}.", DeprecationWarning, stacklevel=2)
        return getattr(self, OLD_FIELDS[name])


Stream = Callable[[Call], AsyncIterator[RowReward]]


def arguments(
    prompts: list[Any],
    completions: list[Any],
    completion_ids: list[list[int]] | None = None,
    *,
    trainer_state: Any = None,
    log_metric: Any = None,
    log_extra: Any = None,
    reward_context: RewardContext | None = None,
    **columns: list[Any],
) -> dict[str, Any]:
    """The arguments that TRL 1.16 gives a reward function, and `reward_context`, which only this library's trainer
    gives; as the fields of a `Call`."""
    return {
        "prompts": prompts,
        "texts": [text_of(completion) for completion in completions],
        "reasoning": [_reasoning_of(completion) for completion in completions],
        "completion_ids": completion_ids,
        "columns": columns,
        "step": None if trainer_state is None else trainer_state.global_step,
        "log": log_metric or _ignore,
        "log_extra": log_extra or _ignore,
        "context": reward_context,
    }


SIGNATURE = inspect.signature(arguments)


def reward_function(
    options: Options | None = None, *, runs_experiments: bool = False, needs_experiments: bool = False
) -> Callable[[Stream], Any]:
    """Make a reward function of a stream that yields one `RowReward` a completion.

    Args:
        options: what it reads from columns, by name.
        runs_experiments: it runs the idea of every completion.
        needs_experiments: it needs another function of the batch that does.
    """
    options = options or {}

    def decorate(stream: Stream) -> Any:
        def call(as_list: bool, *args: Any, **kwargs: Any) -> Call:
            values = arguments(*args, **kwargs)
            return Call(**values, options=read(options, values["columns"]), as_list=as_list)

        async def reward(*args: Any, **kwargs: Any) -> list[float | None]:
            batch = call(True, *args, **kwargs)
            rewards = {row_reward.row: row_reward.reward async for row_reward in stream(batch)}
            rows = range(len(batch.texts))
            # A missing row must not become None by itself, which would silently leave it out of training.
            if rewards.keys() != set(rows):
                raise IdeatorError(
                    f"{stream.__name__} returned rewards for {len(rewards)} rows of {len(rows)} completions. Return "
                    "exactly one reward per completion, or None where there is none."
                )
            return [rewards[row] for row in rows]

        async def as_completed(*args: Any, **kwargs: Any) -> AsyncIterator[RowReward]:
            async for row_reward in stream(call(False, *args, **kwargs)):
                yield row_reward

        functions: tuple[tuple[Any, str], ...] = ((reward, ""), (as_completed, ".as_completed"))
        for function, suffix in functions:
            # The names by which pickle finds the function again.
            function.__qualname__ = stream.__name__ + suffix
            function.__name__ = function.__qualname__.rpartition(".")[2]
            function.__module__, function.__doc__ = stream.__module__, stream.__doc__
            function.__signature__ = SIGNATURE
        decorated: Any = reward
        # What `ideator_rl.reward.traits_of` reads.
        decorated.as_completed, decorated.options, decorated.takes_context = as_completed, options, True
        decorated.runs_experiments, decorated.needs_experiments = runs_experiments, needs_experiments
        return decorated

    return decorate


def _reasoning_of(completion: Any) -> str:
    if isinstance(completion, str):
        return ""
    return " ".join(message.get("reasoning_content") or message.get("thinking") or "" for message in completion)


def _ignore(name: str, value: Any) -> None:
    """In the place of a logger that the trainer does not give."""
