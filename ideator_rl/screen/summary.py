"""What a screen has done so far, read from a run's journal: for `status` and the report, also while the run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ideator_rl.screen.figures import Lift, screen_steps
from ideator_rl.storage.forecasts import TABLE, read_forecasts
from ideator_rl.storage.journal_reader import JournalReader


@dataclass(frozen=True)
class ScreenSummary:
    since: int | None
    """First step in which forecasts ranked ideas, from 0; None while the screen waits for outcomes."""
    predictor: str
    """And the number of outcomes that it was last fitted on; empty while it waits."""
    sampled: int
    """Ideas, from that step on."""
    executed: int
    """Of these, run."""
    audited: int
    """Of these, drawn at random."""
    lift: Lift | None
    """Expected improvement of a preferred idea over that of a random one; None before enough audited outcomes."""
    coverage: float | None
    is_open: bool
    """Whether forecasts chose in the last step; false where the lift was below the gate."""
    ended: int | None = None
    """Last step with forecasts, where later ones have none: the run was resumed without a screen."""

    @property
    def samples_per_experiment(self) -> float | None:
        return self.sampled / self.executed if self.executed else None

    def line(self) -> str:
        """For a person."""
        if self.since is None:
            return "Screen: on; waits for outcomes, and every sampled idea is run until then"
        per = f"{self.samples_per_experiment:.1f} sampled" if self.executed else "none run yet, ideas sampled"
        state = "" if self.is_open else "; its gate is closed, and ideas are run at random"
        steps = f"on since step {self.since + 1}"
        if self.ended is not None:
            steps, state = f"on from step {self.since + 1} to {self.ended + 1}, now off", ""
        return (
            f"Screen: {steps} ({self.predictor} outcomes), {per} for each idea run, "
            f"{self.audited} audited; {_lift(self.lift)}{_coverage(self.coverage)}{state}"
        )


def _lift(lift: Lift | None) -> str:
    return "lift not measured yet" if lift is None else f"lift {lift.value:.1f}, at most {lift.high:.1f} (chance 1)"


def _coverage(coverage: float | None) -> str:
    return "" if coverage is None else f", coverage {coverage:.0%} of 80 %"


def read_screen_summary(path: Path) -> ScreenSummary | None:
    """The summary of a journal; None for a run without a screen.

    Raises:
        JournalError: the journal cannot be read.
    """
    with JournalReader(path) as journal:
        if not journal.has_table(TABLE):
            return None
        outcomes = read_forecasts(journal)
        # Steps after the last forecast: the run goes on without its screen.
        last = int(journal.read("select coalesce(max(step), -1) from rollouts")[0][0])
    # The table is made when the screen is opened, long before it ranks.
    if not outcomes:
        return ScreenSummary(None, "", 0, 0, 0, None, None, True)
    steps = screen_steps(outcomes)
    return ScreenSummary(
        since=steps[0].step,
        predictor=", fitted on ".join(outcomes[-1].forecast.version.rsplit(":", 1)),
        sampled=len(outcomes),
        executed=sum(step.executed for step in steps),
        audited=sum(step.audited for step in steps),
        lift=steps[-1].lift,
        coverage=steps[-1].coverage,
        is_open=steps[-1].is_open,
        ended=steps[-1].step if steps[-1].step < last else None,
    )
