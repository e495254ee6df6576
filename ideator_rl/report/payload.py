"""Every experiment as inert data in the page: a table of columns as JSON, and the long texts as gzip'd JSON.

The prompts that asked for ideas are packed apart, each once, since many ideas answer one.

The table holds what sorting and filtering need, so that it can be used while the texts are still being read.  The
texts (idea, thought, patch, log, error, feedback) are unpacked by the browser when the first one is needed.

Guarantees: every experiment is in the table; the texts take at most `MAX_BYTES` packed and `MAX_UNPACKED_BYTES`
unpacked: where they would take more, the longest are clipped, and the number of cut characters is kept for each.  No
character in the data acts: those that `text.visible` replaces show as their code point, and nothing in it can end the
element that holds it.
"""

from __future__ import annotations

import base64
import gzip
import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from ideator_rl.environments.feedback import feedback_of
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.patch.cells import cell_of
from ideator_rl.report.changes import changes
from ideator_rl.report.figures import STATUSES
from ideator_rl.report.idea_map import IdeaMap
from ideator_rl.report.run_view import Row, RunView
from ideator_rl.text.display import shorten, visible

MAX_BYTES = 10_000_000
"""Of all texts together, packed."""
MAX_UNPACKED_BYTES = 100_000_000
"""Of all texts together: the browser unpacks them as one, and a log of equal characters packs a thousandfold."""
MAX_PROMPTS = 10_000_000
"""Characters of all prompts together, unpacked."""
MAX_CHARACTERS, MIN_CHARACTERS = 40_000, 250
"""Of one text: the most, and what each may have however many there are."""
TITLE_LENGTH = 160
"""Characters of an idea in the table."""


def table(views: Sequence[RunView], maps: Sequence[IdeaMap]) -> Markup:
    """Facts about these runs and all their experiments, as JSON; experiments are numbered through, run after run.

    Args:
        maps: of each run.
    """
    rows = [(number, row) for number, view in enumerate(views) for row in view.rows]
    index = {(number, row.key): i for i, (number, row) in enumerate(rows)}
    parents, prompts = _parents(views, index), {text: i for i, text in enumerate(_prompts(views))}
    columns: dict[str, list[Any]] = {}
    places = [place for idea_map in maps for place in idea_map.points]
    for i, ((number, row), place) in enumerate(zip(rows, places, strict=True)):
        facts = {"run": number, "parents": parents.get(i, []), "place": place, **_facts(views[number], row)}
        facts["code"] = [index[number, parent.key] for parent in views[number].code_parents(row)]
        facts["prompt"] = prompts.get(prompt_of(views[number], row))
        for name, value in facts.items():
            columns.setdefault(name, []).append(value)
    return inert_json({"statuses": STATUSES, "runs": list(map(_run, views, maps)), "rows": columns})


def packed_texts(views: Sequence[RunView]) -> Markup:
    """A list in the order of the table's rows, each item `[texts, cut]` of `_clipped`: JSON, gzip, base64."""
    rows = [_texts(view, row) for view in views for row in view.rows]
    lengths = [len(text) for texts in rows for text in texts]
    max_characters = MAX_CHARACTERS
    # Before the first round: else this process would hold what the browser is spared.
    if sum(min(length, max_characters) for length in lengths) > MAX_UNPACKED_BYTES:
        max_characters = max(MIN_CHARACTERS, _fitting_length(lengths, MAX_UNPACKED_BYTES))
    packed, unpacked_bytes = _pack(rows, max_characters)
    while max_characters > MIN_CHARACTERS:
        excess = max(len(packed) / MAX_BYTES, unpacked_bytes / MAX_UNPACKED_BYTES)
        if excess <= 1:
            break
        # How much the texts shrink when packed is known only now, so that one or two more rounds follow.
        target = 0.97 / excess * sum(min(length, max_characters) for length in lengths)
        max_characters = max(MIN_CHARACTERS, min(int(0.95 * max_characters), _fitting_length(lengths, target)))
        packed, unpacked_bytes = _pack(rows, max_characters)
    return Markup(packed)


