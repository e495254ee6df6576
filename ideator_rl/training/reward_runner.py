"""Reward functions under way: called once for a whole batch, in the background, with rewards as they become known.

Runs in the first process only, so that every function sees whole groups.  A function is called as TRL calls it (1.16,
`GRPOTrainer._calculate_rewards`): prompts, completions, completion_ids, the dataset's columns, trainer_state,
log_metric, log_extra (taken and not shown).  One that has an attribute `as_completed` (an async generator with the same
arguments that yields a `RowReward` a completion) is read row by row; any other gives all its rows at once.  All run on
one event loop of their own that outlives the step, and those of a batch start together, in their order; what a batch no
longer waits for goes on there.

A row whose experiment was lost is masked, whatever other functions gave it: TRL sums what is there, and would train it
on its bonus for form or length alone.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from typing import Any, TypeVar

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST
from ideator_rl.reward import RowReward, traits_of
from ideator_rl.reward_buffer import BatchOutcomes, BufferConfig, RewardBuffer, RewardContext
from ideator_rl.training.batch_assembly import Outcome
from ideator_rl.training.rollouts import Batch

T = TypeVar("T")

log = logging.getLogger(__name__)


class RewardError(IdeatorError):
    """A reward function broke its contract."""


class Pending:
    """The rewards of one batch, as far as they are known.  Written by the loop's thread, read by the trainer's.

    Args:
        measuring: the functions that run experiments: where one of them gives None, a row is masked.
    """

    def __init__(self, rows: int, functions: int, measuring: Collection[int] = ()):
        self.submitted = time.monotonic()
        self.metrics: defaultdict[str, list[float]] = defaultdict(list)
        self.error: BaseException | None = None
        self._rows = [Outcome([None] * functions) for _ in range(rows)]
        self._awaited = [set(range(functions)) for _ in range(rows)]
        self._measuring, self._masked = measuring, set[int]()
        self._changed = threading.Condition()
        self._watched = True

    def set(self, function: int, said: RowReward) -> None:
        """
        Raises:
            RewardError: the reward is infinite or no number, or its row is none of the batch or was spoken of before.
        """
        reward = _number(said.reward)
        with self._changed:
            if not 0 <= said.row < len(self._rows) or function not in self._awaited[said.row]:
                raise RewardError(
                    f"A reward function spoke of row {said.row} twice, or of one that the batch of {len(self._rows)} "
                    "does not have. It must say one reward a completion."
                )
            row = self._rows[said.row]
            row.rewards[function] = reward
            row.status, row.cell = said.status or row.status, said.cell or row.cell
            if said.status or function in self._measuring:
                row.measured = reward
            if said.status == LOST or (function in self._measuring and reward is None):
                self._masked.add(said.row)
            self._awaited[said.row].discard(function)
            if said.row in self._masked and not self._awaited[said.row]:
                row.rewards = [None] * len(row.rewards)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()
            self._log_unseen()

    def unwatch(self) -> None:
        """Nobody asks any more: what failed unseen, or fails from now on, is logged."""
        with self._changed:
            self._watched = False
            self._log_unseen()

    def _log_unseen(self) -> None:
        if self.error is not None and not self._watched:
            log.error("A reward function failed after its batch was closed: %s", self.error, exc_info=self.error)

    def known(self) -> list[Outcome | None]:
        """Of every row: its outcome once all functions have spoken, else None.

        Raises:
            BaseException: what a reward function raised.
        """
        with self._changed:
            if self.error is not None:
                raise self.error
            return [None if awaited else row for row, awaited in zip(self._rows, self._awaited, strict=True)]

    def wait(self, seconds: float) -> None:
        """Until something changes, or time is up."""
        with self._changed:
            self._changed.wait(seconds)


class Rewarding:
    """The reward functions of a run and the loop they live on.

    Args:
        buffer: runs the experiments; None where the columns of each batch say where to run.
        columns: the run's values for every completion.  They replace the configuration and options in a journaled
            batch: the run may have been moved, or have another bucket, cap or option since.
    """

    def __init__(
        self,
        functions: list[Callable[..., Any]],
        names: list[str],
        buffer: RewardBuffer | None = None,
        columns: Mapping[str, Any] | None = None,
    ):
        self.functions, self.names = functions, names
        self._buffer, self._columns = buffer, columns
        self._traits = [traits_of(function) for function in functions]
        self._measuring = {index for index, traits in enumerate(self._traits) if traits.runs_experiments}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch, state: Any) -> Pending:
        """Start every function on a batch.

        Args:
            state: the Trainer's; functions get it with the batch's index as `global_step`, which names the batch in
                records, also when it is submitted again by a resumed run.
        """
        pending = Pending(len(batch.completions), len(self.functions), self._measuring)
        given: dict[str, Any] = {
            "prompts": batch.prompts(),
            "completions": batch.completions,
            "completion_ids": batch.ids,
            **self._columns_of(batch),
            "trainer_state": replace(state, global_step=batch.index),
            "log_metric": lambda name, value: pending.metrics[name].append(float(value)),
            "log_extra": _log_extra,
        }
        self.soon(self._start, given, pending)
        return pending

    def _columns_of(self, batch: Batch) -> dict[str, list[Any]]:
        columns = batch.columns()
        if self._columns is None:
            return columns
        replaced = {field.name for field in fields(BufferConfig)}
        replaced.update(name for traits in self._traits for name in traits.options or ())
        kept = {name: values for name, values in columns.items() if name not in replaced}
        return kept | {name: [value] * len(batch.completions) for name, value in self._columns.items()}

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def soon(self, function: Callable[..., Any], *given: Any) -> None:
        """Call a function on the loop and do not wait."""
        self._loop.call_soon_threadsafe(function, *given)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _start(self, given: dict[str, Any], pending: Pending) -> None:
        """Start all functions in one turn of the loop, before any of them has an outcome."""
        context = self._context(len(given["completions"]))
        for index in range(len(self.functions)):
            task = self._loop.create_task(self._guarded(index, given, pending, context))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _context(self, rows: int) -> RewardContext | None:
        if self._buffer is None:
            return None
        enters = any(traits.runs_experiments and traits.takes_context for traits in self._traits)
        return RewardContext(self._buffer, BatchOutcomes(rows) if enters else None)

    async def _guarded(
        self, index: int, given: dict[str, Any], pending: Pending, context: RewardContext | None
    ) -> None:
        traits = self._traits[index]
        try:
            if traits.takes_context:
                given = given | {"reward_context": context}
            await self._read(index, given, pending)
        except BaseException as error:
            pending.fail(error)
        finally:
            # If the function that runs experiments has failed, the others must not wait for its records.
            if context is not None and context.outcomes is not None and traits.runs_experiments:
                context.outcomes.end()

    async def _read(self, index: int, given: dict[str, Any], pending: Pending) -> None:
        function, rows = self.functions[index], len(given["completions"])
        if (stream := self._traits[index].as_completed) is not None:
            said = 0
            async for each in stream(**given):
                pending.set(index, each)
                said += 1
        else:
            values = await _called(function, given)
            said = len(values)
            for row, value in enumerate(values[:rows]):
                pending.set(index, RowReward(row, value))
        if said != rows:
            raise RewardError(
                f"The reward function {self.names[index]} gave {said} rewards for {rows} completions. It must give one "
                "for each, or None where it has nothing to say."
            )


async def _called(function: Callable[..., Any], given: dict[str, Any]) -> list[float | None]:
    """The values of a function, which may be async or not; one that is not must not hold up the loop."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        values: list[float | None] = await function(**given)
        return values
    made = await _in_a_thread(function, given)
    return list(await made if isinstance(made, Awaitable) else made)


