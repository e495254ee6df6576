"""What the report says of one run, before it is drawn: counts, baseline, best idea, and a row for every experiment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean, stdev

import yaml

from ideator_rl.experiment import RERUN_REPLICATE, RUNNING, Experiment
from ideator_rl.report import charts
from ideator_rl.storage.records import Rollout, Run, Step
from ideator_rl.text import without_secrets


@dataclass(frozen=True)
class Row:
    """One experiment, or one proposal that has no outcome yet."""

    number: int
    """Its place in the run, from 1."""
    key: str
    """Its name in the page's address: the experiment's id, or its place among the proposals."""
    status: str
    idea: str
    thought: str
    proposals: list[Rollout]
    """Where it was proposed; empty for a baseline, a re-run or a patch by hand."""
    record: Experiment | None

    @property
    def steps(self) -> list[int]:
        """Counted from 1, as everywhere on the page."""
        return list(dict.fromkeys(rollout.step + 1 for rollout in self.proposals))

    @property
    def baseline(self) -> bool:
        return self.record is not None and self.record.implementer == "baseline"

    @property
    def rerun(self) -> bool:
        return self.record is not None and self.record.replicate >= RERUN_REPLICATE


@dataclass(frozen=True)
class Section:
    """One run."""

    name: str
    run: Run
    rows: list[Row]
    steps: list[Step] = field(default_factory=list)

    @cached_property
    def counts(self) -> Counter[str]:
        """Proposals by status."""
        return Counter(row.status for row in self.run.rollouts)

    @cached_property
    def outcomes(self) -> dict[int, Counter[str]]:
        """Proposals by status, of every step."""
        found: dict[int, Counter[str]] = {step.step: Counter() for step in self.steps}
        for row in self.run.rollouts:
            found[row.step][row.status] += 1
        return found

    @cached_property
    def baseline_values(self) -> list[float]:
        return [e.metric["value"] for e in self.run.baselines if e.metric]

    @property
    def baseline(self) -> charts.Baseline | None:
        values = self.baseline_values
        return charts.Baseline(min(values), mean(values), max(values)) if values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the baseline's runs."""
        return stdev(self.baseline_values) if len(self.baseline_values) > 1 else None

    @cached_property
    def ranked(self) -> list[Experiment]:
        return self.run.ranked

    @property
    def best(self) -> Experiment | None:
        return self.ranked[0] if self.ranked else None

    @property
    def gain(self) -> float | None:
        """How much better the best is than the baseline's mean, in the metric's unit; positive is better."""
        if self.best is None or self.baseline is None:
            return None
        return self.better(mean(self.run.values(self.best)), self.baseline.mean)

    def better(self, value: float, other: float) -> float:
        """By how much a value is better than another, in the metric's unit."""
        return other - value if self.run.direction == "min" else value - other

    def row_of(self, record: Experiment) -> Row | None:
        return self._by_id.get(record.id)

    @cached_property
    def _by_id(self) -> dict[str, Row]:
        return {row.record.id: row for row in self.rows if row.record}

    @property
    def unfinished(self) -> bool:
        """A run of a recipe writes its timings last."""
        return self.counts[RUNNING] > 0 or bool(self.run.recipe and not self.run.timings)

    @property
    def isolation(self) -> list[str]:
        return sorted({e.isolation for e in self.run.experiments.values() if e.isolation})

    @property
    def implementers(self) -> list[str]:
        return sorted({e.implementer for e in self.run.experiments.values()} - {"baseline", ""})

    @property
    def hardware(self) -> list[str]:
        return sorted({e.hardware for e in self.run.experiments.values()} - {""})

    @property
    def environments(self) -> list[str]:
        found = {f"{e.environment}, preset {e.preset}" for e in self.run.experiments.values()}
        named = self.run.recipe.get("env")
        return sorted(found) or ([f"{named}, preset {self.run.recipe.get('preset', '-')}"] if named else [])

    @property
    def recipe(self) -> str:
        """The whole of it as YAML, without what looks like a secret."""
        shown = without_secrets(self.run.recipe)
        return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True) if shown else ""


def section(name: str, run: Run) -> Section:
    return Section(name, run, _rows(run), run.by_step())


def names(runs: list[Run]) -> list[str]:
    """The folders' own names; the paths where two are the same."""
    short = [run.folder.absolute().name for run in runs]
    return [name if short.count(name) == 1 else str(run.folder) for name, run in zip(short, runs, strict=True)]


def _rows(run: Run) -> list[Row]:
    """Baselines first, then experiments in the order they were proposed."""
    proposals: dict[str, list[Rollout]] = {}
    for rollout in run.rollouts:
        key = rollout.experiment_id or f"step{rollout.step + 1}-{rollout.position + 1}"
        proposals.setdefault(key, []).append(rollout)
    rows: list[Row] = []
    for key in [*(id for id in run.experiments if id not in proposals), *proposals]:
        asked, record = proposals.get(key, []), run.experiments.get(key)
        first = asked[0] if asked else None
        status = record.status if record else first.status if first else RUNNING
        idea = (record.idea if record else "") or (first.idea or first.completion if first else "")
        rows.append(Row(len(rows) + 1, key, status, idea, first.thought if first else "", asked, record))
    return rows
