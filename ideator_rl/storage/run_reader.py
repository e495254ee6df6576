"""A run, read back from its folder: `read_run` returns its proposals, experiments and lineage.

Works while the run goes on, and after it was killed.  Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, TypeVar

from ideator_rl.config.reader import read_json
from ideator_rl.config.yaml_reader import read_yaml
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, OWN_FAILURES, RERUN_REPLICATE, RUNNING, SUCCEEDED, Experiment, metric_label
from ideator_rl.storage.forecasts import ForecastOutcome, read_forecasts
from ideator_rl.storage.idea_context import InheritedPatch, inherited_patches, prompts_by_idea
from ideator_rl.storage.journal_reader import JOURNAL, Descent, JournalError, JournalReader, Rollout
from ideator_rl.text.redaction import Redactor

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")

__all__ = ["JOURNAL", "NoRun", "Rollout", "Run", "Step", "mapping", "read_run"]


class NoRun(IdeatorError):
    """The folder holds no run."""


@dataclass(frozen=True)
class Step:
    """One step in figures; `mean` and `best` are of the metric, over successes only."""

    step: int
    proposed: int
    succeeded: int
    failed: int
    lost: int
    running: int
    reward: float | None
    """Mean reward of the rows that have one: lost and running rows do not."""
    mean: float | None
    best: float | None
    distinct: int
    """Different experiments among the known outcomes."""

    @property
    def success(self) -> float | None:
        """The share of successes among the outcomes that are known and not lost; None where there is none."""
        count = self.succeeded + self.failed
        return self.succeeded / count if count else None


@dataclass
class Run:
    """A run's records.  `experiments` are by id, in the order in which they ended."""

    folder: Path
    recipe: dict[str, Any]
    rollouts: list[Rollout]
    experiments: dict[str, Experiment]
    timings: dict[str, float] = field(default_factory=dict)
    lineage: list[Descent] = field(default_factory=list)
    """Which experiments were proposed in answer to which, in the order written."""

    @property
    def is_search(self) -> bool:
        """No model is trained: only the recipe of a search names an ideator."""
        return "ideator" in self.recipe

    @property
    def direction(self) -> str:
        return next((e.metric["direction"] for e in self.experiments.values() if e.metric), "min")

    @property
    def metric(self) -> str:
        """Its name, marked where it is reported: runs of both kinds are never compared."""
        return next((metric_label(e.metric) for e in self.experiments.values() if e.metric), "metric")

    @property
    def baselines(self) -> list[Experiment]:
        return [e for e in self.experiments.values() if e.is_baseline and e.status == SUCCEEDED]

    @property
    def baseline(self) -> float | None:
        """Mean metric of the baseline's runs."""
        values = [e.metric["value"] for e in self.baselines if e.metric]
        return sum(values) / len(values) if values else None

    @property
    def ran(self) -> list[Experiment]:
        """Every distinct experiment that was run for an idea, in the order the ideas were proposed."""
        order = {row.experiment_id: None for row in self.rollouts}
        ids = [*(id for id in order if id in self.experiments), *(id for id in self.experiments if id not in order)]
        records = [self.experiments[id] for id in ids]
        searched = [e for e in records if e.replicate < RERUN_REPLICATE]  # a re-run proves, it does not search
        return [e for e in searched if e.tree and e.status != LOST and not e.is_baseline]

    @property
    def places(self) -> list[tuple[str, str]]:
        """The parts of the run that exist, each with its path or URL."""
        names = (("model", "model"), ("records", JOURNAL), ("bucket", "bucket"), ("report", "report.html"))
        paths = [(label, str(self.folder / name)) for label, name in names if (self.folder / name).exists()]
        url = str(self.recipe.get("bucket") or "")
        if url and "bucket" not in dict(paths):
            paths.append(("bucket", Redactor(self.recipe).text(url)))
        return paths

    @property
    def ranked(self) -> list[Experiment]:
        """Successful ideas, best mean over their runs first, each by its first run; baselines are left out."""
        ideas = [e for e in self.experiments.values() if not e.is_baseline and e.status == SUCCEEDED]
        firsts: dict[str, Experiment] = {}
        for e in sorted((e for e in ideas if e.metric), key=lambda e: (e.replicate, e.seed)):
            firsts.setdefault(e.tree or e.id, e)
        sign = 1 if self.direction == "min" else -1
        return sorted(firsts.values(), key=lambda e: sign * mean(self.values(e)))

    def values(self, record: Experiment) -> list[float]:
        """The metrics of all successful runs of a record's codebase: the record's own first, then by replicate, since
        the order of arrival is chance."""
        own = [record.metric["value"]] if record.metric else []
        return own + [value for id, value in self._values_by_tree.get(record.tree, []) if id != record.id]

    @cached_property
    def _values_by_tree(self) -> dict[str, list[tuple[str, float]]]:
        values: dict[str, list[tuple[str, float]]] = {}
        for e in sorted(self.experiments.values(), key=lambda e: e.replicate):
            if e.tree and e.status == SUCCEEDED and e.metric:
                values.setdefault(e.tree, []).append((e.id, e.metric["value"]))
        return values

    @cached_property
    def origins(self) -> list[tuple[str, tuple[str, ...]]]:
        """Children and their parents.  An experiment that was proposed again, in answer to other ideas, has only the
        parents of its first step; else an idea could come from its own children."""
        first = self._first_rollouts
        return [
            (child, parents) for child, parents, step in self.lineage if child not in first or first[child].step == step
        ]

    @cached_property
    def _first_rollouts(self) -> dict[str, Rollout]:
        """The first proposal of each experiment, by id."""
        first: dict[str, Rollout] = {}
        for row in self.rollouts:
            first.setdefault(row.experiment_id, row)
        return first

    @cached_property
    def spent(self) -> dict[str, float]:
        """USD, tokens and GPU-hours of all sessions, from the ledger; empty for a run without one."""
        return {name: value for name, value in mapping(self.folder / "ledger.json").items() if isinstance(value, float)}

    @cached_property
    def forecasts(self) -> list[ForecastOutcome]:
        """Every idea that a screen sampled, with its forecast and outcome; read when first asked for.

        Raises:
            NoRun: the journal cannot be read.
        """
        return self._from_journal(read_forecasts)

    @cached_property
    def inherited(self) -> dict[tuple[int, int], InheritedPatch]:
        """The ideas that were written against another codebase than the baseline, by step and position.

        Raises:
            NoRun: the journal cannot be read.
        """
        if not (self.folder / JOURNAL).is_file():  # a run that was put together in memory
            return {}
        return {(row.step, row.position): row for row in self._from_journal(inherited_patches)}

    def code_parents(self, experiment: Experiment) -> list[Experiment]:
        """The experiments whose code an idea changed when it was first proposed: none for the baseline's, two for a
        merge.

        Raises:
            NoRun: the journal cannot be read.
        """
        first = self._first_rollouts.get(experiment.id)
        patch = self.inherited.get((first.step, first.position)) if first else None
        ids = patch.base.parents if patch and patch.base.tree else ()
        return [self.experiments[id] for id in ids if id in self.experiments]

    @cached_property
    def prompts(self) -> dict[tuple[int, int, int], str]:
        """The text that asked for each idea of a search, by step, rank and position; empty for older runs.

        Raises:
            NoRun: the journal cannot be read.
        """
        return self._from_journal(prompts_by_idea) if (self.folder / JOURNAL).is_file() else {}

    def _from_journal(self, read: Callable[[JournalReader], T]) -> T:
        try:
            with JournalReader(self.folder / JOURNAL) as journal:
                return read(journal)
        except JournalError as error:
            raise NoRun(str(error)) from error

    def frame(self) -> DataFrame:
        """The proposals as a pandas frame: one row each, in the order in which they were proposed.

        Columns: `step`, `position`, `completion`, `thought`, `idea`, `experiment_id`, `status`, `reward`, `metric`,
        `created` and `finished` (Unix seconds) and `rank` of the proposal; `error` (its kind), `seconds` (the run's
        wall clock), `usd` (paid to the coder), `tree` (SHA-256 of the codebase) and `patch` of its experiment.  A value
        that does not exist, or not yet, is None or NaN.
        """
        import pandas  # takes a second to import, and only notebooks need it

        rows = []
        for rollout in self.rollouts:
            record = self.experiments.get(rollout.experiment_id)
            outcome = {
                "error": record.error_kind or None if record else None,
                "seconds": record.seconds.get("run") if record else None,
                "usd": record.cost.get("usd", 0.0) if record else None,
                "tree": record.tree if record else None,
                "patch": record.patch if record else None,
            }
            rows.append(asdict(rollout) | outcome)
        return pandas.DataFrame(rows)

    def by_step(self) -> list[Step]:
        steps: dict[int, list[Rollout]] = {}
        for row in self.rollouts:
            steps.setdefault(row.step, []).append(row)
        return [_step(number, rows, self.direction) for number, rows in sorted(steps.items())]


