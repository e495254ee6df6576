"""The figures of a search, read from its folder alone: while it runs, after a kill, and at its end.

charged     distinct codebases that it asked for: what it would have run with an empty bucket
debugged    of these, crashed ones whose idea was mended by the coder and ran once more
elsewhere   of these, executed by another run (a shared bucket, or `archive_from`)
repeated    ideas that led to a codebase which this search had proposed before; they cost no experiment
near        near-duplicates: ideas that mean the same as an earlier one; `rejected` of them were not run
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ideator_rl.archive.archive import archive_of
from ideator_rl.experiment import NEAR_DUPLICATE, SUCCEEDED
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen.summary import ScreenSummary, read_screen_summary
from ideator_rl.storage.journal_reader import JOURNAL
from ideator_rl.storage.search_journal import read_search
from ideator_rl.text.display import number


@dataclass(frozen=True)
class SearchSummary:
    ideas: int
    epochs: int
    asks: int
    """Questions to the ideator."""
    kinds: dict[str, int]
    """Ideas by the kind of question they answer."""
    charged: int
    debugged: int
    """Of these, crashed ones that the coder was given to mend."""
    elsewhere: int
    elsewhere_succeeded: int
    repeated: int
    near: int
    rejected: int
    seconds: float
    """Wall seconds, over all sessions."""
    ended_by: str | None
    """The budget that ended the last session; None while it runs, or after a kill."""
    screen: ScreenSummary | None = None
    """None for a search without a screen."""

    def facts(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items()) or "none"
        duplicates = f"{self.near} near-duplicates by meaning, {self.rejected} of them not run"
        elsewhere = f", {self.elsewhere} of them executed by other runs ({self.elsewhere_succeeded} successes)"
        debugged = f", {self.debugged} of them crashed and were mended by the coder, whose next run counts too"
        epochs = "epoch" if self.epochs == 1 else "epochs"
        return [
            f"Search: {self.ideas} ideas of {self.asks} questions in {self.epochs} {epochs} ({kinds})",
            f"Experiments: {self.charged} charged{elsewhere if self.elsewhere else ''}"
            f"{debugged if self.debugged else ''}",
            f"Repeats: {self.repeated} ideas led to a known codebase and cost no experiment; {duplicates}",
            *([self.screen.line()] if self.screen else []),
        ]


def read_search_summary(folder: Path) -> SearchSummary | None:
    """The figures of a search; None for a training run."""
    rows = read_search(folder / JOURNAL)
    if rows is None:
        return None
    charged = [row for row in rows.executed if row[0].tree]
    # A record that is older than the idea which led to it was paid for by another run.
    elsewhere = [record for record, proposed, _ in charged if record.created < proposed]
    # Counted by the error kind of the record: another rule may have rejected a near-duplicate first.
    rejected = [record for record in rows.near_duplicates if record and record.error_kind == NEAR_DUPLICATE]
    return SearchSummary(
        ideas=rows.ideas,
        epochs=rows.epochs,
        asks=rows.questions,
        kinds=rows.ideas_by_kind,
        charged=len(charged) + len(rows.debugged),
        debugged=len(rows.debugged),
        elsewhere=len(elsewhere),
        elsewhere_succeeded=sum(record.status == SUCCEEDED for record in elsewhere),
        repeated=sum(ideas - 1 for _, _, ideas in charged),
        near=len(rows.near_duplicates),
        rejected=len(rejected),
        seconds=rows.seconds,
        ended_by=rows.ended_by,
        screen=read_screen_summary(folder / JOURNAL),
    )


def charged_codebases(buffer: RewardBuffer) -> set[str]:
    """Experiment ids of the distinct codebases that a search asked for, also of those that another run executed.

    Re-runs under other seeds are not counted.
    """
    proposed = buffer.journal.proposed_experiments()
    return {record.id for record in buffer.history if record.tree and (record.id in proposed or record.debugged)}


def report_notes(folder: Path) -> list[str]:
    """The lines about a search in a report; empty for a training run."""
    summary = read_search_summary(folder)
    return summary.lines() if summary else []


def best_result(buffer: RewardBuffer) -> str:
    """The best mean metric so far, for a line about a search."""
    archive, metric = archive_of(buffer), buffer.executor.environment.metric
    best = archive.metric(archive.successes()[0]) if archive.successes() else None
    return f"best {metric.name} {number(best)}" if best is not None else "no success yet"
