"""The improvement reward: what an idea adds to what is known.  The known earns nothing, so nothing known attracts.

    r̃ = clip((q − τ) / s, 0, c)

q   the reward of the idea's experiment, on the scale that `execution_reward` gives
τ   the bar: the largest of the K-th best distinct elite, the baseline, and the mean of the ideas that the row's prompt
    showed; raised by one standard deviation of a single run
s   the scale: 2 % of the range of qualities seen, unless a number is given
c   the cap
r̃ is 0 for a failure and for a codebase that was known when the batch was proposed, None for what was `lost`.

The bar and what is known are those of the moment at which the batch was first proposed, also in a run that was killed
and takes the batch up again: the order of arrival changes nothing.  Two rows of one batch with one new codebase both
earn.  Before K elites are known the baseline stands for the K-th; where nothing is known the bar is the failure reward,
and while all qualities are equal the scale is 2 % of the bar, or 1 if that is 0.

Options are columns of the dataset, one value for all rows of a batch, or else the constants here: `improvement_k`,
`improvement_scale`, `improvement_cap`, `improvement_noise` (a standard deviation, in place of the measured one).  The
columns of `execution_reward` say where and how to run; this reward takes its place, as both would run every idea.
Like it a plain coroutine function, with the stream `as_completed`.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ideator_rl.archive.archive import Archive, archive_of
from ideator_rl.experiment import LOST, SUCCEEDED, Experiment
from ideator_rl.reward import RowReward
from ideator_rl.reward_buffer import RewardBuffer, open_buffer

from .execution import (
    Columns,
    by_config,
    in_order,
    log_records,
    outcomes,
    refuse_if_all_lost,
    row_reward,
    step_of,
)
from .options import Option

K = 20
"""Elites that the bar looks at."""
SCALE: float | None = None
"""The unit of improvement in the reward's unit; None for `SHARE` of the range of qualities."""
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
    known: int
    """Records in the archive."""

    def earned(self, quality: float, parents: float | None = None) -> float:
        """r̃ of a new codebase.

        Args:
            parents: mean quality of the ideas that its prompt showed.
        """
        tau = max(self.level, self.level if parents is None else parents) + self.margin
        return min(max((quality - tau) / self.scale, 0.0), self.cap)


async def improvement_reward(
    prompts: list[Any],
    completions: list[Any],
    completion_ids: list[list[int]] | None = None,
    *,
    trainer_state: Any = None,
    log_metric: Any = None,
    log_extra: Any = None,
    **columns: list[Any],
) -> list[float | None]:
    """Run the idea in every completion and return its improvement over what was known; None for `lost`.

    Raises:
        IdeatorError: as `execution_reward`; or an option is no usable number.
    """
    del prompts, completion_ids
    batch = _Batch(completions, columns, trainer_state)
    said = {each.row: each async for each in batch.rewards(log_metric)}
    refuse_if_all_lost(in_order(batch.records))
    batch.log(log_metric, log_extra)
    return [said[row].reward for row in range(len(completions))]


async def improvement_reward_as_completed(
    prompts: list[Any],
    completions: list[Any],
    completion_ids: list[list[int]] | None = None,
    *,
    trainer_state: Any = None,
    log_metric: Any = None,
    log_extra: Any = None,
    **columns: list[Any],
) -> AsyncIterator[RowReward]:
    """The same, one `RowReward` a completion as soon as its outcome is known.

    `improvement/…` is logged as it becomes known: who closes a batch at a quorum sees it for the rows that have come.
    The outcomes are logged after the last.
    """
    del prompts, completion_ids
    batch = _Batch(completions, columns, trainer_state)
    async for each in batch.rewards(log_metric):
        yield each
    batch.log(log_metric, log_extra)


improvement_reward.as_completed = improvement_reward_as_completed  # type: ignore[attr-defined]
improvement_reward.runs_experiments = True  # type: ignore[attr-defined]
improvement_reward.options = OPTIONS  # type: ignore[attr-defined]


