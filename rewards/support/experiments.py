"""Run the ideas of a batch, and log and check their records: the common part of rewards that run experiments.

In this library's trainer the experiments run in the buffer of the `RewardContext`.  In stock TRL the dataset's columns
name a configuration, and equal configurations share one open buffer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from ideator_rl.archive.bases import COLUMN, chosen_base, read_options
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import BUDGET, LOST, SUCCEEDED, Experiment
from ideator_rl.patch.cells import cell_of
from ideator_rl.reward import RowReward, text_of
from ideator_rl.reward_buffer import REQUIRED_COLUMNS, BufferConfig, RewardBuffer, open_buffer
from ideator_rl.storage.idea_context import IdeaContext

from .batches import announced
from .decorator import Call, Columns, arguments


class ExecutedRow(NamedTuple):
    row: int
    record: Experiment
    buffer: RewardBuffer


async def experiments(call: Call) -> AsyncIterator[ExecutedRow]:
    """Run the ideas of a batch; yields each row as soon as its record is known.

    Raises:
        RunStopped: losses in a row, or permanent faults of the coder's LLM: the trainer must not go on.  Experiments
            that run are still entered in the buffer.
        IdeatorError: a needed column is missing; the environment, bucket or sandbox is not usable.
    """
    rows_by_buffer = buffers_of(call)
    with announced(call) as outcomes:
        async for executed in _merged([_run(call, buffer, rows) for buffer, rows in rows_by_buffer.items()]):
            # Before the row is rewarded: a batch that closed with it would be trained without what was lost.
            executed.buffer.executor.losses.refuse()
            outcomes.enter(executed.row, executed.record)
            yield executed


async def outcomes(completions: list[Any], columns: Columns, trainer_state: Any = None) -> AsyncIterator[ExecutedRow]:
    """The same for reward functions that were written for 0.1.0, without the decorator."""
    fields: dict[str, Any] = arguments([], completions, trainer_state=trainer_state, reward_context=None, **columns)
    call = Call(**fields, options={})
    async for executed in experiments(call):
        yield executed


def buffers_of(call: Call) -> dict[RewardBuffer, list[int]]:
    """The rows of a batch by the buffer that runs them.

    Raises:
        IdeatorError: a needed column is missing; the environment, bucket or sandbox is not usable.
    """
    if call.context is not None:
        return {call.context.buffer: list(range(len(call.texts)))}
    if missing := [name for name in REQUIRED_COLUMNS if name not in call.columns]:
        raise IdeatorError(
            f"The dataset has no column {', '.join(missing)}; execution_reward needs {', '.join(REQUIRED_COLUMNS)} in "
            "every row. `ideator-rl env show NAME --dataset FILE` writes such a dataset."
        )
    rows_by_config: dict[BufferConfig, list[int]] = {}
    for row in range(len(call.texts)):
        config = BufferConfig.of_row({name: values[row] for name, values in call.columns.items()})
        rows_by_config.setdefault(config, []).append(row)
    return {open_buffer(config): rows for config, rows in rows_by_config.items()}


async def _run(call: Call, buffer: RewardBuffer, rows: list[int]) -> AsyncIterator[ExecutedRow]:
    parents_by_row, texts = call.columns.get("parents"), [call.texts[row] for row in rows]
    async for index, record in buffer.as_completed(texts, step=call.step, contexts=_contexts(call, rows)):
        row = rows[index]
        parents = parents_by_row[row] if parents_by_row else None
        if parents and record.status != LOST:
            buffer.descend_all([(record.id, tuple(parents), call.step or 0)])
        yield ExecutedRow(row, record, buffer)


def _contexts(call: Call, rows: list[int]) -> dict[int, IdeaContext]:
    """What these rows were written from, by index; empty where the prompts of this batch offer no code to build on.

    Raises:
        IdeatorError: the column `code_bases` is not ours.
    """
    if COLUMN not in call.columns:
        return {}
    contexts = {}
    for index, row in enumerate(rows):
        prompt = text_of(call.prompts[row]) if call.prompts else ""
        base = chosen_base(call.texts[row], read_options(call.columns[COLUMN][row]))
        contexts[index] = IdeaContext(prompt, base)
    return contexts


async def _merged(streams: list[AsyncIterator[ExecutedRow]]) -> AsyncIterator[ExecutedRow]:
    waiting = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while waiting:
            ended, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                stream = waiting.pop(task)
                try:
                    executed = task.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(anext(stream))] = stream
                yield executed
    finally:
        for task in waiting:
            task.cancel()


def row_reward(executed: ExecutedRow, reward: float | None) -> RowReward:
    """The reward of a row, with its record's status and id, and the cell of its patch if there is a codebase."""
    record = executed.record
    cell = cell_of(record.patch, executed.buffer.executor.base) if record.tree else ""
    return RowReward(executed.row, reward, record.status, record.id, cell)


def finish_batch(call: Call, record_by_row: dict[int, Experiment]) -> list[Experiment]:
    """Log a batch whose records are all known, and return them by row.

    A stream never refuses a batch that was lost as a whole: its trainer decides that.

    Raises:
        IdeatorError: the caller awaits a list, and every experiment was lost.
    """
    records = [record for _, record in sorted(record_by_row.items())]
    if call.as_list:
        refuse_if_all_lost(records)
    log_records(call, records)
    return records


def refuse_if_all_lost(records: list[Experiment]) -> None:
    """Raises: IdeatorError when something ran and all of it was lost, but not because the run's budget is spent.

    A single lost experiment among ideas that never ran does not prove that something is broken: it may be the idea.
    """
    if any(record.error and record.error["kind"] == BUDGET for record in records):
        return  # nothing is broken: the run has spent its budget and winds down
    ran = [record for record in records if record.tree or record.status == LOST]
    if len(ran) == 1 < len(records):
        return
    if ran and all(record.status == LOST for record in ran):
        reason = ran[0].error["message"] if ran[0].error else "no reason is known"
        raise IdeatorError(
            f"All {len(ran)} experiments of this batch were lost, the first because: {reason} Nothing was learned from "
            "them and nothing is lost with them: mend it and resume."
        )


def log_records(call: Call, records: list[Experiment]) -> None:
    """Log success, and mean and best reward of the successes apart: the mean over all rows hides which one moved."""
    call.log_extra("status", [record.status for record in records])
    call.log_extra("experiment", [record.id for record in records])
    rewards = [record.reward for record in records if record.status == SUCCEEDED and record.reward is not None]
    call.log("execution/success", len(rewards) / len(records))
    if rewards:
        call.log("execution/success_reward_mean", sum(rewards) / len(rewards))
        call.log("execution/success_reward_best", max(rewards))
    for status, count in Counter(record.status for record in records).items():
        call.log(f"execution/{status}", count / len(records))
