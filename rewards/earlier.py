"""What a run had proposed and known when a batch was first proposed, for rewards that compare with it.

Guarantee: the same in a run that was killed and takes the batch up again.  Proposals are those of earlier steps, as the
run's journal has them; the function that runs experiments writes it, and without such a function it is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

from ideator_rl.archive.archive import archive_of
from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import RewardBuffer, open_buffer

from .execution import by_config
from .shaping import Call
from .under_way import NEEDED


@dataclass(frozen=True)
class Part:
    """The rows of a batch that belong to one run."""

    rows: list[int]
    proposed: list[tuple[int, str]]
    """Step and text of ideas of earlier steps, in order."""
    run: RewardBuffer | None = None
    """None where the dataset names no place to run experiments."""
    known: int = 0
    """Records that were known."""

    def knew(self, record: Experiment) -> bool:
        """Whether the codebase of a record was known."""
        return self.run is not None and archive_of(self.run).knows(record, before=self.known)


def parts(call: Call) -> list[Part]:
    """The batch by run; to be called when it begins."""
    if any(name not in call.columns for name in NEEDED):
        return [Part([*range(len(call.texts))], [])]
    found = []
    for config, rows in by_config(call.columns, len(call.texts)).items():
        run = open_buffer(config)
        known = len(archive_of(run))
        known = known if call.step is None else run.mark(call.step, known)
        found.append(Part(rows, run.ideas(call.step), run, known))
    return found
