"""The summary of a run: baseline, best idea with its patch, the table by step, outcomes, and where the files are.

Plain text for a terminal.  No character of a text that a model wrote acts on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

from ideator_rl.experiment import FINAL, LOST, RUNNING, Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.storage.run_reader import Run, Step, read_run
from ideator_rl.text.display import clip, number, share, shorten, visible

MAX_TEXT = 8_000
"""Characters of the best idea, and of its patch."""
FIXED_LINES = 27
"""Lines of a shortened summary that are not the table by step, with those that `status` adds."""
SHORT_TEXT = 200
"""Characters of the best idea in a shortened summary."""
MAX_ANCESTORS = 3
"""Ideas that are named below the best one, whose code it builds on."""
ANCESTOR_TEXT = 100
"""Characters of each of them."""
HEADER = "step  ideas  distinct  success  mean metric  best metric  mean reward"


def summary(folder: Path) -> str:
    """The summary of the run in this folder.

    Raises:
        NoRun: the folder holds no run, or its journal cannot be read.
    """
    return run_summary(read_run(folder))


def run_summary(run: Run, rows: int | None = None) -> str:
    """The summary of a run that was read.

    Args:
        rows: about as many lines, without the patch and with the last steps only; all of it if None.
    """
    steps = [_step_line(step) for step in run.by_step()]
    # A terminal that is too small shows the last steps: the run is there.
    if rows is not None:
        steps = steps[-max(3, rows - FIXED_LINES) :]
    lines = [
        "",
        f"Run {run.folder}",
        "",
        _baseline(run),
        *_best(run, shortened=rows is not None),
        "",
        HEADER,
        *steps,
        "",
    ]
    lines.append(f"Ideas: {len(run.rollouts)} proposed, {len(run.ran)} distinct experiments")
    lines += ["Outcomes: " + outcomes(row.status for row in run.rollouts), ""]
    if any(run.spent.values()):
        spent = ", ".join(f"{value:.4g} {name.replace('_', '-')}" for name, value in run.spent.items())
        lines += [f"Spent: {spent}", ""]
    lines += [f"{name + ':':<9}{path}" for name, path in run.places]
    return visible("\n".join(lines))


def outcomes(statuses: Iterable[str]) -> str:
    """How often each status occurs, as in "3 succeeded, 1 failed"; an unknown status comes last."""
    counts = Counter(statuses)
    order = dict.fromkeys((*FINAL, LOST, RUNNING, *counts))
    return ", ".join(f"{counts[status]} {status}" for status in order if counts[status])


def _step_line(step: Step) -> str:
    return (
        f"{step.step + 1:>4}  {step.proposed:>5}  {step.distinct:>8}  {share(step.success):>7}  "
        f"{number(step.mean):>11}  {number(step.best):>11}  {number(step.reward):>11}"
    )


def _baseline(run: Run) -> str:
    values = [e.metric["value"] for e in run.baselines if e.metric]
    if not values:
        return "Baseline: none was run"
    spread = f" ({number(min(values))} to {number(max(values))} over {len(values)} seeds)" if len(values) > 1 else ""
    return f"Baseline {run.metric}: {number(run.baseline)}{spread}"


def _best(run: Run, shortened: bool) -> list[str]:
    if not run.ranked:
        return ["Best idea: none succeeded"]
    best = run.ranked[0]
    isolation = "" if best.isolation == "bwrap" else f" (isolation: {best.isolation})"
    values = run.values(best)
    value = f"{number(values[0])}{isolation}, one run, seed {best.seed}"
    if len(values) > 1:
        value = f"{number(mean(values))} ± {number(stdev(values))}{isolation}, {len(values)} runs"
        value += f"; the first {number(values[0])}"
    lines = [f"Best idea {run.metric}: {value}"]
    if shortened:
        return [*lines, "  " + shorten(best.idea, SHORT_TEXT), *_shoulders(run, best)]
    patch = ("  " + line for line in _clipped(best.patch).splitlines())
    return [*lines, "  " + _clipped(best.idea), *_shoulders(run, best), "", *patch]


def _shoulders(run: Run, best: Experiment) -> list[str]:
    """The ideas whose code an idea builds on, its own parents first; none for one that changed the baseline."""
    ancestors, pending = dict[str, Experiment](), run.code_parents(best)
    while pending:
        ancestor = pending.pop(0)
        if ancestor.id not in ancestors:
            ancestors[ancestor.id] = ancestor
            pending += run.code_parents(ancestor)
    lines = []
    for ancestor in list(ancestors.values())[:MAX_ANCESTORS]:
        value = number(ancestor.metric["value"]) if ancestor.metric else ancestor.status
        lines.append(f"    {value}  {shorten(_description(ancestor.idea), ANCESTOR_TEXT)}")
    if not lines:
        return []
    more = len(ancestors) - len(lines)
    return ["  It builds on the code of:", *lines, *([f"    and of {more} more before them"] if more else [])]


def _description(idea: str) -> str:
    """What an idea proposes, without its code."""
    try:
        return parse_idea(idea).experiment
    except MalformedIdea:
        return idea


def _clipped(text: str) -> str:
    beginning, cut = clip(text, MAX_TEXT)
    return f"{beginning}\n… {cut} more characters are in the records" if cut else beginning
