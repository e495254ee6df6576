"""Where a batch's prompts come from: one row a group, asked for when the batch is sampled."""

from __future__ import annotations

from itertools import islice
from typing import Any, Protocol

from ideator_rl.errors import IdeatorError


class Prompts(Protocol):
    def rows(self, batch: int, groups: int) -> list[dict[str, Any]]:
        """`groups` rows of JSON values: a prompt, and the columns for reward functions.  Asked in the first process,
        batch after batch; a resumed run goes on at a later one."""
        ...


class DatasetPrompts:
    """The rows of a dataset, in the order in which TRL's own sampler gives them."""

    def __init__(self, dataset: Any, sampler: Any, uses: int, group_size: int):
        """Args:
        sampler: TRL's, which names every row `group_size` times and every generation batch `uses` times.
        """
        self._dataset, self._sampler, self._uses, self._group_size = dataset, sampler, uses, group_size
        self._indices: Any = iter(())
        self._next = 0

    def rows(self, batch: int, groups: int) -> list[dict[str, Any]]:
        """Raises: IdeatorError when the dataset has fewer rows than a batch has groups."""
        if batch < self._next:
            self._indices, self._next = iter(()), 0
        found: list[int] = []
        while self._next <= batch:
            found = self._batch(groups * self._group_size)
            self._next += 1
        return [dict(self._dataset[index]) for index in found[:: self._group_size]]

    def _batch(self, rows: int) -> list[int]:
        found = list(islice(self._indices, rows * self._uses))
        if not found:
            self._indices = iter(self._sampler)
            found = list(islice(self._indices, rows * self._uses))
        if len(found) < rows:
            raise IdeatorError(
                f"The training dataset has {len(self._dataset)} rows and a batch needs {rows // self._group_size} "
                "different prompts. Give it as many rows, or make the batch smaller."
            )
        return found[:rows]


def refuse_stream(dataset: Any) -> None:
    """Raises: IdeatorError for a dataset whose rows cannot be looked up again after a crash."""
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise IdeatorError(
            "The training dataset is a stream, whose rows cannot be looked up again after a crash. Give one with a "
            "length, for example `Dataset.from_list(list(stream))`."
        )