def packed_prompts(views: Sequence[RunView]) -> Markup:
    """The prompts of all runs, as the column `prompt` of the table counts them: a list of `[text, cut]`, packed."""
    prompts = _prompts(views)
    longest = max(MIN_CHARACTERS, min(MAX_CHARACTERS, MAX_PROMPTS // max(1, len(prompts))))
    items = [[visible(text[:longest]), max(0, len(text) - longest)] for text in prompts]
    data = json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Markup(base64.b64encode(gzip.compress(data, 5, mtime=0)).decode())


def _prompts(views: Sequence[RunView]) -> list[str]:
    """Every different prompt, in the order of the rows."""
    texts = (prompt_of(view, row) for view in views for row in view.rows)
    return list(dict.fromkeys(text for text in texts if text))


def prompt_of(view: RunView, row: Row) -> str:
    """The text that asked for an idea when it was first proposed; empty where it is not known."""
    first = row.proposals[0] if row.proposals else None
    return view.run.prompts.get((first.step, first.rank, first.position), "") if first else ""


def _fitting_length(lengths: list[int], target: float) -> int:
    """The longest that each text may be so that all together have at most `target` characters."""
    return bisect_right(range(MAX_CHARACTERS), target, key=lambda longest: sum(min(n, longest) for n in lengths)) - 1


def inert_json(value: Any) -> Markup:
    """JSON for a script element: nothing in it ends the element or begins a comment."""
    finite = json.loads(json.dumps(value), parse_constant=lambda name: None)  # JSON has no NaN and no Infinity
    text = json.dumps(finite, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def title(row: Row) -> str:
    """The beginning of an idea, without its marks."""
    if row.is_baseline:
        return "the unchanged baseline"
    if not row.idea:
        return "nothing was written" if row.proposals else "a patch written by hand"
    line = " ".join(row.idea.split()).removeprefix("[Experiment] ")
    return shorten(line.partition(" [Code Changes]")[0], TITLE_LENGTH)


def _run(view: RunView, idea_map: IdeaMap) -> dict[str, Any]:
    best = view.best
    published = [r for r in view.references if r.metric == view.run.metric]
    return {
        "name": visible(view.name),
        "metric": visible(view.run.metric),
        "better": view.run.direction,
        "baseline": view.baseline_values,
        "best": view.run.values(best)[:1] if best else [],
        "references": [[visible(r.label), r.value] for r in published],
        "map": {"share": round(idea_map.share, 3), "embedder": visible(idea_map.embedder)},
    }


def _facts(view: RunView, row: Row) -> dict[str, Any]:
    record = row.record
    cell, added, removed = _patch_facts(record.patch if record else "")
    # The names are those that the page's scripts read (assets/*.js).
    facts = {
        "n": row.number,
        "key": visible(row.key),
        "status": STATUSES.index(row.status),
        "title": visible(title(row)),
        "steps": row.steps,
        "proposed": len(row.proposals),
        "metric": record.metric["value"] if record and record.metric else None,
        "values": _values(view, row),
        "tree": record.tree[:16] if record else "",
        "reward": record.reward if record else None,
        "seconds": {key: round(value, 2) for key, value in record.seconds.items()} if record else {},
        "secondary": {visible(name): value for name, value in record.secondary.items()} if record else {},
        "debugged": record.debugged if record else False,
        "usd": record.cost.get("usd", 0.0) if record else 0.0,
        "seed": record.seed if record else 0,
        "replicate": record.replicate if record else 0,
        "attempt": record.attempt if record else 0,
        "cell": cell,
        "added": added,
        "removed": removed,
    }
    run_by = (record.implementer, record.isolation, record.hardware) if record else ()
    return facts | {"by": visible(" · ".join(part for part in run_by if part))}


@lru_cache(maxsize=1024)
def _patch_facts(patch: str) -> tuple[str, int, int]:
    """Kind of change, lines added and lines removed."""
    files = changes(patch)
    return visible(cell_of(patch)), sum(len(file.added) for file in files), sum(len(file.removed) for file in files)


def _values(view: RunView, row: Row) -> list[float]:
    """Metrics of all runs of an idea, its own first; of a baseline or a re-run, its own only."""
    record = row.record
    if record is None or record.metric is None or record.status != SUCCEEDED:
        return []
    return [record.metric["value"]] if row.is_baseline or row.is_rerun else view.run.values(record)


def _parents(views: Sequence[RunView], index: dict[tuple[int, str], int]) -> dict[int, list[int]]:
    """Rows whose ideas were shown when a row was first proposed; a copy of its parent is no child."""
    parents_by_row: dict[int, dict[int, None]] = {}
    for number, view in enumerate(views):
        tree = {id: record.tree for id, record in view.run.experiments.items()}
        for child, parents in view.run.origins:
            for parent in parents:
                child_row, parent_row = index.get((number, child)), index.get((number, parent))
                is_copy = bool(tree.get(child)) and tree.get(child) == tree.get(parent)
                if child_row is not None and parent_row is not None and child_row != parent_row and not is_copy:
                    parents_by_row.setdefault(child_row, {})[parent_row] = None
    return {child_row: list(parent_rows) for child_row, parent_rows in parents_by_row.items()}


def _pack(rows: list[tuple[str, ...]], max_characters: int) -> tuple[str, int]:
    """The texts, packed, and their bytes before that."""
    items = [_clipped(texts, max_characters) for texts in rows]
    data = json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(data, 5, mtime=0)).decode(), len(data)


def _clipped(texts: tuple[str, ...], max_characters: int) -> tuple[list[str], list[int]]:
    """The texts of a row, of the log its end; and how many characters of each were cut."""
    idea, thought, patch, log, *others = texts
    clipped = [text[:max_characters] for text in (idea, thought, patch)]
    clipped += [log[-max_characters:], *(text[:max_characters] for text in others)]
    cut = [len(text) - len(short) for text, short in zip(texts, clipped, strict=True)]
    return [visible(text) for text in clipped], cut


def _texts(view: RunView, row: Row) -> tuple[str, ...]:
    """Idea, thought, patch, log, kind and message of the error, what ideators are shown of the result, the patch to
    the parent's code, and why that code was not used."""
    record, inherited = row.record, view.inherited_of(row)
    error = (record.error or {}) if record else {}
    patch, log = (record.patch, record.log) if record else ("", "")
    feedback = feedback_of(record, view.feedback_level) if record else ""
    to_parent = inherited.patch if inherited and inherited.base.tree else ""
    problem = inherited.base.problem if inherited else ""
    texts = (row.idea, row.thought, patch, log, str(error.get("kind", "")), str(error.get("message", "")), feedback)
    return *texts, to_parent, problem
