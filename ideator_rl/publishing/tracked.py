"""What a tracker shows of experiments, and where they are read from: the journal of a run, or the results of a bucket.

Texts of models are without secrets, and with no character that acts on a terminal or a page.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ideator_rl.config.reader import MAX_DATA_BYTES, parse_json, read_text
from ideator_rl.diversity.alarms import Alarm, alarms
from ideator_rl.diversity.window import Window
from ideator_rl.executor.record_store import load_records
from ideator_rl.experiment import LOST, Experiment
from ideator_rl.ideas import CHANGES, EXPERIMENT
from ideator_rl.screen.figures import ScreenStep, screen_steps
from ideator_rl.search.population_watch import FILE as WINDOWS_FILE
from ideator_rl.storage.bucket import Bucket
from ideator_rl.storage.index import ResultIndex
from ideator_rl.storage.journal_reader import Rollout
from ideator_rl.storage.run_reader import Step, read_run
from ideator_rl.text.display import shorten, visible
from ideator_rl.text.redaction import Redactor
from ideator_rl.training.tracking import run_name

MAX_TRACES = 200
"""Completions of one look at a run that are sent as traces: the newest."""
NAME_LENGTH, IDEA_LENGTH = 40, 200
"""Characters of an idea in the name of its run, and in the table."""


@dataclass(frozen=True)
class Tracked:
    """An experiment that has ended, as a tracker shows it."""

    id: str
    name: str
    group: str
    job_type: str
    config: dict[str, Any]
    summary: dict[str, Any]
    texts: dict[str, str]
    """File names with their contents: idea, patch, end of the log.  Written by models and their programs."""


@dataclass
class GroupNews:
    """What is new of a run or bucket as a whole since the last look."""

    group: str
    table: list[dict[str, Any]] | None = None
    """All rows, or None when the tracker's table is up to date."""
    curves: list[dict[str, float]] = field(default_factory=list)
    """Points, each with its `step`."""
    alarms: list[Alarm] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    """Completions, each with `messages` and `metadata`."""

    def __bool__(self) -> bool:
        return bool(self.table or self.curves or self.alarms or self.traces)


class Source(Protocol):
    """Where experiments come from."""

    group: str
    redactor: Redactor
    """Removes secrets from their texts: those of the variables that a run's recipe names included."""

    def new_records(self) -> Iterator[tuple[Experiment, int | None]]:
        """Records that have ended since the last call, each with the step of its first proposal.  The one at which the
        caller stopped comes again."""

    def group_news(self, sent: Counter[str], last: bool) -> GroupNews:
        """Curves, alarms and traces after those that were sent.

        Args:
            sent: their numbers so far; it is updated.
            last: nothing will be added to the newest step.
        """


class BucketSource:
    """All results of a bucket."""

    def __init__(self, bucket: Bucket):
        mark = hashlib.sha256(bucket.url.encode()).hexdigest()[:4]
        self.group = f"{bucket.url.rstrip('/').rpartition('/')[2]}-{mark}"
        self._index = ResultIndex(bucket, load_records)
        self._row = 0
        self._seen: set[tuple[str, float]] = set()
        self.redactor = Redactor()

    def new_records(self) -> Iterator[tuple[Experiment, int | None]]:
        self._index.update()
        for row, record in self._index.records(after=self._row):
            # A damaged index is made anew, and gives all its records again; one that ran again has another time.
            if (record.id, record.finished) not in self._seen:
                yield record, None
                self._seen.add((record.id, record.finished))
            self._row = row

    def group_news(self, sent: Counter[str], last: bool) -> GroupNews:
        return GroupNews(self.group)


class RunSource:
    """The experiments of a run, from its journal: also ideas that ran nothing."""

    def __init__(self, folder: Path):
        self.folder, self.group = folder, run_name(folder)
        self._seen: set[str] = set()
        self._run = read_run(folder)
        self.redactor = Redactor(self._run.recipe)

    def new_records(self) -> Iterator[tuple[Experiment, int | None]]:
        recipe_before, self._run = self._run.recipe, read_run(self.folder)
        if self._run.recipe != recipe_before:  # a run saves its recipe after its journal has begun
            self.redactor = Redactor(self._run.recipe)
        steps: dict[str, int] = {}
        for row in self._run.rollouts:
            steps.setdefault(row.experiment_id, row.step)
        for record in self._run.experiments.values():
            # A lost one may be run again, and is then another record of the same id.
            if record.id not in self._seen and record.status != LOST:
                yield record, steps.get(record.id)
                self._seen.add(record.id)

    def group_news(self, sent: Counter[str], last: bool) -> GroupNews:
        news, run = GroupNews(self.group), self._run
        # A training run sends its curves, alarms and traces itself.
        if not run.is_search:
            return news
        steps = run.by_step() if last else run.by_step()[:-1]
        windows = [Window(**line) for line in read_lines(self.folder / WINDOWS_FILE)]
        raised = alarms(windows)
        ended = sorted((row for row in run.rollouts if row.finished is not None), key=lambda row: row.finished or 0.0)
        screened = {figures.step: figures for figures in screen_steps(run.forecasts)}
        news.curves = [_point(step) | _screen_point(screened.get(step.step)) for step in steps[sent["curves"] :]]
        news.alarms = raised[sent["alarms"] :]
        news.traces = [_trace(row, self.redactor) for row in ended[sent["traces"] :][-MAX_TRACES:]]
        sent |= {"curves": len(steps), "alarms": len(raised), "traces": len(ended)}
        return news