def bar_of(archive: Archive, failure: float, options: dict[str, Any] | None = None) -> Bar:
    """The bar that an archive sets.

    Args:
        failure: the environment's failure reward.
        options: `improvement_k` and so on; what is missing or None is as the constants say.

    Raises:
        IdeatorError: an option is no usable number.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    for key, value in given.items():
        if key in OPTIONS:
            OPTIONS[key].check(key, value)
    baseline, span = archive.baseline, archive.span()
    best = archive.kth_best(int(given.get("improvement_k", K)))
    measured = baseline.spread if baseline else None
    margin = given.get("improvement_noise", NOISE if measured is None else measured) or 0.0
    known = [value for value in (best, baseline.quality if baseline else None) if value is not None]
    level = max(known, default=failure)
    scale = given.get("improvement_scale", SCALE)
    if scale is None:
        width = span[1] - span[0] if span else 0.0
        scale = SHARE * (width or abs(level)) or 1.0
    return Bar(level, margin, scale, given.get("improvement_cap", CAP), len(archive))


class _Batch:
    """One batch on its way: bars taken when it is made, records as they come."""

    def __init__(self, completions: list[Any], columns: Columns, trainer_state: Any):
        self.records: dict[int, Experiment] = {}
        self._completions, self._columns, self._state = completions, columns, trainer_state
        self._bars: dict[RewardBuffer, Bar] = {}
        self._archives: dict[RewardBuffer, Archive] = {}
        self._parents: dict[int, float] = {}
        for config, rows in by_config(columns, len(completions)).items():
            buffer = open_buffer(config)
            archive = self._proposed(buffer)
            options = {name: columns[name][rows[0]] for name in columns if name.startswith("improvement_")}
            self._bars[buffer] = bar_of(archive, buffer.executor.environment.failure_reward, options)
            for row in rows:
                shown = columns["parents"][row] if "parents" in columns else None
                values = [value for id in shown or () if (value := archive.quality(id)) is not None]
                if values:
                    self._parents[row] = statistics.fmean(values)

    def _proposed(self, buffer: RewardBuffer) -> Archive:
        """What was known when this batch was first proposed: most often what is known now."""
        archive = self._archives[buffer] = archive_of(buffer)
        step = step_of(self._state)
        return archive if step is None else archive_of(buffer, buffer.mark(step, len(archive)))

    async def rewards(self, log_metric: Any) -> AsyncIterator[RowReward]:
        """Logs the bars first, and of every row whether its codebase was known and whether it earned something."""
        tell = log_metric or (lambda name, value: None)
        for name in ("level", "margin", "scale"):
            tell(f"improvement/{name}", statistics.fmean(getattr(bar, name) for bar in self._bars.values()))
        async for row, record, buffer in outcomes(self._completions, self._columns, self._state):
            self.records[row] = record
            reward, repeated = self._reward(row, record, buffer)
            tell("improvement/known", float(repeated))
            tell("improvement/improved", float((reward or 0.0) > 0))
            yield row_reward(row, record, reward, buffer)

    def _reward(self, row: int, record: Experiment, buffer: RewardBuffer) -> tuple[float | None, bool]:
        """What a row earns, and whether its codebase was known."""
        if record.status == LOST:
            return None, False
        bar = self._bars[buffer]
        repeated = bool(record.tree) and self._archives[buffer].knows(record, before=bar.known)
        new = record.status == SUCCEEDED and record.reward is not None and not repeated
        return bar.earned(record.reward or 0.0, self._parents.get(row)) if new else 0.0, repeated

    def log(self, log_metric: Any, log_extra: Any) -> None:
        """The real outcomes as `execution_reward` logs them."""
        records = in_order(self.records)
        log_records(records, log_metric, log_extra)
        if log_extra is not None:
            log_extra("execution_reward", [record.reward for record in records])
