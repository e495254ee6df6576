"""Run the best ideas again, under other seeds, beside the baseline under the same ones.

The best of many tries is flattered by luck: the value it was chosen for is shown, and left out of the mean.  Seeds are
paired with the baseline's, so that the gain has an error of its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from ideator_rl.errors import IdeatorError
from ideator_rl.executor import store
from ideator_rl.experiment import RERUN_REPLICATE, SUCCEEDED, Experiment
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.storage.bucket import Bucket, open_bucket
from ideator_rl.storage.records import read_run


@dataclass(frozen=True)
class Again:
    """An idea that was run again; `values` and `baseline` are paired by seed, None where a run did not succeed."""

    id: str
    idea: str
    patch: str
    first: float
    """What it was chosen for."""
    values: list[float | None]
    baseline: list[float | None]
    direction: str

    @property
    def known(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def gains(self) -> list[float]:
        """Improvement over the baseline, seed by seed; positive is better."""
        sign = 1 if self.direction == "max" else -1
        pairs = zip(self.values, self.baseline, strict=True)
        return [sign * (a - b) for a, b in pairs if a is not None and b is not None]

    def facts(self) -> dict[str, object]:
        """For a program to read."""
        return {
            "id": self.id,
            "idea": self.idea,
            "patch": self.patch,
            "first": self.first,
            "values": self.values,
            "mean": mean(self.known) if self.known else None,
            "deviation": stdev(self.known) if len(self.known) > 1 else None,
            "baseline": self.baseline,
            "gain": mean(self.gains) if self.gains else None,
            "gain_error": stdev(self.gains) / len(self.gains) ** 0.5 if len(self.gains) > 1 else None,
        }


@dataclass(frozen=True)
class Place:
    """Where the records are: a bucket, and the run's folder if it is one."""

    bucket: Bucket
    folder: Path | None = None

    def best(self, count: int) -> list[Experiment]:
        """The best distinct codebases, best first, that this place knows.

        Raises:
            IdeatorError: none of its experiments succeeded, or they belong to several environments.
        """
        found = read_run(self.folder).ranked if self.folder else _ranked(self.bucket)
        if not found:
            raise IdeatorError("No idea succeeded here; there is nothing to run again.")
        kinds = {(record.environment, record.preset) for record in found}
        if len(kinds) > 1:
            names = ", ".join(f"{name}/{preset}" for name, preset in sorted(kinds))
            raise IdeatorError(f"This bucket holds several environments ({names}). Name a run's folder instead.")
        return found[:count]

    def buffer(self, record: Experiment, slots: int | None, isolation: str) -> RewardBuffer:
        """A buffer that runs what this record ran.

        Raises:
            IdeatorError: the record's codebase is not in the bucket.
        """
        spec = store.Spec.load(self.bucket, record.id)
        if spec is None:
            raise IdeatorError(f"The bucket {self.bucket.url} does not hold the experiment {record.id}.")
        folder = str(self.folder) if self.folder else None
        config = BufferConfig(spec.environment, spec.preset, self.bucket.url, slots=slots, isolation=isolation,
                              seed=spec.seed, run_dir=folder)  # fmt: skip
        return open_buffer(config)


def place_of_run(folder: Path) -> Place:
    """A run's folder and the bucket that its recipe names."""
    given = read_run(folder).recipe.get("bucket")
    return Place(open_bucket(str(given or (folder / "bucket").absolute().as_uri())), folder)


async def rerun(buffer: RewardBuffer, records: list[Experiment], replicates: int) -> list[Again]:
    """Run each record's codebase and the baseline under `replicates` further seeds."""
    numbers = range(RERUN_REPLICATE, RERUN_REPLICATE + replicates)
    baseline = [buffer.baseline(number) for number in numbers]
    again = [buffer.again(record.id, number) for record in records for number in numbers]
    values = [_value(record) for record in await asyncio.gather(*baseline, *again)]
    rows = [values[i : i + replicates] for i in range(0, len(values), replicates)]
    return [
        Again(record.id, record.idea, record.patch, record.metric["value"], row, rows[0], record.metric["direction"])
        for record, row in zip(records, rows[1:], strict=True)
        if record.metric is not None
    ]


def _value(record: Experiment) -> float | None:
    return record.metric["value"] if record.status == SUCCEEDED and record.metric else None


def _ranked(bucket: Bucket) -> list[Experiment]:
    loaded = (store.load_record(bucket, id) for id in bucket.names("experiments"))
    good = [one for one in loaded if one and one.status == SUCCEEDED and one.metric and one.implementer != "baseline"]
    firsts: dict[str, Experiment] = {}
    for record in sorted(good, key=lambda record: (record.replicate, record.seed)):
        firsts.setdefault(record.tree, record)
    sign = 1 if good and good[0].metric and good[0].metric["direction"] == "min" else -1
    return sorted(firsts.values(), key=lambda record: sign * record.metric["value"] if record.metric else 0.0)
