"""The ancestors of the best ideas, as a figure: each idea where and as good as it was, with lines to its parents."""

from __future__ import annotations

from ideator_rl.report import charts
from ideator_rl.report.charts import DOT, SERIES, STATUS, Mark, chart, frame, variable
from ideator_rl.report.figures import Figure
from ideator_rl.report.run_view import RunView
from ideator_rl.storage.run_reader import Run

BEST_IDEAS = 10
"""Ideas whose lineage is drawn."""

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
    # The ancestries of several good ideas overlap: each edge and each idea is drawn once.
    ancestries = [_ancestry(id, parents) for id in best]
    edges = list(dict.fromkeys(edge for ancestry in ancestries for edge in ancestry))
    ids = [id for id in dict.fromkeys([*best, *(id for edge in edges for id in edge)]) if id in metrics]
    if not any(parent in metrics and child in metrics for parent, child in edges):
        return None
    # All edges in a pale colour, then those of the best idea on top; lost ancestors have no metric, and no place.
    lines = [
        charts.line([place[parent], place[child]], [metrics[parent], metrics[child]], colour, width, order=order)
        for ancestry, colour, width, order in ((edges, DOT, 0.8, 1.2), (ancestries[0], SERIES[1], 1.8, 1.6))
        for parent, child in ancestry
        if parent in metrics and child in metrics
    ]
    dots = [
        charts.dots([place[id] for id in ids], [metrics[id] for id in ids], STATUS[0], 5.0),
        charts.dots([place[best[0]]], [metrics[best[0]]], SERIES[1], 9.0),
    ]
    # The line of the best idea is inside the frame, also where it began with a bad one.
    own_line = [metrics[id] for id in {best[0], *(id for edge in ancestries[0] for id in edge)} if id in metrics]
    y = frame([metrics[id] for id in ids], [*own_line, *(b.mean for b in view.baseline_marks)])
    heading = f"Where the {len(best)} best ideas came from"
    ancestors = len({parent for parent, _ in ancestries[0]})
    description = f"Ancestors of the best: {ancestors}, each shown in a prompt that led to the next."
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


def _ancestry(id: str, parents: dict[str, list[str]]) -> list[Edge]:
    """The edges between an idea and all ideas before it."""
    edges, pending, visited = [], [id], {id}
    while pending:
        child = pending.pop()
        for parent in parents.get(child, []):
            edges.append((parent, child))
            if parent not in visited:
                visited.add(parent)
                pending.append(parent)
    return edges