async def _in_a_thread(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """In a thread of its own, not one of the loop's few: those write what became known, and end before the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def work() -> None:
        try:
            made, error = function(**given), None
        except BaseException as raised:
            made, error = None, raised
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            loop.call_soon_threadsafe(_settle, done, made, error)

    threading.Thread(target=work, name="reward", daemon=True).start()
    return await done


def _settle(done: asyncio.Future[Any], made: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if isinstance(error, StopIteration):  # which a future does not take
        error = RuntimeError(f"the reward function raised {error!r}")
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(made)


def _number(reward: Any) -> float | None:
    """A reward as it can be journaled; None for NaN, which says as little.

    Raises:
        RewardError: it is infinite, or no number.
    """
    if reward is None:
        return None
    try:
        value = float(reward)
    except (TypeError, ValueError) as error:
        raise RewardError(f"A reward function gave {reward!r}. A reward is a number, or None.") from error
    if math.isinf(value):
        raise RewardError(f"A reward function gave {value}. A reward is a finite number, or None.")
    return None if math.isnan(value) else value


RECORDED = {"status", "experiment", "execution_reward"}
"""Columns of our own functions: the records have them."""


@cache
def _say_extra(column: str) -> None:
    log.warning("log_extra(%r, …) is not shown: rows of several batches may stand in one table.", column)


def _log_extra(column: str, values: Any) -> None:
    if column not in RECORDED:
        _say_extra(column)
