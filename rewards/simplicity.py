"""The simplicity reward: a small patch earns more than a large one, if its experiment succeeded.

    1 / (1 + lines / simplicity_lines + (files − 1) / simplicity_files)

lines   removed and added lines in the patch as it was applied; a line of more than `LINE` characters counts once for
        each begun `LINE`, so that nothing is gained by writing a page in one line
files   touched files

Only a `succeeded` experiment earns; every failure of the idea's own has 0, and a lost one None.  It runs no experiment:
it waits for the records of another function of the batch, so it needs one that runs them.

**It can feed the very collapse this library is about.**  In Si et al. (arXiv 2601.14525) a policy under RL converged on
a few simple ideas because they ran more often; a bonus for simplicity pays for that once more.  It is meant for the end
of a search, to remove what a good idea does not need, or for coders that write too much.  A negative entry in
`reward_weights` rewards complexity instead.  Then keep it far below the reward of a success, which it makes smaller,
and look at the patches: lines that do nothing are complex too, as a comment is the simplest change that runs.

Options (columns, or `reward_options`): `simplicity_lines`, 20, and `simplicity_files`, 2: the numbers that halve the
reward of the smallest patch.  Our choice.
"""

from __future__ import annotations

import math

from ideator_rl.experiment import SUCCEEDED, Experiment

from .support.decorator import Call
from .support.options import Option
from .support.shaping import Worth, shaping

OPTIONS = {"simplicity_lines": Option(20.0, least=1e-9), "simplicity_files": Option(2.0, least=1e-9)}
LINE = 120
"""Characters."""


@shaping(OPTIONS, needs_experiments=True)
def simplicity_reward(call: Call) -> Worth:
    """How small the patch of every completion is, from 0 to 1; 0 for a failure, None where its experiment is lost.

    Raises:
        IdeatorError: no other reward function of the batch runs experiments, or an option cannot be what it is.
    """
    lines_unit, files_unit = call.options["simplicity_lines"], call.options["simplicity_files"]

    def by_outcome(_row: int, record: Experiment) -> float:
        if record.status != SUCCEEDED:
            return 0.0
        lines, files = size(record.patch)
        call.log("simplicity/lines", lines)
        return 1 / (1 + lines / lines_unit + max(0, files - 1) / files_unit)

    return Worth([0.0] * len(call.texts), by_outcome)


def size(patch: str) -> tuple[int, int]:
    """Changed lines and touched files of a unified diff as records hold it."""
    lines = files = 0
    old = new = 0
    for line in patch.split("\n"):
        if old > 0 or new > 0:  # inside a hunk, where a changed line may begin like a file's header
            mark = line[:1] or " "
            old, new = old - (mark in " -"), new - (mark in " +")
            lines += math.ceil(max(1, len(line) - 1) / LINE) if mark in "-+" else 0
        elif line.startswith("diff --git "):
            files += 1
        elif line.startswith("@@ "):
            old, new = (_line_count(text) for text in line.split(" ")[1:3])
    return lines, files


def _line_count(span: str) -> int:
    """Lines of one side of a hunk, from `-3,7` or `-3`."""
    return int(span.partition(",")[2] or 1)
