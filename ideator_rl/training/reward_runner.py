"""Runs the reward functions of a batch in the background, and collects rewards as they become known.

Rank 0 only, so that every function is given whole groups.  A function is called as TRL calls it (1.16,
`GRPOTrainer._calculate_rewards`): prompts, completions, completion_ids, the dataset's columns, trainer_state,
log_metric, and log_extra, whose tables are not shown.  A function with an attribute `as_completed` (an async generator
with the same arguments that yields one `RowReward` per completion) is read row by row; any other returns all its
rewards at once.

All functions run on one event loop that outlives the training step.  Those of a batch start together, in their order.
When a batch is closed its functions run on.

A row whose experiment was lost is masked, whatever other functions return for it: TRL sums the rewards that are there,
and would train the row on a bonus for form or length alone.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from typing import Any, TypeVar

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST
from ideator_rl.reward import BatchOutcomes, RowReward, traits_of
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, RewardContext
from ideator_rl.training.batch_closing import Outcome
from ideator_rl.training.rollouts import Batch
from ideator_rl.training.screening import Choice, RowChooser

T = TypeVar("T")

log = logging.getLogger(__name__)
MAX_REWARD = 1e30
"""The largest reward and, with a minus, the smallest: sums over rows and functions, with weights, stay within float32,
which ends at 3.4e38."""


class RewardError(IdeatorError):
    """A reward function broke its contract."""


class PendingRewards:
    """The rewards of one batch, as far as they are known.

    The event loop's thread writes rewards, metrics and errors.  The trainer's thread reads them, and calls `unwatch`
    when it has closed the batch.  `_changed` guards all fields but `metrics`, which a function may write at any time.

    Args:
        measuring: indices of the functions that run experiments; a row for which one of them returns None is masked.
        choice: rows that the functions are given; all others are screened out.  And what the batch is trained on.
    """

    def __init__(self, rows: int, functions: int, measuring: Collection[int] = (), choice: Choice | None = None):
        choice = choice or Choice()
        self.is_dry = choice.is_dry
        self._forecasts: Sequence[float | None] = choice.forecasts or [None] * rows
        self.submitted = time.monotonic()
        self.metrics: defaultdict[str, list[float]] = defaultdict(list)
        self.error: BaseException | None = None
        self._chosen = list(range(rows) if choice.rows is None else choice.rows)
        is_chosen = set(self._chosen)
        self._outcomes = [
            Outcome([None] * functions, is_screened_out=row not in is_chosen, forecast=forecast)
            for row, forecast in enumerate(self._forecasts)
        ]
        # Functions that have not answered for a row.
        self._awaited = [set(range(functions if row in is_chosen else 0)) for row in range(rows)]
        self._measuring, self._masked = measuring, set[int]()
        self._changed = threading.Condition()
        self._watched = True

    def set(self, function: int, answer: RowReward) -> None:
        """Enter a function's reward for a row.

        Raises:
            RewardError: the row does not exist or has a reward already.
        """
        with self._changed:
            row = self._chosen[answer.row] if 0 <= answer.row < len(self._chosen) else None
            if row is None or function not in self._awaited[row]:
                raise RewardError(
                    f"A reward function returned row {answer.row} twice, or the batch of {len(self._chosen)} "
                    "completions has no such row. Return exactly one reward per completion."
                )
            outcome = self._outcomes[row]
            reward = outcome.rewards[function] = answer.reward
            # A function that runs no experiments gives neither status nor cell, and must not erase them.
            outcome.status, outcome.cell = answer.status or outcome.status, answer.cell or outcome.cell
            if answer.status or function in self._measuring:
                outcome.execution_reward = reward
            if answer.status == LOST or (function in self._measuring and reward is None):
                self._masked.add(row)
            self._awaited[row].discard(function)
            # Not before the last answer, which would write its reward into the masked row.
            if row in self._masked and not self._awaited[row]:
                outcome.rewards = [None] * len(outcome.rewards)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Enter what a function raised; the first error counts."""
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()
            self._log_unread_error()

    def unwatch(self) -> None:
        """The batch is closed: an error that `outcomes` did not raise, or a later one, is logged."""
        with self._changed:
            self._watched = False
            self._log_unread_error()

    def _log_unread_error(self) -> None:
        if self.error is not None and not self._watched:
            log.error("A reward function failed after its batch was closed: %s", self.error, exc_info=self.error)

    def outcomes(self) -> list[Outcome | None]:
        """The outcome of every row; None while a function has not answered for it.

        Raises:
            BaseException: what a reward function raised.
        """
        with self._changed:
            if self.error is not None:
                raise self.error
            return [None if awaited else row for row, awaited in zip(self._outcomes, self._awaited, strict=True)]

    def with_forecasts(self, outcomes: Sequence[Outcome | None]) -> list[Outcome | None]:
        """The outcomes, where rows that are still awaited have their forecasts, if the batch is trained on such."""
        return [
            Outcome([None] * len(first.rewards), forecast=forecast)
            if outcome is None and forecast is not None
            else outcome
            for outcome, forecast, first in zip(outcomes, self._forecasts, self._outcomes, strict=True)
        ]

    def wait(self, seconds: float) -> None:
        """Wait until something changes, at most so long."""
        with self._changed:
            self._changed.wait(seconds)


