"""The experiments that a search is charged for, and the room that its budget leaves for ideas.

An idea may cost several experiments, where its coder mends what crashed (`debug_rounds`).  Ideas that run have room for
all of them reserved, so that `max_experiments` is kept.  Only the last idea of a budget may have too little room: it is
then not mended.  That depends on counts which the journal holds, so that a resumed search decides the same.
"""

from __future__ import annotations

from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.search_summary import charged_codebases


class Charges:
    def __init__(self, buffer: RewardBuffer, limit: int | None):
        """Args:
        limit: `max_experiments` of the recipe.
        """
        self._buffer, self._limit = buffer, limit
        self._ids = charged_codebases(buffer)
        self.per_idea = 1 + buffer.executor.debug_rounds
        """Experiments that an idea may cost."""
        buffer.executor.may_debug = self._may_debug

    @property
    def ids(self) -> set[str]:
        """Of the distinct codebases that the search asked for, crashed ones that were mended included."""
        self._ids |= self._buffer.debugged_ids
        return self._ids

    def room(self, running: int) -> int | None:
        """How many more ideas may run; None without a limit."""
        if self._limit is None:
            return None
        left = self._limit - len(self.ids)
        fitting = left // self.per_idea - running
        return 1 if fitting <= 0 and left > 0 and not running else fitting

    def _may_debug(self, crashed: Experiment) -> bool:
        """Whether the budget has room for the experiment after this one."""
        return self._limit is None or len(self.ids | {crashed.id}) < self._limit
