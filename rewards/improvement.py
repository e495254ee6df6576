"""The improvement reward: what an idea adds to what is known.  A known codebase earns nothing, so it attracts nothing.

    r̃ = clip((q − τ) / s, 0, c)

q   the reward of the idea's experiment, on the scale that `execution_reward` gives
τ   the bar: the largest of the K-th best distinct elite, the baseline, and the mean of the ideas that the row's prompt
    showed; raised by one standard deviation of a single run
s   the scale: 2 % of the range of qualities seen, unless a number is given
c   the cap
r̃ is 0 for a failure and for a codebase that was known when the batch was proposed, None for a lost experiment.

The bar and the known codebases are those of the moment at which the batch was first proposed, also in a run that was
killed and resumed: the order of arrival changes nothing.  Two rows of one batch with one new codebase both earn.
Before K elites are known, the baseline takes the place of the K-th.  Where nothing is known, the bar is the failure
reward.  While all qualities are equal, the scale is 2 % of the bar, or 1 if that is 0.

Options are columns of the dataset, one value for all rows of a batch, or else the constants here: `improvement_k`,
`improvement_scale`, `improvement_cap`, `improvement_noise` (a standard deviation, in place of the measured one).
Where and how to run is chosen as for `execution_reward`; this reward replaces it, since both would run every idea.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ideator_rl.archive.archive import Archive, archive_of
from ideator_rl.experiment import LOST, SUCCEEDED, Experiment
from ideator_rl.reward import RowReward
from ideator_rl.reward_buffer import RewardBuffer

from .support.decorator import Call, reward_function
from .support.experiments import ExecutedRow, buffers_of, experiments, finish_batch, row_reward
from .support.options import Option

K = 20
"""Elites that the bar looks at."""
SCALE: float | None = None
"""The unit of improvement, in units of the reward; None for `SHARE` of the range of qualities."""
CAP = 10.0
"""The most that an idea earns: with the default scale, a fifth of the range seen.  Our choice."""
NOISE: float | None = None
"""Standard deviation of a run, where it was not measured by `env check` or the baseline's replicates; None for 0."""
SHARE = 0.02
OPTIONS = {
    "improvement_k": Option(K, least=1),
    "improvement_scale": Option(SCALE, least=1e-12),
    "improvement_cap": Option(CAP, least=1e-12),
    "improvement_noise": Option(NOISE, least=0),
}


@dataclass(frozen=True)
class Bar:
    """What a batch has to be better than, as it stood when the batch was proposed."""

    level: float
    """The K-th elite, or the baseline."""
    margin: float
    scale: float
    cap: float
    record_count: int
    """Records in the archive."""

    def earned(self, quality: float, parents: float | None = None) -> float:
        """r̃ of a new codebase.

        Args:
            parents: mean quality of the ideas that its prompt showed.
        """
        tau = max(self.level, self.level if parents is None else parents) + self.margin
        return min(max((quality - tau) / self.scale, 0.0), self.cap)


@reward_function(OPTIONS, runs_experiments=True)
async def improvement_reward(call: Call) -> AsyncIterator[RowReward]:
    """Run the idea in every completion and return its improvement over what was known; None for `lost`.

    The stream logs `improvement/…` row by row: a trainer that closes a batch at a quorum sees it for the rows that have
    come.  The outcomes are logged after the last.

    Raises:
        IdeatorError: as `execution_reward`; or an option is no usable number.
    """
    contests = {buffer: _contest(call, buffer, rows) for buffer, rows in buffers_of(call).items()}
    for name in ("level", "margin", "scale"):
        call.log(f"improvement/{name}", statistics.fmean(getattr(contest.bar, name) for contest in contests.values()))
    # The bars are set before the first record can arrive, so that the order of arrival changes nothing.
    record_by_row: dict[int, Experiment] = {}
    async for executed in experiments(call):
        record_by_row[executed.row] = executed.record
        contest = contests[executed.buffer]
        reward, repeated = contest.reward(executed)
        call.log("improvement/known", float(repeated))
        call.log("improvement/improved", float((reward or 0.0) > 0))
        yield row_reward(executed, reward)
    records = finish_batch(call, record_by_row)
    call.log_extra("execution_reward", [record.reward for record in records])


def bar_of(archive: Archive, failure: float, options: dict[str, Any] | None = None) -> Bar:
    """The bar that an archive sets.

    Args:
        failure: the environment's failure reward.
        options: `improvement_k` and so on; the constants replace those that are missing or None.

    Raises:
        IdeatorError: an option is no usable number.
    """
    values = {key: value for key, value in (options or {}).items() if value is not None}
    for key, value in values.items():
        if key in OPTIONS:
            OPTIONS[key].check(key, value)
    baseline, span = archive.baseline, archive.span()
    best = archive.kth_best(int(values.get("improvement_k", K)))
    measured = baseline.spread if baseline else None
    margin = values.get("improvement_noise", NOISE if measured is None else measured) or 0.0
    levels = [value for value in (best, baseline.quality if baseline else None) if value is not None]
    level = max(levels, default=failure)
    scale = values.get("improvement_scale", SCALE)
    if scale is None:
        width = span[1] - span[0] if span else 0.0
        scale = SHARE * (width or abs(level)) or 1.0
    return Bar(level, margin, scale, values.get("improvement_cap", CAP), len(archive))


@dataclass(frozen=True)
class _Contest:
    """What the rows of one buffer have to be better than."""

    bar: Bar
    archive: Archive
    parent_quality: dict[int, float] = field(default_factory=dict)
    """By row: mean quality of the ideas that its prompt showed, where it showed any."""

    def reward(self, executed: ExecutedRow) -> tuple[float | None, bool]:
        """The reward of a row, and whether its codebase was known."""
        record = executed.record
        if record.status == LOST:
            return None, False
        repeated = bool(record.tree) and self.archive.knows(record, before=self.bar.record_count)
        if record.status != SUCCEEDED or record.reward is None or repeated:
            return 0.0, repeated
        return self.bar.earned(record.reward, self.parent_quality.get(executed.row)), repeated


def _contest(call: Call, buffer: RewardBuffer, rows: list[int]) -> _Contest:
    archive = archive_of(buffer)
    at_proposal = archive
    if call.step is not None:
        # A resumed run compares with what was known when the batch was first proposed: most often what is known now.
        at_proposal = archive_of(buffer, buffer.journal.mark(call.step, call.texts, len(archive)))
    contest = _Contest(bar_of(at_proposal, buffer.executor.environment.failure_reward, call.options), archive)
    parents_by_row = call.columns.get("parents")
    for row in rows:
        parents = parents_by_row[row] if parents_by_row else None
        if qualities := [value for id in parents or () if (value := at_proposal.quality(id)) is not None]:
            contest.parent_quality[row] = statistics.fmean(qualities)
    return contest
