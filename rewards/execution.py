"""The execution reward: the measured outcome of the idea.

A plain module-level coroutine function, so that it works in `GRPOTrainer`, `RLOOTrainer`, and by its dotted path
`rewards.execution.execution_reward` in the stock `trl grpo` command.  There the dataset's columns name where and how
to run: `environment`, `preset` and `bucket` are needed; the other fields of `BufferConfig` (`implementer`, `coder`,
`slots`, `seed`, …) are optional.  A column `parents` (experiment ids that the prompt showed) is stored as lineage.  A
column `code_bases` (`archive.bases.read_options`) holds the codebases that ideas change in the place of the baseline.

`execution_reward.as_completed` is the same as a stream of `RowReward`; it never refuses a batch that was lost as a
whole: its trainer decides that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ideator_rl._imports import renamed
from ideator_rl.experiment import Experiment
from ideator_rl.reward import RowReward

from .support.decorator import Call, reward_function
from .support.experiments import experiments, finish_batch, row_reward


@reward_function(runs_experiments=True)
async def execution_reward(call: Call) -> AsyncIterator[RowReward]:
    """Run the idea in every completion and return its reward; None where the outcome is `lost`.

    Raises:
        RunStopped: the coder's LLM refuses for a reason that no wait cures, or ideas are lost in a row.
        IdeatorError: a needed column is missing; the environment, bucket or sandbox is not usable; or, in the list
            form, every experiment of the batch was lost: something is broken, and training on would be blind.
    """
    record_by_row: dict[int, Experiment] = {}
    async for executed in experiments(call):
        record_by_row[executed.row] = executed.record
        yield row_reward(executed, executed.record.reward)
    finish_batch(call, record_by_row)


__getattr__ = renamed(__name__)
