"""Every experiment as inert data in the page: a table of columns as JSON, and the long texts packed.

The table holds what sorting and filtering need.  Texts (idea, thought, patch, log, error) are packed in chunks of
neighbouring experiments, deflate and then base64, so that the page unpacks only what is looked at.

Guarantees: every experiment is in the table; all packed texts together take at most `SIZE` bytes: where they would
take more, the longest are clipped, and how many characters were cut stands beside each.  No character in the data acts:
those of `safe_text` show as their code point, and nothing in it can end the element that holds it.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.patch.cells import cell_of
from ideator_rl.report.changes import changes
from ideator_rl.report.figures import STATUSES
from ideator_rl.report.sections import Row, Section
from ideator_rl.text import visible

SIZE = 10_000_000
"""Bytes of all packed texts."""
LARGEST, SMALLEST = 40_000, 250
"""Characters of one text: at most, and what each may take however many there are."""
CHUNK = 200_000
"""Characters of texts that are packed together: what opening one idea unpacks."""
TITLE = 160
"""Characters of an idea in the table."""


@dataclass(frozen=True)
class Payload:
    table: Markup
    """JSON."""
    chunks: list[Markup]
    """Base64."""
    clipped: int
    """Characters that one text may have; LARGEST where none had to give way."""


def payload(sections: Sequence[Section]) -> Payload:
    """The data of a page about these runs; experiments are numbered through, run after run."""
    rows = [(number, row) for number, section in enumerate(sections) for row in section.rows]
    chunks, starts, allowance = _fitting([row for _, row in rows])
    table = {
        "statuses": STATUSES,
        "runs": [_run(section) for section in sections],
        "rows": _columns(sections, rows),
        "starts": starts,
    }
    return Payload(inert(table), [Markup(chunk) for chunk in chunks], allowance)


def _fitting(rows: list[Row]) -> tuple[list[str], list[int], int]:
    """Packed texts that take no more than SIZE, where they start, and the characters that each text may have."""
    allowance = LARGEST
    chunks, starts = _packed(rows, allowance)
    lengths = [min(len(text), LARGEST) for row in rows for text in _whole(row)]
    while (taken := sum(map(len, chunks))) > SIZE and allowance > SMALLEST:
        room = 0.97 * SIZE / taken * sum(min(length, allowance) for length in lengths)
        allowance = max(SMALLEST, min(int(0.95 * allowance), _allowance(lengths, room)))
        chunks, starts = _packed(rows, allowance)
    return chunks, starts, allowance


def _allowance(lengths: list[int], room: float) -> int:
    """The most characters that each text may have so that all have `room` together."""
    low, high = SMALLEST, LARGEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(min(length, middle) for length in lengths) <= room else (low, middle)
    return low


def inert(value: Any) -> Markup:
    """JSON for a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _run(section: Section) -> dict[str, Any]:
    best = section.ranked[:1]
    return {
        "name": visible(section.name),
        "metric": visible(section.run.metric),
        "better": section.run.direction,
        "baseline": section.baseline_values,
        "best": section.run.values(best[0])[:1] if best else [],
    }


def _columns(sections: Sequence[Section], rows: list[tuple[int, Row]]) -> dict[str, list[Any]]:
    place = {(number, row.key): at for at, (number, row) in enumerate(rows)}
    parents = _parents(sections, place)
    columns: dict[str, list[Any]] = {}
    for at, (number, row) in enumerate(rows):
        facts = {"run": number, "parents": parents.get(at, []), **_facts(sections[number], row)}
        for name, value in facts.items():
            columns.setdefault(name, []).append(value)
    return columns


