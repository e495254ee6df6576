"""The report of one run or several: one HTML file that holds everything and asks nobody for anything.

Guarantees: the file is whole or absent (written beside its place, then moved there); its numbers are those of the
records; every experiment is in it.  Ideas, patches and logs are untrusted: they are escaped, characters that act are
shown as code points, and the page forbids all scripts.  A long text is clipped, the page says by how much, and the
whole stands in the records.  Works on a run that is still under way, empty, or without a success.
Charts: see `charts`.  Does not judge whether a difference is more than chance; it shows spread, and says what was run
once.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from ideator_rl.diagnostics import charts, safe_text
from ideator_rl.diagnostics.figures import (
    STATUSES,
    Figure,
    number,
    overlay,
    run_figures,
    share,
    spread,
    with_error,
)
from ideator_rl.diagnostics.records import Rollout, Run, Step, read_run
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import RUNNING, Experiment

SIZE = 10_000_000
"""Bytes that the texts of all experiments may take together."""
LARGEST = 40_000
"""Bytes that one text may take at most, and"""
SMALLEST = 300
"""what each may take however many there are."""
FACTS = ("model_name_or_path", "scratch_model", "sft_steps", "max_steps", "num_generations", "learning_rate",
         "temperature", "replicates", "seed")  # fmt: skip
"""Keys of a recipe that the head of the report shows; the whole recipe is below it."""
_SECRET = re.compile(r"token$|secret|password|api_?key|credential", re.IGNORECASE)


class ReportError(IdeatorError):
    """The report cannot be written."""


@dataclass(frozen=True)
class Row:
    """One experiment, or one proposal that has no outcome yet."""

    number: int
    status: str
    idea: str
    thought: str
    steps: list[int]
    """Where it was proposed, counted from 1; empty for a baseline or a patch by hand."""
    record: Experiment | None


@dataclass(frozen=True)
class Section:
    """What the template shows of one run."""

    name: str
    run: Run
    steps: list[Step]
    counts: Counter[str]
    """Proposals by status."""
    baseline: charts.Baseline | None
    deviation: float | None
    """Standard deviation of the baseline's runs."""
    best: Experiment | None
    gain: float | None
    """How much better than the baseline's mean, in the metric's unit; positive is better."""
    rows: list[Row]
    figures: list[Figure]

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
        given = self.run.recipe.items()
        shown = {key: "(hidden)" if value and _SECRET.search(str(key)) else value for key, value in given}
        return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True) if shown else ""


def write_report(run_dirs: list[Path], out: Path) -> None:
    """Write the report of these runs, one after another, to `out`.

    Raises:
        NoRun: a folder holds no run.
        ReportError: nothing was given, or `out` cannot be written.
    """
    if not run_dirs:
        raise ReportError("No run was given. Name at least one folder that a recipe names as output_dir.")
    runs = [read_run(folder) for folder in run_dirs]
    names = _names(runs)
    sections = [_section(name, run) for name, run in zip(names, runs, strict=True)]
    baselines = [section.baseline for section in sections]
    _store(out, _render(sections, overlay(names, runs, baselines)))


def _render(sections: list[Section], overlays: list[Figure]) -> str:
    jinja = Environment(
        loader=PackageLoader("ideator_rl.diagnostics.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=safe_text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.globals |= {
        "allowance": _allowance([row for section in sections for row in section.rows]),
        "clip": safe_text.clip,
        "coloured": safe_text.coloured,
        "STATUSES": STATUSES,
        "FACTS": FACTS,
    }
    jinja.filters |= {"number": number, "share": share, "spread": spread, "with_error": with_error}
    return jinja.get_template("page.html.j2").render(sections=sections, overlays=overlays)


def _allowance(rows: list[Row]) -> int:
    """Bytes that one text may take so that all of them stay within SIZE: only the long ones are clipped."""
    sizes = []
    for row in rows:
        texts = [row.idea, row.thought]
        if row.record:
            texts += [row.record.log, (row.record.error or {}).get("message", "")]
            sizes.append(safe_text.patch_size(row.record.patch[:LARGEST]))
        sizes += [safe_text.size(text[:LARGEST]) for text in texts]
    allowance = LARGEST
    while allowance > SMALLEST and sum(min(size, allowance) for size in sizes) > SIZE:
        allowance //= 2
    return allowance


def _section(name: str, run: Run) -> Section:
    values = [e.metric["value"] for e in run.baselines if e.metric]
    baseline = charts.Baseline(min(values), run.baseline or 0.0, max(values)) if values else None
    best = run.ranked[0] if run.ranked else None
    gain = None
    if best and best.metric and baseline:
        gain = (baseline.mean - mean(run.values(best))) * (1 if run.direction == "min" else -1)
    steps = run.by_step()
    return Section(
        name=name,
        run=run,
        steps=steps,
        counts=Counter(row.status for row in run.rollouts),
        baseline=baseline,
        deviation=stdev(values) if len(values) > 1 else None,
        best=best,
        gain=gain,
        rows=_rows(run),
        figures=run_figures(name, run, steps, baseline),
    )


def _rows(run: Run) -> list[Row]:
    """Baselines first, then experiments in the order they were proposed."""
    proposals: dict[str, list[Rollout]] = {}
    for rollout in run.rollouts:
        key = rollout.experiment_id or f"{rollout.step} {rollout.position}"
        proposals.setdefault(key, []).append(rollout)
    rows: list[Row] = []
    for id in [*(id for id in run.experiments if id not in proposals), *proposals]:
        asked, record = proposals.get(id, []), run.experiments.get(id)
        first = asked[0] if asked else None
        status = record.status if record else first.status if first else RUNNING
        idea = (record.idea if record else "") or (first.idea or first.completion if first else "")
        steps = list(dict.fromkeys(rollout.step + 1 for rollout in asked))
        rows.append(Row(len(rows) + 1, status, idea, first.thought if first else "", steps, record))
    return rows


def _names(runs: list[Run]) -> list[str]:
    """The folders' own names; the paths where two are the same."""
    short = [run.folder.absolute().name for run in runs]
    return [name if short.count(name) == 1 else str(run.folder) for name, run in zip(short, runs, strict=True)]


def _store(out: Path, page: str) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(page)
            os.chmod(temporary, 0o644)
            os.replace(temporary, out)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ReportError(
            f"The report cannot be written to {out}: {error.strerror or error}. Give a file in a folder that this user "
            "may write, on a disk with room."
        ) from error
