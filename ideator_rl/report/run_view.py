"""One run as the report needs it, before anything is drawn: counts, baseline, best idea, a row for every experiment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean, stdev
from typing import Any

import yaml

from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.feedback import feedback_level
from ideator_rl.environments.references import Reference, references
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import RERUN_REPLICATE, RUNNING, Experiment
from ideator_rl.report.charts import Baseline
from ideator_rl.storage.idea_context import InheritedPatch
from ideator_rl.storage.run_folder import saved_leaderboard
from ideator_rl.storage.run_reader import Rollout, Run, Step
from ideator_rl.text.redaction import Redactor


@dataclass(frozen=True)
class Row:
    """One experiment, or one proposal that has no outcome yet."""

    number: int
    """Its place in the run, from 1."""
    key: str
    """Its URL fragment: the experiment's id, or its place among the proposals."""
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
    def is_baseline(self) -> bool:
        return self.record is not None and self.record.is_baseline

    @property
    def is_rerun(self) -> bool:
        return self.record is not None and self.record.replicate >= RERUN_REPLICATE


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run, and the figures that its parts share."""

    name: str
    run: Run
    rows: list[Row]
    steps: list[Step] = field(default_factory=list)
    published: bool = False
    """For readers of other machines: without the folders of this one."""

    @cached_property
    def counts(self) -> Counter[str]:
        """Proposals by status."""
        return Counter(rollout.status for rollout in self.run.rollouts)

    @cached_property
    def status_counts_by_step(self) -> dict[int, Counter[str]]:
        """Proposals by status, of every step."""
        counts: dict[int, Counter[str]] = {step.step: Counter() for step in self.steps}
        for rollout in self.run.rollouts:
            counts[rollout.step][rollout.status] += 1
        return counts

    @cached_property
    def baseline_values(self) -> list[float]:
        return [e.metric["value"] for e in self.run.baselines if e.metric]

    @property
    def baseline(self) -> Baseline | None:
        values = self.baseline_values
        return Baseline(min(values), mean(values), max(values)) if values else None

    @property
    def baseline_marks(self) -> list[Baseline]:
        """What a chart draws of the baseline: at most one mark."""
        return [self.baseline] if self.baseline else []

    @property
    def baseline_stdev(self) -> float | None:
        """Standard deviation of the baseline's runs."""
        return stdev(self.baseline_values) if len(self.baseline_values) > 1 else None

    @cached_property
    def ranked(self) -> list[Experiment]:
        """Successful ideas, the best first (`Run.ranked`)."""
        return self.run.ranked

    @property
    def best(self) -> Experiment | None:
        return self.ranked[0] if self.ranked else None

    @property
    def gain(self) -> float | None:
        """How much better the best is than the baseline's mean, in the metric's unit; positive is better."""
        if self.best is None or self.baseline is None:
            return None
        return self.improvement(mean(self.run.values(self.best)), self.baseline.mean)

    def improvement(self, value: float, reference: float) -> float:
        """By how much a value is better than a reference, in the metric's unit."""
        return reference - value if self.run.direction == "min" else value - reference

    def row_of(self, record: Experiment) -> Row | None:
        return self._row_by_id.get(record.id)

    def inherited_of(self, row: Row) -> InheritedPatch | None:
        """What an idea inherited when it was first proposed."""
        first = row.proposals[0] if row.proposals else None
        return self.run.inherited.get((first.step, first.position)) if first else None

    def code_parents(self, row: Row | None) -> list[Row]:
        """The experiments whose code an idea changed: none for the baseline's, two for a merge."""
        parents = self.run.code_parents(row.record) if row and row.record else []
        return [self._row_by_id[parent.id] for parent in parents if parent.id in self._row_by_id]

    @cached_property
    def _row_by_id(self) -> dict[str, Row]:
        return {row.record.id: row for row in self.rows if row.record}

    @property
    def unfinished(self) -> bool:
        """As `unfinished` has it."""
        return unfinished(self.run)

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
        """Environments with their presets: of the experiments, or of the recipe while there are none."""
        used = {f"{e.environment}, preset {e.preset}" for e in self.run.experiments.values()}
        if used:
            return sorted(used)
        recipe = self.run.recipe
        return [f"{recipe['env']}, preset {recipe.get('preset', '-')}"] if recipe.get("env") else []

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """Published results to compare the run's preset with; empty where the environment is not on this machine."""
        recipe = self.run.recipe
        try:
            environment = load_environment(str(recipe.get("env") or ""))
            return references(environment, str(recipe.get("preset") or "cpu"))
        except (IdeatorError, OSError, ValueError):
            return ()

    @cached_property
    def secondary_directions(self) -> dict[str, str]:
        """`min` or `max` by secondary metric: which is better; empty where the environment is not on this machine."""
        try:
            environment = load_environment(str(self.run.recipe.get("env") or ""))
        except (IdeatorError, OSError, ValueError):
            return {}
        return environment.metric.secondary

    @cached_property
    def feedback_level(self) -> str:
        """How much of an experiment its ideators are shown."""
        return feedback_level(str(self.run.recipe.get("env") or ""))

    @cached_property
    def leaderboard(self) -> dict[str, Any] | None:
        """What `ideator-rl leaderboard` measured of this run; None before it was called."""
        return saved_leaderboard(self.run.folder)

    @cached_property
    def public_recipe(self) -> dict[str, Any]:
        """The recipe without what looks like a secret."""
        return Redactor(self.run.recipe).settings(self.run.recipe, shorten_paths=False)

    @property
    def recipe(self) -> str:
        """The whole public recipe as YAML."""
        return yaml.safe_dump(self.public_recipe, sort_keys=False, allow_unicode=True) if self.public_recipe else ""


def unfinished(run: Run) -> bool:
    """Ideas wait for an outcome, or the run of a recipe has no timings yet: it writes them last."""
    waiting = any(rollout.status == RUNNING for rollout in run.rollouts)
    return waiting or bool(run.recipe and not run.timings)


def run_view(name: str, run: Run, published: bool = False) -> RunView:
    """The view of a run; `name` is its heading."""
    return RunView(name, run, _rows(run), run.by_step(), published)


def run_labels(runs: list[Run]) -> list[str]:
    """The folders' own names; the paths where two are the same."""
    short = [run.folder.absolute().name for run in runs]
    return [name if short.count(name) == 1 else str(run.folder) for name, run in zip(short, runs, strict=True)]


def _rows(run: Run) -> list[Row]:
    """Experiments without a proposal first (baselines, re-runs, patches by hand), then proposals in their order."""
    proposals_by_key: dict[str, list[Rollout]] = {}
    for rollout in run.rollouts:
        # A running proposal has no experiment id yet: its place is its key.
        key = rollout.experiment_id or f"step{rollout.step + 1}-{rollout.position + 1}"
        proposals_by_key.setdefault(key, []).append(rollout)
    rows: list[Row] = []
    for key in [*(id for id in run.experiments if id not in proposals_by_key), *proposals_by_key]:
        proposals, record = proposals_by_key.get(key, []), run.experiments.get(key)
        first = proposals[0] if proposals else None
        status = record.status if record else first.status if first else RUNNING
        idea = (record.idea if record else "") or (first.idea or first.completion if first else "")
        rows.append(Row(len(rows) + 1, key, status, idea, first.thought if first else "", proposals, record))
    return rows
