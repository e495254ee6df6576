"""The prompts of a batch, one row a group, requested when the batch is sampled: from a dataset, or with past ideas."""

from __future__ import annotations

from itertools import islice
from typing import Any, Protocol

from ideator_rl.archive.bases import NONE
from ideator_rl.archive.code_prompt import InheritingPrompts
from ideator_rl.archive.parents import get_strategy
from ideator_rl.archive.prompts import ArchivePrompts
from ideator_rl.errors import IdeatorError
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.training.recipe.recipe import Recipe


class Prompts(Protocol):
    """A source of prompts; called at rank 0 only."""

    def rows(self, batch: int, groups: int) -> list[dict[str, Any]]:
        """`groups` rows of JSON values: a prompt, and columns for reward functions.

        Called batch after batch; a resumed run begins at a later batch, and may begin again at an earlier one.
        """
        ...


class DatasetPrompts:
    """The rows of a dataset, in the order of TRL's own sampler.

    Args:
        sampler: TRL's, which repeats every row `group_size` times and every generation batch `uses` times.
    """

    def __init__(self, dataset: Any, sampler: Any, uses: int, group_size: int):
        self._dataset, self._sampler, self._uses, self._group_size = dataset, sampler, uses, group_size
        self._indices: Any = iter(())
        self._next_batch = 0

    def rows(self, batch: int, groups: int) -> list[dict[str, Any]]:
        """
        Raises:
            IdeatorError: the dataset has fewer rows than a batch has groups.
        """
        if batch < self._next_batch:
            self._indices, self._next_batch = iter(()), 0
        # The sampler only goes forward: batches that were sampled in an earlier session are drawn and passed over.
        drawn: list[int] = []
        while self._next_batch <= batch:
            drawn = self._draw(groups * self._group_size)
            self._next_batch += 1
        # Every row is drawn `group_size` times in a row; a group needs it once.
        return [dict(self._dataset[index]) for index in drawn[:: self._group_size]]

    def _draw(self, rows: int) -> list[int]:
        """The indices of one batch; an epoch that is over is followed by the next."""
        # TRL's sampler repeats a batch once for each of its uses; here a batch is kept and used again.
        drawn = list(islice(self._indices, rows * self._uses))
        if not drawn:
            self._indices = iter(self._sampler)
            drawn = list(islice(self._indices, rows * self._uses))
        if len(drawn) < rows:
            raise IdeatorError(
                f"The training dataset has {len(self._dataset)} rows and a batch needs {rows // self._group_size} "
                "different prompts. Give it as many rows, or make the batch smaller."
            )
        return drawn[:rows]


def archive_prompts(recipe: Recipe, buffer: RewardBuffer, chat: bool) -> ArchivePrompts | None:
    """Prompts that show past ideas, if the recipe has a `prompt_strategy`.

    Raises:
        UnknownName: there is no such strategy.
        IdeatorError: it does not take the recipe's numbers.
    """
    ours = recipe.ours
    if ours.prompt_strategy is None:
        return None
    strategy = get_strategy(ours.prompt_strategy, shown=ours.prompt_parents, elites=ours.prompt_elites)
    values = buffer, strategy, ours.free_prompts, ours.prompts, chat, recipe.seed
    if ours.inherit == NONE:
        return ArchivePrompts(*values)
    return InheritingPrompts(*values, inherit=ours.inherit, code_tokens=ours.code_tokens)


def refuse_stream(dataset: Any) -> None:
    """
    Raises:
        IdeatorError: the rows of this dataset cannot be read again after a crash.
    """
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise IdeatorError(
            "The training dataset is a stream, whose rows cannot be looked up again after a crash. Give one with a "
            "length, for example `Dataset.from_list(list(stream))`."
        )
