"""The execution reward: what really happened when the idea was run.

A plain module-level coroutine function, so that it works in `GRPOTrainer`, `RLOOTrainer`, and by its dotted path
`rewards.execution.execution_reward` in the stock `trl grpo` command.  The dataset says where and how to run: the
columns `environment`, `preset` and `bucket` are needed; the other fields of `BufferConfig` (`implementer`, `coder`,
`slots`, `seed`, …) are optional.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import BUDGET, LOST, SUCCEEDED, Experiment
from ideator_rl.reward_buffer import BufferConfig, open_buffer

NEEDED = ("environment", "preset", "bucket")
OPTIONAL = tuple(field.name for field in fields(BufferConfig) if field.name not in NEEDED)


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
    texts = [_text(completion) for completion in completions]
    step = trainer_state.global_step if trainer_state is not None else None
    records: list[Experiment | None] = [None] * len(texts)
    for config, rows in _by_config(columns, len(texts)).items():
        scored = await open_buffer(config).score([texts[row] for row in rows], step=step)
        for row, record in zip(rows, scored, strict=True):
            records[row] = record
    done = [record for record in records if record is not None]
    _refuse_if_all_lost(done)
    if log_metric is not None:
        _log(done, log_metric)
    if log_extra is not None:
        log_extra("status", [record.status for record in done])
        log_extra("experiment", [record.id for record in done])
    return [record.reward for record in done]


def _refuse_if_all_lost(records: list[Experiment]) -> None:
    ran = [record for record in records if record.tree or record.status == LOST]
    if any(record.error and record.error["kind"] == BUDGET for record in records):
        return  # nothing is broken: the run has spent its budget and winds down
    if ran and all(record.status == LOST for record in ran):
        why = ran[0].error["message"] if ran[0].error else "no reason is known"
        raise IdeatorError(
            f"All {len(ran)} experiments of this batch were lost, the first because: {why} Nothing was learned from "
            "them and nothing is lost with them: mend it and resume."
        )


def _by_config(columns: dict[str, list[Any]], count: int) -> dict[BufferConfig, list[int]]:
    """Rows by where they are to be run."""
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


def _log(records: list[Experiment], log_metric: Any) -> None:
    """Success, and mean and best reward of the successes, apart: the mean over all rows hides which one moved."""
    rewards = [record.reward for record in records if record.status == SUCCEEDED and record.reward is not None]
    log_metric("execution/success", len(rewards) / len(records))
    if rewards:
        log_metric("execution/success_reward_mean", sum(rewards) / len(rewards))
        log_metric("execution/success_reward_best", max(rewards))
    for status, count in Counter(record.status for record in records).items():
        log_metric(f"execution/{status}", count / len(records))


def _text(completion: Any) -> str:
    """A completion is text, or the messages of a conversational dataset."""
    return completion if isinstance(completion, str) else "".join(message["content"] or "" for message in completion)
