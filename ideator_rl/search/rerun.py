"""Runs the best ideas again under other seeds, together with the baseline under the same seeds.

The best of many tries owes a part of its value to luck: the value it was chosen for is reported, but left out of the
mean.  Every seed pairs an idea with the baseline, so that the gain has a standard error of its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.experiment import FINAL_REPLICATE, RERUN_REPLICATE, SUCCEEDED, Experiment, metric_label
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.storage.bucket import Bucket, open_bucket
from ideator_rl.storage.index import read_results
from ideator_rl.storage.run_reader import Run, read_run


@dataclass(frozen=True)
class Rerun:
    """An idea that was run again; `values` and `baseline` are paired by seed, None where a run did not succeed."""

    id: str
    idea: str
    patch: str
    first: float
    """The metric it was chosen for."""
    values: list[float | None]
    baseline: list[float | None]
    direction: str
    """`min` or `max`."""

    @property
    def measured(self) -> list[float]:
        """The values of the runs that succeeded."""
        return [value for value in self.values if value is not None]

    @property
    def gains(self) -> list[float]:
        """Improvement over the baseline for each seed where both succeeded; positive is better."""
        sign = 1 if self.direction == "max" else -1
        pairs = zip(self.values, self.baseline, strict=True)
        return [sign * (value - base) for value, base in pairs if value is not None and base is not None]

    @property
    def gain_error(self) -> float | None:
        """Standard error of the mean gain; None for fewer than two pairs."""
        return stdev(self.gains) / len(self.gains) ** 0.5 if len(self.gains) > 1 else None

    def facts(self) -> dict[str, object]:
        """For a program."""
        return {
            "id": self.id,
            "idea": self.idea,
            "patch": self.patch,
            "first": self.first,
            "values": self.values,
            "mean": mean(self.measured) if self.measured else None,
            "deviation": stdev(self.measured) if len(self.measured) > 1 else None,
            "baseline": self.baseline,
            "gain": mean(self.gains) if self.gains else None,
            "gain_error": self.gain_error,
        }


@dataclass(frozen=True)
class Source:
    """Where the records are: a bucket, and the run folder if it is a run."""

    bucket: Bucket
    folder: Path | None = None

    def best(self, count: int) -> list[Experiment]:
        """The `count` best distinct codebases, best first.

        Raises:
            IdeatorError: no experiment succeeded, or the experiments belong to several environments or metrics.
        """
        # A run's records know their order of proposal; a bucket has only the results.
        ranked = read_run(self.folder).ranked if self.folder else _ranked(self.bucket)
        if not ranked:
            raise IdeatorError("No idea succeeded here; there is nothing to run again.")
        # Metrics of different environments cannot be ranked together, nor reported ones with measured ones.
        kinds = {(e.environment, e.preset, metric_label(e.metric) if e.metric else "") for e in ranked}
        if len(kinds) > 1:
            names = ", ".join(f"{name}/{preset} by {metric}" for name, preset, metric in sorted(kinds))
            raise IdeatorError(f"This bucket holds several environments ({names}). Name a run's folder instead.")
        return ranked[:count]

    def buffer(self, record: Experiment, slots: int | None, isolation: str) -> RewardBuffer:
        """A buffer with the environment, preset and seed of this record.

        Raises:
            IdeatorError: the record's codebase is not in the bucket.
        """
        spec = record_store.Spec.load(self.bucket, record.id)
        if spec is None:
            raise IdeatorError(f"The bucket {self.bucket.url} does not hold the experiment {record.id}.")
        folder = str(self.folder) if self.folder else None
        config = BufferConfig(spec.environment, spec.preset, self.bucket.url, slots=slots, isolation=isolation,
                              seed=spec.seed, run_dir=folder)  # fmt: skip
        return open_buffer(config)


def source_of_run(folder: Path) -> Source:
    """A run folder with the bucket that its recipe names."""
    return Source(bucket_of_run(read_run(folder)), folder)


def bucket_of_run(run: Run) -> Bucket:
    """The bucket that a run's recipe names; by default the one in its folder."""
    return open_bucket(str(run.recipe.get("bucket") or (run.folder / "bucket").absolute().as_uri()))


async def rerun(buffer: RewardBuffer, records: list[Experiment], replicates: int) -> list[Rerun]:
    """Run each record's codebase and the baseline under `replicates` further seeds."""
    # Replicate numbers far above those of a search: these runs never count as its own.
    numbers = range(RERUN_REPLICATE, RERUN_REPLICATE + replicates)
    baseline_runs = [buffer.baseline(number) for number in numbers]
    idea_runs = [buffer.rerun(record.id, number) for record in records for number in numbers]
    # All runs start together; `rows[0]` is the baseline, then one row for each idea.
    values = [_value(record) for record in await asyncio.gather(*baseline_runs, *idea_runs)]
    rows = [values[i : i + replicates] for i in range(0, len(values), replicates)]
    return [
        Rerun(record.id, record.idea, record.patch, record.metric["value"], row, rows[0], record.metric["direction"])
        for record, row in zip(records, rows[1:], strict=True)
        if record.metric is not None
    ]


def _value(record: Experiment) -> float | None:
    return record.metric["value"] if record.status == SUCCEEDED and record.metric else None


def _ranked(bucket: Bucket) -> list[Experiment]:
    """The first success of every codebase in a bucket, best metric first."""
    results = read_results(bucket, record_store.load_records, SUCCEEDED)
    # What was measured for a leaderboard must not choose.
    searched = [record for record in results if record.metric and record.replicate < FINAL_REPLICATE]
    good = [record for record in searched if not record.is_baseline]
    # Of a codebase that ran several times the original run counts, not the luckiest one.
    first_by_tree: dict[str, Experiment] = {}
    for record in sorted(good, key=lambda record: (record.replicate, record.seed, record.id)):
        first_by_tree.setdefault(record.tree, record)
    sign = 1 if good and good[0].metric and good[0].metric["direction"] == "min" else -1
    return sorted(first_by_tree.values(), key=lambda record: sign * record.metric["value"] if record.metric else 0.0)
