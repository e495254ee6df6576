"""The best ideas of a run, measured as a leaderboard measures: new seeds, the hidden split `final`, a p-value.

Nothing of it returns to the run: its records are in the bucket alone, and no search or training reads them.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ideator_rl.environments.references import SECONDS, Reference
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import FINAL_REPLICATE, SUCCEEDED, Experiment
from ideator_rl.files import write_atomic
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.run_folder import LEADERBOARD


@dataclass(frozen=True)
class Entry:
    """One codebase with its runs on the final split."""

    label: str
    id: str
    """Of the experiment that the search chose; empty for the baseline."""
    idea: str
    values: list[float | None]
    """The metric of each run; None where it did not succeed."""
    seconds: list[float | None]
    """Of the budget until the target was reached; None where it was not."""
    compilation: list[float | None]
    """Of them, those until the run reported that it had compiled; None where it did not report."""

    @property
    def measured(self) -> list[float]:
        return [value for value in self.values if value is not None]

    def p(self, target: float, direction: str) -> float | None:
        """One-sided t-test: the chance of such runs if the true mean were the target.

        None for fewer than two runs, and where one did not succeed: the others would be a selection.
        """
        values = self.measured
        if len(values) < max(2, len(self.values)):
            return None
        gain = (target - mean(values)) * (1 if direction == "min" else -1)
        if (spread := stdev(values)) == 0:
            return 0.0 if gain > 0 else 1.0
        from scipy.stats import t

        return float(t.sf(gain / (spread / math.sqrt(len(values))), len(values) - 1))

    @property
    def seconds_mean(self) -> float | None:
        """Mean seconds to the target; None unless every run reached it."""
        reached = [seconds for seconds in self.seconds if seconds is not None]
        return mean(reached) if reached and len(reached) == len(self.seconds) else None

    @property
    def seconds_without_compilation(self) -> float | None:
        """The same from the end of compilation on; None unless every run reported it."""
        pairs = list(zip(self.seconds, self.compilation, strict=True))
        # All or none: a mean of some runs would not compare with `seconds_mean`.
        left = [total - compiling for total, compiling in pairs if total is not None and compiling is not None]
        return mean(left) if left and len(left) == len(pairs) else None


@dataclass(frozen=True)
class Leaderboard:
    """Entries beside the results that others published."""

    environment: str
    preset: str
    metric: str
    direction: str
    target: float
    hardware: str
    entries: list[Entry]
    references: list[Reference] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For a program, and for the file in the run's folder."""
        rows = [
            asdict(entry)
            | {
                "mean": mean(entry.measured) if entry.measured else None,
                "deviation": stdev(entry.measured) if len(entry.measured) > 1 else None,
                "p": entry.p(self.target, self.direction),
                "seconds_to_target": entry.seconds_mean,
                "seconds_without_compilation": entry.seconds_without_compilation,
            }
            for entry in self.entries
        ]
        references = [asdict(reference) for reference in self.references]  # type: ignore[call-overload]
        return asdict(self) | {"entries": rows, "references": references}

    def save(self, folder: Path) -> None:
        """Write the facts into a run's folder."""
        write_atomic(folder / LEADERBOARD, json.dumps(self.facts(), indent=1))


async def measure(
    buffer: RewardBuffer, records: Sequence[Experiment], replicates: int, results: Sequence[Reference]
) -> Leaderboard:
    """Run each record's codebase and the baseline `replicates` times, measured on the final split.

    Raises:
        IdeatorError: the preset has no target, and so no final split.
    """
    executor = buffer.executor
    target, metric = executor.preset.target, executor.environment.metric
    if metric.is_reported:
        raise IdeatorError(
            f"{metric.name} of {executor.environment.name} is reported, not measured, so it has no leaderboard. Let "
            "trusted code measure it, and delete `source: reported` in env.yaml."
        )
    if target is None:
        raise IdeatorError(
            f"The preset {executor.preset.name} of {executor.environment.name} has no target, and so no leaderboard. "
            "Give one of its presets that sets `target` in env.yaml."
        )
    # Seeds of their own: no run that the search selected by is counted again.
    numbers = range(FINAL_REPLICATE, FINAL_REPLICATE + replicates)
    # By the executor, not by the buffer, which would enter the results among those of the run.
    runs = [executor.rerun(record.id, number) for record in records for number in numbers]
    runs += [executor.baseline(number) for number in numbers]
    finished = await asyncio.gather(*runs)
    # In the order of `runs`: the replicates of each idea, then those of the baseline.
    rows = [finished[i : i + replicates] for i in range(0, len(finished), replicates)]
    chosen = [(f"idea {place}", record.id, record.idea) for place, record in enumerate(records, 1)]
    entries = [
        _entry(label, id, idea, row)
        for (label, id, idea), row in zip([*chosen, ("baseline", "", "")], rows, strict=True)
    ]
    hardware = finished[0].hardware if finished else ""
    return Leaderboard(
        executor.environment.name, executor.preset.name, metric.name, metric.direction, target, hardware, entries,
        list(results),
    )  # fmt: skip


def _entry(label: str, id: str, idea: str, runs: Sequence[Experiment]) -> Entry:
    # None for a run without a metric: values, seconds and compilation stay aligned by run.
    good = [run if run.status == SUCCEEDED and run.metric else None for run in runs]
    return Entry(
        label,
        id,
        idea,
        values=[run.metric["value"] if run and run.metric else None for run in good],
        seconds=[run.scoring.get(SECONDS) if run else None for run in good],
        compilation=[run.scoring.get("seconds_compilation") if run else None for run in good],
    )
