"""The execution reward: what really happened when the idea was run.

A plain module-level coroutine function, so that it works in `GRPOTrainer`, `RLOOTrainer`, and by its dotted path
`rewards.execution.execution_reward` in the stock `trl grpo` command.  The dataset says where and how to run: the
columns `environment`, `preset` and `bucket` are needed; the other fields of `BufferConfig` (`implementer`, `coder`,
`slots`, `seed`, …) are optional.  A column `parents` (experiment ids that the prompt showed) is noted as descent.

`execution_reward.as_completed` is the same as a stream of `RowReward`; it never refuses a batch that was lost as a
whole: who reads it decides that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import BUDGET, LOST, SUCCEEDED, Experiment
from ideator_rl.patch.cells import cell_of
from ideator_rl.reward import RowReward
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer

from .under_way import NEEDED, Columns, announced

OPTIONAL = tuple(field.name for field in fields(BufferConfig) if field.name not in NEEDED)

Outcome = tuple[int, Experiment, RewardBuffer]
"""Row, its record, and the buffer that ran it."""


async def execution_reward(
    prompts: list[Any],
    completions: list[Any],
    completion_ids: list[list[int]] | None = None,
    *,
    trainer_state: Any = None,
    log_metric: Any = None,
    log_extra: Any = None,
    **columns: list[Any],
) -> list[float | None]:
    """Run the idea in every completion and return its reward; None where the outcome is `lost`.

    Raises:
        IdeatorError: a needed column is missing; the environment, bucket or sandbox is not usable; or every
            experiment of the batch was lost, so that something here is broken and training on would be blind.
    """
    del prompts, completion_ids
    known = {row: record async for row, record, _ in outcomes(completions, columns, trainer_state)}
    records = in_order(known)
    refuse_if_all_lost(records)
    log_records(records, log_metric, log_extra)
    return [record.reward for record in records]


async def execution_reward_as_completed(
    prompts: list[Any],
    completions: list[Any],
    completion_ids: list[list[int]] | None = None,
    *,
    trainer_state: Any = None,
    log_metric: Any = None,
    log_extra: Any = None,
    **columns: list[Any],
) -> AsyncIterator[RowReward]:
    """The same, one `RowReward` a completion as soon as its outcome is known; metrics are logged after the last.

    Raises:
        IdeatorError: a needed column is missing; the environment, bucket or sandbox is not usable.
    """
    del prompts, completion_ids
    records: dict[int, Experiment] = {}
    async for row, record, buffer in outcomes(completions, columns, trainer_state):
        records[row] = record
        yield row_reward(row, record, record.reward, buffer)
    log_records(in_order(records), log_metric, log_extra)


execution_reward.as_completed = execution_reward_as_completed  # type: ignore[attr-defined]
execution_reward.runs_experiments = True  # type: ignore[attr-defined]
execution_reward.options = {}  # type: ignore[attr-defined]


async def outcomes(completions: list[Any], columns: Columns, trainer_state: Any = None) -> AsyncIterator[Outcome]:
    """Run the ideas in these completions; each outcome as soon as it is known, here and to the reward functions that
    stand beside this one (`rewards.under_way`).

    Args:
        trainer_state: TRL's; its `global_step` names the batch in the journal.

    Raises:
        IdeatorError: a needed column is missing; the environment, bucket or sandbox is not usable.
    """
    texts = [text_of(completion) for completion in completions]
    step = step_of(trainer_state)
    groups = by_config(columns, len(texts))
    with announced(texts, columns, step) as batch:
        async for outcome in _merged([_one(config, rows, texts, columns, step) for config, rows in groups.items()]):
            batch.enter(outcome[0], outcome[1])
            yield outcome


async def _merged(streams: list[AsyncIterator[Outcome]]) -> AsyncIterator[Outcome]:
    waiting = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = waiting.pop(task)
                try:
                    outcome = task.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(anext(stream))] = stream
                yield outcome
    finally:
        for task in waiting:
            task.cancel()


async def _one(
    config: BufferConfig, rows: list[int], texts: list[str], columns: Columns, step: int | None
) -> AsyncIterator[Outcome]:
    buffer = open_buffer(config)
    async for index, record in buffer.as_completed([texts[row] for row in rows], step=step):
        row = rows[index]
        parents = columns["parents"][row] if "parents" in columns else None
        if parents and record.status != LOST:
            buffer.descend(record.id, tuple(parents), step or 0)
        yield row, record, buffer


def by_config(columns: Columns, count: int) -> dict[BufferConfig, list[int]]:
    """Rows by where they are to be run.

    Raises:
        IdeatorError: a needed column is missing.
    """
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise IdeatorError(
            f"The dataset has no column {', '.join(missing)}; execution_reward needs {', '.join(NEEDED)} in every row. "
            "`ideator-rl env show NAME --dataset FILE` writes such a dataset."
        )
    groups: dict[BufferConfig, list[int]] = {}
    for row in range(count):
        values = {name: columns[name][row] for name in (*NEEDED, *OPTIONAL) if name in columns}
        config = BufferConfig(**{name: value for name, value in values.items() if value is not None})
        groups.setdefault(config, []).append(row)
    return groups


def row_reward(row: int, record: Experiment, reward: float | None, buffer: RewardBuffer) -> RowReward:
    """What a row earned, with its record's status and id, and the cell of its patch if there is a codebase."""
    cell = cell_of(record.patch, buffer.executor.base) if record.tree else ""
    return RowReward(row, reward, record.status, record.id, cell)


def refuse_if_all_lost(records: list[Experiment]) -> None:
    """Raises: IdeatorError when something ran and all of it was lost, but not because the run's budget is spent.

    A single one that was lost beside ideas that never ran is no proof that something is broken: it may be the idea.
    """
    ran = [record for record in records if record.tree or record.status == LOST]
    if any(record.error and record.error["kind"] == BUDGET for record in records):
        return  # nothing is broken: the run has spent its budget and winds down
    if len(ran) == 1 < len(records):
        return
    if ran and all(record.status == LOST for record in ran):
        why = ran[0].error["message"] if ran[0].error else "no reason is known"
        raise IdeatorError(
            f"All {len(ran)} experiments of this batch were lost, the first because: {why} Nothing was learned from "
            "them and nothing is lost with them: mend it and resume."
        )


def log_records(records: list[Experiment], log_metric: Any, log_extra: Any) -> None:
    """Success, and mean and best reward of the successes, apart: the mean over all rows hides which one moved."""
    if log_extra is not None:
        log_extra("status", [record.status for record in records])
        log_extra("experiment", [record.id for record in records])
    if log_metric is None:
        return
    rewards = [record.reward for record in records if record.status == SUCCEEDED and record.reward is not None]
    log_metric("execution/success", len(rewards) / len(records))
    if rewards:
        log_metric("execution/success_reward_mean", sum(rewards) / len(rewards))
        log_metric("execution/success_reward_best", max(rewards))
    for status, count in Counter(record.status for record in records).items():
        log_metric(f"execution/{status}", count / len(records))


def in_order(known: dict[int, Experiment]) -> list[Experiment]:
    """Records by row."""
    return [record for _, record in sorted(known.items())]


def step_of(trainer_state: Any) -> int | None:
    return None if trainer_state is None else trainer_state.global_step


def text_of(completion: Any) -> str:
    """A completion is text, or the messages of a conversational dataset."""
    if isinstance(completion, str):
        return completion
    return "".join(message.get("content") or "" for message in completion)