def read_run(folder: Path | str) -> Run:
    """Read a run's folder.

    Raises:
        NoRun: no journal there, or one that cannot be read.
    """
    folder = Path(folder)
    if not (folder / JOURNAL).is_file():
        # A URL has lost one of its slashes as a path.
        is_bucket = (folder / "experiments").is_dir() or folder.parts[:1] and folder.parts[0].endswith(":")
        hint = " Of a bucket, `ideator-rl status` and `ideator-rl track` show the experiments." if is_bucket else ""
        raise NoRun(
            f"{folder} holds no run: expected the folder that a recipe names as output_dir, with a {JOURNAL}.{hint}"
        )
    try:
        with JournalReader(folder / JOURNAL) as journal:
            rows, records, lineage = journal.rollouts(), journal.experiments(), journal.lineage()
    except JournalError as error:
        raise NoRun(str(error)) from error
    return Run(
        folder,
        mapping(folder / "recipe.yaml"),
        rows,
        {record.id: record for record in sorted(records, key=lambda record: record.finished)},
        {key: value for key, value in mapping(folder / "timings.json").items() if isinstance(value, int | float)},
        lineage,
    )


def mapping(path: Path) -> dict[str, Any]:
    """A small YAML or JSON file of a run; empty where there is none, or one that a kill cut short."""
    try:
        value = read_json(path) if path.suffix == ".json" else read_yaml(path)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _step(number: int, rows: list[Rollout], direction: str) -> Step:
    metrics = [row.metric for row in rows if row.status == SUCCEEDED and row.metric is not None]
    rewards = [row.reward for row in rows if row.reward is not None]
    return Step(
        step=number,
        proposed=len(rows),
        succeeded=len(metrics),
        failed=sum(row.status in OWN_FAILURES for row in rows),
        lost=sum(row.status == LOST for row in rows),
        running=sum(row.status == RUNNING for row in rows),
        reward=sum(rewards) / len(rewards) if rewards else None,
        mean=sum(metrics) / len(metrics) if metrics else None,
        best=(min if direction == "min" else max)(metrics) if metrics else None,
        distinct=len({row.experiment_id for row in rows if row.experiment_id and row.status != LOST}),
    )
