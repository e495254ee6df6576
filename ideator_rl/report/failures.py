"""The kinds of failures of a run: how often each was proposed, and an experiment that shows it."""

from __future__ import annotations

from dataclasses import dataclass

from ideator_rl.experiment import LOST, OWN_FAILURES, REJECTED, RUNNING, UNPATCHABLE
from ideator_rl.report.run_view import Row, RunView

MAX_KINDS = 12


@dataclass(frozen=True)
class FailureKind:
    """Failures of one status and one kind of error."""

    status: str
    kind: str
    count: int
    """Proposals; an experiment that was proposed twice counts twice."""
    share: float
    """Of all proposals with an outcome."""
    message: str
    row: Row
    """An experiment that failed in this way."""


def failure_kinds(view: RunView) -> list[FailureKind]:
    """The most frequent kinds first, lost experiments too."""
    rows_by_kind: dict[tuple[str, str], list[Row]] = {}
    for row in view.rows:
        if row.proposals and row.status in (*OWN_FAILURES, LOST):
            kind = row.record.error_kind if row.record else ""
            rows_by_kind.setdefault((row.status, kind), []).extend([row] * len(row.proposals))
    with_outcome = sum(count for status, count in view.counts.items() if status != RUNNING)
    most_frequent = sorted(rows_by_kind.items(), key=lambda item: -len(item[1]))[:MAX_KINDS]
    return [
        FailureKind(status, kind, len(rows), len(rows) / with_outcome, main_line(rows[0], 200), rows[0])
        for (status, kind), rows in most_frequent
    ]


def main_line(row: Row, length: int) -> str:
    """The line of an experiment's error that has the reason, of at most `length` characters.

    A traceback ends with its reason.  A refused patch begins with it, and the quoted code comes below.
    """
    message = (row.record.error or {}).get("message", "") if row.record else ""
    lines = [line for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    if row.status not in (UNPATCHABLE, REJECTED):
        return " ".join(lines[-1].split())[:length]
    # "… these lines are not in the file:" is no sentence without the first line of code that follows.
    reason = lines[:2] if lines[0].rstrip().endswith(":") else lines[:1]
    return " ".join(" ".join(reason).split())[:length]
