"""The schedule of evolution: how large an epoch is, when the next begins, and what its questions exploit.

    s = min(1, ideas / 800), ideas being those that the budget allows

    epoch_size     80 · s, at least 8             quorum        0.8 − 0.5 · s
    exploit_start  0.75 − 0.25 · s                exploit_most  0.9 − 0.1 · s
    parents        100 · s², at least 6           elites        parents / (1 − s); without end at s = 1

At 800 ideas these are the numbers of Si et al. (arXiv 2601.14525): ten epochs of 80, and up to 100 parents.  Below that
there are ten epochs still; with fewer ideas to learn from, they exploit more, and only the best few.  The ends are the
paper's and those of the shipped search recipe; the square was chosen with `benchmarks/schedules.py`, on
tasks that are not among those of docs/results/search.md, but for circle packing.

Guarantees: a key that the recipe sets wins.  A saved recipe has every number of its schedule, and a resumed search
keeps them, whatever its budget is now or a later version of this library would choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ideator_rl.search.config import PAPER, SearchConfig

EVOLUTION = "evolution"
PAPER_IDEAS = 800
LEAST_EPOCH, LEAST_PARENTS = 8, 6


@dataclass(frozen=True)
class Schedule:
    """The numbers that depend on the budget; the defaults are the paper's."""

    epoch_size: int = 80
    """Ideas of an epoch."""
    quorum: float = 0.3
    """Fraction of an epoch's results that starts the next."""
    exploit_start: float = 0.5
    exploit_most: float = 0.8
    parents: int = 100
    elites: int | None = None

    def options(self) -> dict[str, Any]:
        """The numbers that are options of the strategy, by name."""
        return {name: getattr(self, name) for name in OPTIONS}


OPTIONS = tuple(field.name for field in fields(Schedule) if field.name not in ("epoch_size", "quorum"))


def scaled(ideas: int) -> Schedule:
    """The schedule for a budget of so many ideas; from 800 on the paper's."""
    s = min(ideas, PAPER_IDEAS) / PAPER_IDEAS
    if s == 1:
        return Schedule()
    parents = max(LEAST_PARENTS, round(100 * s**2))
    return Schedule(
        epoch_size=max(LEAST_EPOCH, round(80 * s)),
        quorum=round(0.8 - 0.5 * s, 2),
        exploit_start=round(0.75 - 0.25 * s, 2),
        exploit_most=round(0.9 - 0.1 * s, 2),
        parents=parents,
        elites=round(parents / (1 - s)),
    )


def with_schedule(config: SearchConfig, saved: Mapping[str, Any] | None = None) -> SearchConfig:
    """The recipe with every number of its schedule as a key of its own; twice gives the same as once.

    Args:
        saved: the saved recipe of the search that is resumed.  Its numbers come before those of the budget.
    """
    if saved and "strategy" in saved:
        config = _with_saved(config, saved)
    schedule = Schedule()
    if config.strategy == EVOLUTION and config.schedule != PAPER:
        schedule = scaled(_ideas(config))
        # A budget in epochs needs epochs of a fixed size.
        if config.max_epochs is not None:
            schedule = replace(schedule, epoch_size=Schedule.epoch_size)
    options = config.strategy_options
    return replace(
        config,
        epoch_size=config.epoch_size or schedule.epoch_size,
        quorum=schedule.quorum if config.quorum is None else config.quorum,
        strategy_options={**schedule.options(), **(options or {})} if config.strategy == EVOLUTION else options,
    )


def _with_saved(config: SearchConfig, saved: Mapping[str, Any]) -> SearchConfig:
    """The saved recipe's numbers for the keys that the recipe at hand leaves open."""
    options = config.strategy_options
    if config.strategy == EVOLUTION == saved["strategy"]:
        before = saved.get("strategy_options") or {}
        options = {**{name: before[name] for name in OPTIONS if name in before}, **(options or {})}
    return replace(
        config,
        # Version 0.1.0 knew the paper's numbers only, and saved no name.
        schedule=config.schedule if config.schedule == PAPER else saved.get("schedule", PAPER),
        epoch_size=config.epoch_size or saved.get("epoch_size"),
        quorum=saved.get("quorum") if config.quorum is None else config.quorum,
        strategy_options=options,
    )


def _ideas(config: SearchConfig) -> int:
    """The most ideas that the budget allows; the paper's where only time or money ends the search."""
    epochs = None if config.max_epochs is None else config.max_epochs * (config.epoch_size or Schedule.epoch_size)
    # With a screen, most of the ideas that are asked for are not run.
    over = config.screen.over if config.screen else 1
    run = None if config.max_ideas is None else max(1, config.max_ideas // over)
    counts = (config.max_experiments, run, epochs)
    return min((count for count in counts if count is not None), default=PAPER_IDEAS)