class RewardRunner:
    """The reward functions of a run, and the thread with their event loop.

    Args:
        buffer: runs the experiments; None where the columns of each batch say where to run.
        chooser: chooses the rows that get rewards; None for all.
        columns: the run's values for every completion.  They replace the configuration and the options in a stored
            batch: a resumed run may have been moved, or have another bucket, cap or option.
    """

    def __init__(
        self,
        functions: list[Callable[..., Any]],
        names: list[str],
        buffer: RewardBuffer | None = None,
        columns: Mapping[str, Any] | None = None,
        chooser: RowChooser | None = None,
    ):
        self.functions, self.names = functions, names
        self._buffer, self._columns, self._chooser = buffer, columns, chooser
        self._traits = [traits_of(function) for function in functions]
        self._measuring = {index for index, traits in enumerate(self._traits) if traits.runs_experiments}
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch, state: Any) -> PendingRewards:
        """Start every function on a batch.

        Args:
            state: the Trainer's.  Functions are given it with the batch's index as `global_step`, which names the
                batch in records, also when a resumed run submits it again.
        """
        # Created here, on the trainer's thread, so that the caller can wait before the loop has started anything.
        count = len(batch.completions)
        try:
            choice = self._chooser.choose(batch, self.run) if self._chooser is not None else Choice()
        except Exception as error:
            # Raised where the batch is closed, so that every rank ends with it.
            pending = PendingRewards(count, len(self.functions))
            pending.fail(error)
            return pending
        pending, rows = PendingRewards(count, len(self.functions), self._measuring, choice), choice.rows
        # Nothing was worth a run: the functions have no rows, and are not called.
        if rows == []:
            return pending
        lists = {
            "prompts": batch.prompts(),
            "completions": batch.completions,
            "completion_ids": batch.ids,
            **self._columns_of(batch),
        }
        if rows is not None:
            lists = {name: [values[row] for row in rows] for name, values in lists.items()}
        arguments: dict[str, Any] = {
            **lists,
            "trainer_state": replace(state, global_step=batch.index),
            "log_metric": lambda name, value: pending.metrics[name].append(float(value)),
            "log_extra": _ignore_table,
        }
        self.call_soon(self._start, arguments, pending)
        return pending

    def _columns_of(self, batch: Batch) -> dict[str, list[Any]]:
        # `parents` and columns of the user's own dataset stay as they were stored.
        columns = batch.columns()
        if self._columns is None:
            return columns
        # 0.1.0 stored these in the batch; a newer run passes its own values.
        replaced = {field.name for field in fields(BufferConfig)}
        replaced.update(name for traits in self._traits for name in traits.options or ())
        own = {name: values for name, values in columns.items() if name not in replaced}
        return own | {name: [value] * len(batch.completions) for name, value in self._columns.items()}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def call_soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function on the loop, without waiting."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _start(self, arguments: dict[str, Any], pending: PendingRewards) -> None:
        """Start all functions in one turn of the loop, before any of them has an outcome."""
        context = self._context(len(arguments["completions"]))
        for index in range(len(self.functions)):
            task = self._loop.create_task(self._run_function(index, arguments, pending, context))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _context(self, rows: int) -> RewardContext | None:
        if self._buffer is None:
            return None
        # Without a function that enters outcomes, one that waits for them would wait for ever.
        enters = any(traits.runs_experiments and traits.takes_context for traits in self._traits)
        return RewardContext(self._buffer, BatchOutcomes(rows) if enters else None)

    async def _run_function(
        self, index: int, arguments: dict[str, Any], pending: PendingRewards, context: RewardContext | None
    ) -> None:
        traits = self._traits[index]
        try:
            if traits.takes_context:
                arguments = arguments | {"reward_context": context}
            await self._read_rewards(index, arguments, pending)
        except BaseException as error:  # a cancelled task too must not leave the trainer waiting
            pending.fail(error)
        finally:
            # If the function that runs experiments has failed, the others must not wait for its records.
            if context is not None and context.outcomes is not None and traits.runs_experiments:
                context.outcomes.end()

    async def _read_rewards(self, index: int, arguments: dict[str, Any], pending: PendingRewards) -> None:
        function, rows = self.functions[index], len(arguments["completions"])

        def enter(answer: RowReward) -> None:
            reward = _parse_reward(answer.reward, self.names[index], answer.row)
            pending.set(index, replace(answer, reward=reward))

        if (stream := self._traits[index].as_completed) is not None:
            count = 0
            async for answer in stream(**arguments):
                enter(answer)
                count += 1
        else:
            # Its rewards come all at once, so a quorum of the batch is all of it.
            values = await _call(function, arguments)
            count = len(values)
            for row, value in enumerate(values[:rows]):
                enter(RowReward(row, value))
        if count != rows:
            raise RewardError(
                f"The reward function {self.names[index]} returned {count} rewards for {rows} completions. It must "
                "return one for each, or None where it has none."
            )


