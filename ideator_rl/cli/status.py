"""`ideator-rl status RUN_OR_BUCKET`: how far a run is, or what a bucket holds.

`--json` prints the facts as one object; `--watch` repeats the summary until nothing is under way (`cli.watch`).
A trainer can be seen only on the machine that it runs on: elsewhere the summary shows that this is not known.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ideator_rl.cli.bucket_status import BucketStatus
from ideator_rl.cli.output import print_json, print_text
from ideator_rl.cli.target import Process, bucket_at, find_trainer, run_folder
from ideator_rl.report.summary import outcomes, run_summary
from ideator_rl.screen.summary import ScreenSummary, read_screen_summary
from ideator_rl.search.search_summary import SearchSummary, read_search_summary
from ideator_rl.storage.bucket import BucketError
from ideator_rl.storage.run_reader import JOURNAL, Run, read_run

RUN_FILES = (JOURNAL, f"{JOURNAL}-wal", "recipe.yaml", "ledger.json", "timings.json", "report.html")
"""Files of a run's folder that its summary depends on; a write to the journal shows as a new time of its WAL file."""
SETTLED_NANOSECONDS = 100_000_000
"""File systems keep times in steps of some milliseconds: a later time of a file may hide a further write."""


def main(args: argparse.Namespace) -> int:
    """Returns 0."""
    if args.watch:
        from ideator_rl.cli.watch import watch  # rich takes a moment, which `--json` need not wait for

        waiting = f"{args.target} holds no run yet: waiting for one to begin. Ctrl-C ends the wait."
        return watch(lambda: _find_status(args.target, wait=True), waiting)
    status = _find_status(args.target)
    assert status is not None
    status.refresh()
    if args.json:
        print_json(status.facts())
    else:
        print_text(status.text())
    return 0


def _find_status(target: str, wait: bool = False) -> RunStatus | BucketStatus | None:
    """The status of a run or of a bucket; with `wait`, None for a folder that is neither yet.

    Raises:
        BucketError: the target is neither, or cannot be one.
    """
    folder = run_folder(target)
    if folder is not None:
        return RunStatus(folder)
    try:
        return BucketStatus(bucket_at(target))
    except BucketError:
        if not wait or "://" in target:
            raise
        return None


class RunStatus:
    """A run's folder."""

    run: Run
    search: SearchSummary | None
    screen: ScreenSummary | None
    """Of a training run; a search has its own in `search`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.process: Process | None = None
        self._change_times: tuple[int, ...] = ()

    def refresh(self) -> bool:
        """Look at the folder; reads its records only when a file changed since the last look.

        Returns:
            Whether a trainer of this machine is at work.
        """
        # The process comes first: a run that has ended by now has written all that the files are about to show.
        self.process = find_trainer(self.folder)
        change_times = tuple(_change_time(self.folder / name) for name in RUN_FILES)
        if change_times != self._change_times:
            before = time.time_ns() - SETTLED_NANOSECONDS
            self.run, self.search = read_run(self.folder), read_search_summary(self.folder)
            has_own = self.search is None and (self.folder / JOURNAL).is_file()
            self.screen = read_screen_summary(self.folder / JOURNAL) if has_own else None
            # A file may be written again without a new time: the records are then read once more at the next look.
            self._change_times = change_times if max(change_times) < before else ()
        return self.process is not None

    def headline(self) -> str:
        """One line."""
        counts = outcomes(row.status for row in self.run.rollouts) or "no ideas yet"
        steps = len({row.step for row in self.run.rollouts})
        limit = self.run.recipe.get("max_steps")
        return f"{self._state()} · step {steps}{f' of {limit}' if limit else ''} · {counts}"

    def text(self, rows: int | None = None) -> str:
        """The summary; shortened to about `rows` lines if given."""
        lines = [self._state(), run_summary(self.run, rows - 2 if rows else None)]
        more = self.search.lines() if self.search else [self.screen.line()] if self.screen else []
        return "\n".join([*lines, *more])

    def facts(self) -> dict[str, Any]:
        """What `--json` prints."""
        run, search = self.run, self.search
        best = run.ranked[0] if run.ranked else None
        return {
            "run": str(self.folder),
            "process": self.process.pid if self.process else None,
            "max_steps": run.recipe.get("max_steps"),
            "baseline": run.baseline,
            "best": {"id": best.id, "metric": best.metric, "idea": best.idea} if best else None,
            "best_code_parents": [parent.id for parent in run.code_parents(best)] if best else [],
            "statuses": dict(Counter(row.status for row in run.rollouts)),
            "experiments": len(run.ran),
            "steps": [{**asdict(step), "success": step.success} for step in run.by_step()],
            "places": dict(run.places),
            "screen": asdict(self.screen) if self.screen else None,
            "search": {**search.facts(), "words": search.lines()} if search else None,
        }

    def _state(self) -> str:
        if self.process is not None:
            return f"under way, process {self.process.pid}"
        if self.run.recipe and not self.run.timings:  # a run of a recipe writes its timings last
            return "not under way on this machine; a trainer on another machine cannot be seen from here"
        return "not under way"


def _change_time(path: Path) -> int:
    """In nanoseconds; 0 where there is no such file."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
