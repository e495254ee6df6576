"""Charts of one run that are the report's own, and the words beside each: cost, thought, waiting, lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean

import numpy as np
from scipy.stats import binomtest, spearmanr

from ideator_rl.experiment import LOST, OWN_FAILURES, RUNNING, SUCCEEDED
from ideator_rl.report import charts, drawings
from ideator_rl.report.figures import Figure
from ideator_rl.report.progress import best_so_far, by_cost, units
from ideator_rl.report.sections import Row, Section
from ideator_rl.storage.records import Rollout
from ideator_rl.text import number

PHASES = ("implement", "queue", "run", "score", "confirm")
BINS, FEWEST = 6, 12
"""Ranges of thought length, and the fewest ideas that are told apart by it."""
SHOWN = 10
"""Best ideas whose lineage is drawn."""


def per_cost(section: Section) -> list[Figure]:
    """Best so far by what was paid."""
    run, made = section.run, []
    for unit in units([run]):
        places = by_cost(run, unit)
        curve = best_so_far(run, places)
        line = charts.Line([*curve.x, curve.end], [*curve.y, *curve.y[-1:]]) if curve.x else charts.Line([], [])
        dots = charts.Line([], [])
        for at, record in zip(places, run.ran, strict=True):
            if record.status == SUCCEEDED and record.metric:
                dots.x.append(at)
                dots.y.append(record.metric["value"])
        heading = f"Best {run.metric} so far, by {unit}"
        baselines = [section.baseline] if section.baseline else []
        words = f"{number(curve.y[-1])} after {curve.end:.3g} {unit}." if curve.y else ""
        drawing = drawings.steps_down(line, dots, baselines, unit, f"{heading}, {section.name}", words)
        legend = [("series-0", "best so far"), ("dot", "one success")]
        made.append(Figure(heading, "Failures cost too, and are counted.", legend, drawing))
    return [figure for figure in made if figure.drawing is not None]


def thought(section: Section) -> list[Figure]:
    """Success by the length of the thought, and that length by step."""
    with_idea = [row for row in section.run.rollouts if row.idea]  # of others nobody knows where the thought would end
    known = [row for row in with_idea if row.status == SUCCEEDED or row.status in OWN_FAILURES]
    lengths = [thought_words(row) for row in known]
    if len(known) < FEWEST or len(set(lengths)) < 2:
        return []
    wins = [row.status == SUCCEEDED for row in known]
    bars, said = _by_length(lengths, wins), "All have the same outcome."
    if any(wins) and not all(wins):
        found = spearmanr(lengths, wins)
        said = f"Rank correlation {found.statistic:+.2f} (Spearman, p = {found.pvalue:.2g}, {len(known)} ideas)."
    heading = "Success by length of the thought"
    words = "; ".join(f"{bar.words} words: {bar.share:.0%}" for bar in bars) + "."
    drawing = drawings.shares(bars, "words before the idea", f"{heading}, {section.name}", words)
    remark = f"About equally many ideas a bar, with the 95 % interval (Wilson) of its share. {said}"
    return [Figure(heading, remark, [], drawing), _thought_by_step(section, with_idea)]


def _thought_by_step(section: Section, rows: Sequence[Rollout]) -> Figure:
    found: dict[int, list[int]] = {row.step: [] for row in rows}
    for row in rows:
        found[row.step].append(thought_words(row))
    some = list(found.values())
    curve = charts.by_step(
        [step + 1 for step in found],
        [[mean(words) for words in some], [float(np.median(words)) for words in some]],
        f"Length of the thought by step, {section.name}",
        f"From {mean(some[0]):.1f} words in the first step to {mean(some[-1]):.1f} in the last.",
    )
    return Figure(
        "Length of the thought by step",
        "Words before the idea. A fall beside a rising mean is a sign of collapse.",
        [("series-0", "mean"), ("series-1", "median")],
        curve,
    )


def thought_words(row: Rollout) -> int:
    """Words that a completion has before its idea."""
    return len(row.thought.split())


def _by_length(lengths: Sequence[int], wins: Sequence[bool]) -> list[drawings.Bar]:
    """Ideas in order of length, cut where enough are together; equal lengths stay together."""
    least = len(lengths) / max(2, min(BINS, len(lengths) // 8))
    bars: list[drawings.Bar] = []
    inside: list[tuple[int, bool]] = []
    for length, group in groupby(sorted(zip(lengths, wins, strict=True)), key=lambda pair: pair[0]):
        inside += group
        if len(inside) < least and length != max(lengths):
            continue
        won = sum(win for _, win in inside)
        found = binomtest(won, len(inside)).proportion_ci(method="wilson")
        words = "–".join(dict.fromkeys((str(inside[0][0]), str(length))))
        bars.append(drawings.Bar(words, won / len(inside), float(found.low), float(found.high)))
        inside = []
    return bars


def waiting(section: Section) -> list[Figure]:
    """Where the seconds of an experiment went, by the step it was proposed in."""
    by_step: dict[int, dict[str, list[float]]] = {step.step: {} for step in section.steps}
    for row in section.rows:
        if row.record and row.proposals:
            for phase, seconds in row.record.seconds.items():
                by_step[row.proposals[0].step].setdefault(phase, []).append(seconds)
    phases = [phase for phase in PHASES if any(found.get(phase) for found in by_step.values())]
    values = [[mean(found[phase]) if found.get(phase) else 0.0 for found in by_step.values()] for phase in phases]
    heading = "Where an experiment’s seconds went"
    means = [mean([s for found in by_step.values() for s in found.get(phase, [])]) for phase in phases]
    words = ", ".join(f"{phase} {value:.3g} s" for phase, value in zip(phases, means, strict=True))
    drawing = drawings.layers([step + 1 for step in by_step], values, "seconds", f"{heading}, {section.name}", words)
    legend = [(charts.series(place), phase) for place, phase in enumerate(phases)]
    remark = f"Means by the step it was proposed in; queue is waiting for a free slot. Over the run: {words}."
    return [Figure(heading, remark, legend, drawing)] if drawing is not None else []


def spending(section: Section) -> list[Figure]:
    """What the coder was paid, by step; none where nothing was paid."""
    by_step = dict.fromkeys((step.step for step in section.steps), 0.0)
    for row in section.rows:
        if row.record and row.proposals and not row.record.replayed:
            by_step[row.proposals[0].step] += row.record.cost.get("usd", 0.0)
    heading, total = "USD paid for code, by step", sum(by_step.values())
    words = f"{total:.4g} USD in all; the ledger, which counts calls without a record too, has the last word."
    drawing = drawings.layers(
        [step + 1 for step in by_step], [list(by_step.values())], "USD", f"{heading}, {section.name}", words
    )
    return [Figure(heading, words, [], drawing)] if drawing is not None else []


def lineage(section: Section) -> Figure | None:
    """The ancestors of the best ideas; None where no prompt showed ideas."""
    run = section.run
    place = {record.id: at for at, record in enumerate(run.ran, 1)}
    best = [record for record in section.ranked[:SHOWN] if record.id in place]
    parents: dict[str, list[str]] = {}
    for child, shown in run.origins:
        kin = [
            id
            for id in shown
            if id in place and child in place and run.experiments[id].tree != run.experiments[child].tree
        ]
        parents.setdefault(child, []).extend(id for id in kin if id not in parents.get(child, []))
    lines = [_ancestry(record.id, parents) for record in best]
    edges = list(dict.fromkeys(edge for line in lines for edge in line))
    points = [
        id
        for id in dict.fromkeys([r.id for r in best] + [id for edge in edges for id in edge])
        if run.experiments[id].metric
    ]
    if not best or not points:
        return None
    at = {id: number for number, id in enumerate(points)}
    pairs = [[(at[a], at[b]) for a, b in line if a in at and b in at] for line in (edges, lines[0])]
    metrics = [run.experiments[id].metric or {} for id in points]
    found = drawings.Descents(
        [float(place[id]) for id in points], [one["value"] for one in metrics], pairs[0], pairs[1], at[best[0].id]
    )
    heading = f"Where the {len(best)} best ideas came from"
    count = len({a for a, _ in lines[0]})
    words = f"Ancestors of the best: {count}, each shown in a prompt that led to the next."
    baselines = [section.baseline] if section.baseline else []
    drawing = drawings.lineage(found, baselines, f"{heading}, {section.name}", words)
    legend = [("series-1", "the best, and its line"), ("status-0", "an idea"), ("dot", "was shown to")]
    return Figure(
        heading, f"A line leads from an idea to one that was proposed in answer to it. {words}", legend, drawing
    )


def _ancestry(id: str, parents: dict[str, list[str]]) -> list[tuple[str, str]]:
    """(parent, child), of an idea and all before it."""
    edges, todo, seen = [], [id], {id}
    while todo:
        child = todo.pop()
        for parent in parents.get(child, []):
            edges.append((parent, child))
            if parent not in seen:
                seen.add(parent)
                todo.append(parent)
    return edges


@dataclass(frozen=True)
class Failure:
    """A kind of failure, its share, and one that shows it."""

    status: str
    kind: str
    count: int
    share: float
    message: str
    row: Row


def failures(section: Section, most: int = 12) -> list[Failure]:
    """Kinds of failures by how often they were proposed, the lost too; shares are of all proposals with an outcome."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in section.rows:
        if row.proposals and row.status in (*OWN_FAILURES, LOST):
            kind = (row.record.error or {}).get("kind", "") if row.record else ""
            found.setdefault((row.status, kind), []).extend([row] * len(row.proposals))
    known = sum(count for status, count in section.counts.items() if status != RUNNING)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))[:most]
    return [
        Failure(status, kind, len(rows), len(rows) / known, _last_line(rows[0]), rows[0])
        for (status, kind), rows in ordered
    ]


def _last_line(row: Row) -> str:
    message = (row.record.error or {}).get("message", "") if row.record else ""
    lines = [line for line in message.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:200] if lines else ""