def _facts(section: Section, row: Row) -> dict[str, Any]:
    record = row.record
    cell, added, removed = _figures(record.patch if record else "")
    return {
        "n": row.number,
        "key": visible(row.key),
        "status": STATUSES.index(row.status),
        "title": visible(title(row)),
        "steps": row.steps,
        "proposed": len(row.proposals),
        "metric": record.metric["value"] if record and record.metric else None,
        "values": _values(section, row),
        "tree": record.tree[:16] if record else "",
        "reward": record.reward if record else None,
        "seconds": {key: round(value, 2) for key, value in record.seconds.items()} if record else {},
        "usd": record.cost.get("usd", 0.0) if record else 0.0,
        "seed": record.seed if record else 0,
        "replicate": record.replicate if record else 0,
        "attempt": record.attempt if record else 0,
        "cell": cell,
        "added": added,
        "removed": removed,
        "by": visible(" · ".join(part for part in (record.implementer, record.isolation, record.hardware) if part))
        if record
        else "",
    }


@lru_cache(maxsize=1024)
def _figures(patch: str) -> tuple[str, int, int]:
    """Kind of change, lines added and lines removed."""
    touched = changes(patch)
    added, removed = (sum(map(len, found)) for found in ([f.added for f in touched], [f.removed for f in touched]))
    return visible(cell_of(patch)), added, removed


def _values(section: Section, row: Row) -> list[float]:
    """Of all runs of an idea, its own first; a baseline and a re-run stand for themselves."""
    record = row.record
    if record is None or record.metric is None or record.status != SUCCEEDED:
        return []
    return [record.metric["value"]] if row.baseline or row.rerun else section.run.values(record)


def title(row: Row) -> str:
    """The first words of an idea, without its marks."""
    if row.baseline:
        return "the unchanged baseline"
    if not row.idea:
        return "nothing was written" if row.proposals else "a patch written by hand"
    flat = " ".join(row.idea.split()).removeprefix("[Experiment] ")
    flat = flat.partition(" [Code Changes]")[0]
    return flat if len(flat) <= TITLE else flat[: TITLE - 1] + "…"


def _parents(sections: Sequence[Section], place: dict[tuple[int, str], int]) -> dict[int, list[int]]:
    """Rows whose ideas were shown when a row was first proposed; a copy of its parent is no child."""
    found: dict[int, dict[int, None]] = {}
    for number, section in enumerate(sections):
        known = section.run.experiments
        for child, parents in section.run.origins:
            for parent in parents:
                ends = place.get((number, child)), place.get((number, parent))
                trees = [known[id].tree for id in (child, parent) if id in known]
                if None not in ends and ends[0] != ends[1] and not (trees[0] and trees[0] == trees[-1]):
                    found.setdefault(ends[0], {})[ends[1]] = None  # type: ignore[index, arg-type]
    return {child: list(parents) for child, parents in found.items()}


def _packed(rows: list[Row], allowance: int) -> tuple[list[str], list[int]]:
    """Chunks of texts, and the row that each begins with."""
    chunks: list[str] = []
    starts: list[int] = []
    waiting: list[Any] = []
    taken = 0
    for at, row in enumerate(rows):
        if not waiting:
            starts.append(at)
        texts, cut = _texts(row, allowance)
        waiting.append([texts, cut])
        taken += sum(map(len, texts))
        if taken >= CHUNK or at == len(rows) - 1:
            data = json.dumps(waiting, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            chunks.append(base64.b64encode(zlib.compress(data, 6)).decode())
            waiting, taken = [], 0
    return chunks, starts


def _texts(row: Row, allowance: int) -> tuple[list[str], list[int]]:
    """Idea, thought, patch, log (its end), kind and message of the error; and how many characters of each were cut."""
    whole = _whole(row)
    kept = [text[-allowance:] if place == 3 else text[:allowance] for place, text in enumerate(whole)]
    cut = [len(text) - len(part) for text, part in zip(whole, kept, strict=True)]
    return [visible(text) for text in kept], cut


def _whole(row: Row) -> list[str]:
    record = row.record
    error = (record.error or {}) if record else {}
    texts = [row.idea, row.thought, record.patch if record else "", record.log if record else ""]
    return [*texts, str(error.get("kind", "")), str(error.get("message", ""))]


def _finite(value: Any) -> Any:
    """The value with null in the place of numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value