def tracked(record: Experiment, step: int | None, group: str, redactor: Redactor) -> Tracked:
    """An experiment as trackers show it."""
    config = {
        "environment": record.environment, "preset": record.preset, "seed": record.seed,
        "replicate": record.replicate, "hardware": record.hardware, "attempt": record.attempt,
        "implementer": record.implementer, "isolation": record.isolation, "start": record.start, "step": step,
        "tree": record.tree, "environment_sha256": record.hashes.get("environment", ""),
    }  # fmt: skip
    summary: dict[str, Any] = {"status": record.status, "reward": record.reward, "error": record.error_kind}
    if record.metric is not None:
        summary[str(record.metric["name"])] = record.metric["value"]
    summary |= {f"seconds/{name}": value for name, value in record.seconds.items()}
    summary |= {f"cost/{name}": value for name, value in record.cost.items()}
    texts = {"idea.txt": record.idea, "patch.diff": record.patch, "log.txt": record.log}
    texts = {name: visible(redactor.text(text)) for name, text in texts.items() if text}
    name = "baseline" if record.is_baseline else _short_idea(record, NAME_LENGTH, redactor)
    config, summary = ({k: v for k, v in facts.items() if v not in (None, "")} for facts in (config, summary))
    return Tracked(record.id, name, group, f"{record.environment}/{record.preset}", config, summary, texts)


def _short_idea(record: Experiment, length: int, redactor: Redactor) -> str:
    """What an idea is to try, on one line."""
    experiment = record.idea.removeprefix(EXPERIMENT).partition(CHANGES)[0]
    return shorten(visible(redactor.text(experiment)), length)


def table_row(record: Experiment, step: int | None, redactor: Redactor) -> dict[str, Any]:
    """A row of the table of all experiments; every row has the same columns."""
    return {
        "id": record.id, "step": step, "idea": _short_idea(record, IDEA_LENGTH, redactor), "status": record.status,
        "metric": record.metric["value"] if record.metric else None, "reward": record.reward,
        "seconds": record.seconds.get("run"), "usd": record.cost.get("usd"), "error": record.error_kind,
        "environment": f"{record.environment}/{record.preset}", "seed": record.seed, "replicate": record.replicate,
        "finished": record.finished,
    }  # fmt: skip


def _point(step: Step) -> dict[str, float]:
    values = {"reward": step.reward, "mean": step.mean, "best": step.best, "success": step.success,
              "distinct": step.distinct, "lost": step.lost}  # fmt: skip
    return {"step": step.step} | {name: value for name, value in values.items() if value is not None}


def _screen_point(step: ScreenStep | None) -> dict[str, float]:
    """What the screen of a search was worth up to a step; empty for a step without forecasts."""
    if step is None:
        return {}
    sampled = step.sampled / step.executed if step.executed else None
    lift = step.lift.value if step.lift else None
    values = {"lift": lift, "coverage": step.coverage, "fresh": step.fresh, "sampled_per_experiment": sampled}
    return {f"screen/{name}": value for name, value in values.items() if value is not None}


def _trace(row: Rollout, redactor: Redactor) -> dict[str, Any]:
    facts = {"status": row.status, "reward": row.reward, "metric": row.metric, "step": row.step,
             "experiment": row.experiment_id}  # fmt: skip
    content = visible(redactor.text(row.completion))
    return {"messages": [{"role": "assistant", "content": content}], "metadata": facts}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one a line; none where there is no file, and without a line that was cut short.

    Raises:
        IdeatorError: the file cannot be read.
    """
    if not path.is_file():
        return []
    objects = []
    for line in read_text(path, max_bytes=MAX_DATA_BYTES).split("\n"):
        with suppress(ValueError):
            if isinstance(value := parse_json(line, "it"), dict):
                objects.append(value)
    return objects
