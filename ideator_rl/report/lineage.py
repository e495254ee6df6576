"""The ancestors of the best ideas, as a figure: each idea where and as good as it was, with lines to its parents."""

from __future__ import annotations

from ideator_rl.report import charts
from ideator_rl.report.charts import DOT, SERIES, STATUS, Mark, chart, frame, variable
from ideator_rl.report.figures import Figure
from ideator_rl.report.run_view import RunView
from ideator_rl.storage.run_reader import Run

BEST_IDEAS = 10
"""Ideas whose lineage is drawn."""
MAX_EDGES = 2000
"""Lines of one colour: a prompt may show a hundred ideas, and more lines than this are a black area."""

Edge = tuple[str, str]
"""Ids of a parent and its child."""


def lineage_figure(view: RunView) -> Figure | None:
    """None where no prompt showed the ancestor of a good idea."""
    run = view.run
    place = {record.id: count for count, record in enumerate(run.ran, 1)}
    metrics = {id: record.metric["value"] for id, record in run.experiments.items() if record.metric}
    best = [record.id for record in view.ranked[:BEST_IDEAS] if record.id in place]
    if not best:
        return None
    parents = _parents(run, place)
    # The nearest ancestors first; lost ones have no metric, and no place.
    all_edges, own_edges = (_ancestry(ids, parents) for ids in (best, best[:1]))
    points = {id: (float(place[id]), metrics[id]) for id in place if id in metrics}
    measured, own = ([edge for edge in edges if {*edge} <= points.keys()] for edges in (all_edges, own_edges))
    if not measured:
        return None
    drawn, own_drawn = measured[:MAX_EDGES], own[:MAX_EDGES]
    # All edges in a pale colour, then those of the best idea on top.
    lines = [
        charts.segments([(points[parent], points[child]) for parent, child in edges], colour, width, order=order)
        for edges, colour, width, order in ((drawn, DOT, 0.8, 1.2), (own_drawn, SERIES[1], 1.8, 1.6))
        if edges
    ]
    ids = [id for id in dict.fromkeys([*best, *(id for edge in drawn + own_drawn for id in edge)]) if id in points]
    dots = [
        charts.dots([place[id] for id in ids], [metrics[id] for id in ids], STATUS[0], 5.0),
        charts.dots([place[best[0]]], [metrics[best[0]]], SERIES[1], 9.0),
    ]
    # The line of the best idea is inside the frame, also where it began with a bad one.
    own_line = [metrics[id] for id in {best[0], *(id for edge in own_drawn for id in edge)}]
    y = frame([metrics[id] for id in ids], [*own_line, *(b.mean for b in view.baseline_marks)])
    heading = f"Where the {len(best)} best ideas came from"
    ancestors = len({parent for parent, _ in own_edges})
    description = f"Ancestors of the best: {ancestors}, each shown in a prompt that led to the next."
    if len(measured) > MAX_EDGES:
        description += f" Of {len(measured):,} lines, those nearest to the best ideas are drawn."
    legend = [(SERIES[1], "the best, and its line"), (STATUS[0], "an idea"), (DOT, "was shown to")]
    marks: list[Mark] = [*lines, *dots, *view.baseline_marks]
    return Figure(
        heading,
        f"A line leads from an idea to one that was proposed in answer to it. {description}",
        [(variable(colour), label) for colour, label in legend],
        chart(f"{heading}, {view.name}", description, marks, "experiments run", y),
    )


def _parents(run: Run, place: dict[str, int]) -> dict[str, list[str]]:
    """Ids of the parents by child; a copy of a parent's codebase is no child of it."""
    parents: dict[str, dict[str, None]] = {}
    for child, shown_ids in run.origins:
        for id in shown_ids:
            if id in place and child in place and run.experiments[id].tree != run.experiments[child].tree:
                parents.setdefault(child, {})[id] = None
    return {child: list(ids) for child, ids in parents.items()}


def _ancestry(ids: list[str], parents: dict[str, list[str]]) -> list[Edge]:
    """The edges between some ideas and all ideas before them, each once, those of the nearest generation first."""
    edges, visited = [], list(dict.fromkeys(ids))
    known = set(visited)
    for child in visited:  # grows meanwhile
        for parent in parents.get(child, []):
            edges.append((parent, child))
            if parent not in known:
                known.add(parent)
                visited.append(parent)
    return edges
