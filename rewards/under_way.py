"""Experiments under way: the records of a batch, for reward functions that stand beside the one which runs them.

The function that runs experiments announces its batch (`rewards.execution.outcomes` does); another one of the same
batch finds it and waits for its records.  So an experiment is asked for once, and what it cost is paid once, however
many functions want to know its outcome.

Found are batches of the same texts, step and place to run, on the same event loop, whose reward functions start
together: as those of stock TRL 1.16 do (`asyncio.gather`), and those of this library's trainer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from ideator_rl.experiment import Experiment

NEEDED = ("environment", "preset", "bucket")
"""Columns that say where experiments are run."""
TURNS = 5
"""Of the event loop, in which the functions of a batch begin: one or two, and some to spare."""

Columns = dict[str, list[Any]]
Found = tuple[int, Experiment | None]
"""Row and record; None where there will be none, since the function that ran it has failed."""


class UnderWay:
    """The records of one batch: entered by the function that runs it, read by any number of others."""

    def __init__(self, rows: int):
        loop = asyncio.get_running_loop()
        self._records: list[asyncio.Future[Experiment | None]] = [loop.create_future() for _ in range(rows)]

    def enter(self, row: int, record: Experiment) -> None:
        if not self._records[row].done():
            self._records[row].set_result(record)

    def end(self) -> None:
        """Nothing more will come."""
        for record in self._records:
            if not record.done():
                record.set_result(None)

    async def as_completed(self) -> AsyncIterator[Found]:
        """Every row with its record, as soon as it is known."""
        waiting = {asyncio.ensure_future(self._one(row)) for row in range(len(self._records))}
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in waiting:
                task.cancel()

    async def _one(self, row: int) -> Found:
        return row, await asyncio.shield(self._records[row])


_batches: dict[tuple[Any, ...], UnderWay] = {}


@contextmanager
def announced(texts: list[str], columns: Columns, step: int | None) -> Iterator[UnderWay]:
    """A batch whose experiments are run inside; called on the event loop."""
    key = _key(texts, columns, step)
    batch = _batches[key] = UnderWay(len(texts))
    try:
        yield batch
    finally:
        if _batches.get(key) is batch:
            del _batches[key]
        batch.end()


async def under_way(texts: list[str], columns: Columns, step: int | None) -> UnderWay | None:
    """The experiments of this batch, if another of its reward functions runs them; asked when the batch begins."""
    if any(name not in columns for name in NEEDED):
        return None
    key = _key(texts, columns, step)
    for _ in range(TURNS):
        if key in _batches:
            return _batches[key]
        await asyncio.sleep(0)
    return _batches.get(key)


def _key(texts: list[str], columns: Columns, step: int | None) -> tuple[Any, ...]:
    where = tuple(tuple(columns.get(name, ())) for name in NEEDED)
    return id(asyncio.get_running_loop()), step, tuple(texts), where