async def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> list[float | None]:
    """All rewards of a function, async or not; one that is not async must not block the loop."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        rewards: list[float | None] = await function(**arguments)
        return rewards
    result = await _call_in_thread(function, arguments)
    return list(await result if isinstance(result, Awaitable) else result)


async def _call_in_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a function in a daemon thread of its own.

    The loop's executor has few threads, which store outcomes and must end before the process does.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def work() -> None:
        try:
            result, error = function(**arguments), None
        except BaseException as raised:
            result, error = None, raised
        with suppress(RuntimeError):  # the loop was closed, and with it every wait for the result
            loop.call_soon_threadsafe(_settle, future, result, error)

    threading.Thread(target=work, name="reward", daemon=True).start()
    return await future


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if isinstance(error, StopIteration):  # a future refuses it
        error = RuntimeError(f"the reward function raised {error!r}")
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _parse_reward(reward: Any, function: str, row: int) -> float | None:
    """A reward as JSON can store it; None for None and for NaN.

    Raises:
        RewardError: it is above `MAX_REWARD` or below −`MAX_REWARD`, or not a number.
    """
    if reward is None:
        return None
    try:
        value = float(reward)
    except (TypeError, ValueError, OverflowError) as error:
        message = f"The reward function {function} returned {str(reward)[:60]!r} for row {row}. "
        raise RewardError(message + "A reward is a number, or None.") from error
    # Refused before the batch is closed: a stored decision that cannot be trained would end every resumed run.
    if abs(value) > MAX_REWARD:
        raise RewardError(
            f"The reward function {function} returned {value} for row {row}. A reward is a finite number from "
            f"-{MAX_REWARD:g} to {MAX_REWARD:g}, or None."
        )
    return None if math.isnan(value) else value


RECORDED = {"status", "experiment", "execution_reward"}
"""Columns of our own functions, which are in the records."""


@cache
def _warn_table(column: str) -> None:
    log.warning("log_extra(%r, …) is not shown: a table may hold rows of several batches.", column)


def _ignore_table(column: str, values: Any) -> None:
    if column not in RECORDED:
        _warn_table(column)
