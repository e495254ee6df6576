"""What a run had proposed, and which codebases were known, when a batch was first proposed.

Guarantee: the same in a run that was killed and resumed.  Proposals are those of earlier steps, as the run's journal
has them.  The function that runs experiments writes the journal; without one there is no past.
"""

from __future__ import annotations

from dataclasses import dataclass

from ideator_rl.archive.archive import archive_of
from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import REQUIRED_COLUMNS, RewardBuffer

from .decorator import Call
from .experiments import buffers_of


@dataclass(frozen=True)
class Past:
    """The rows of a batch that belong to one run, and that run's past."""

    rows: list[int]
    proposed: list[tuple[int, str]]
    """Step and text of ideas of earlier steps, in order."""
    buffer: RewardBuffer | None = None
    """None where the dataset names no place to run experiments."""
    record_count: int = 0
    """How many records the archive held."""

    def knew(self, record: Experiment) -> bool:
        """Whether the codebase of a record was in the archive."""
        return self.buffer is not None and archive_of(self.buffer).knows(record, before=self.record_count)


def pasts_of(call: Call) -> list[Past]:
    """The past of each run that has rows in this batch; to be asked at its start."""
    if call.context is None and any(name not in call.columns for name in REQUIRED_COLUMNS):
        return [Past(list(range(len(call.texts))), [])]
    pasts = []
    for buffer, rows in buffers_of(call).items():
        count = len(archive_of(buffer))
        count = count if call.step is None else buffer.journal.mark(call.step, call.texts, count)
        pasts.append(Past(rows, buffer.journal.ideas(call.step), buffer, count))
    return pasts
