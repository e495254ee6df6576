"""The recipe key `screen`: whether and how ideas are chosen by forecasts before they are run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Amount, Config, Count, Fraction

MOST_AFTER = 64
"""Outcomes before the screen ranks, where the recipe names no number …"""
SHARE_AFTER = 0.25
"""… and the share of the budget that they are at most."""


@dataclass(frozen=True)
class ScreenConfig(Config):
    """How a screen chooses; `screen: {}` turns it on with these defaults."""

    predictor: str = "tokens"
    """tokens, embedding, hidden (states of a local ideator), an entry point of the group `ideator_rl.predictors`, or a
    dotted path of a class."""
    over: Annotated[Count, Field(le=256)] = 8
    """Ideas sampled for each that is run."""
    after: Count | None = None
    """Outcomes before it ranks, a quarter of them successes (16 suffice); null for 64, or a quarter of max_experiments
    if that is less (in training, of the ideas that all batches would run)."""
    acquisition: Literal["success_ei", "ei", "ucb", "mean"] = "success_ei"
    """What ranks ideas. success_ei: chance to run times expected improvement over the best reward; ei: expected
    improvement alone; ucb: mean plus one standard deviation of doubt; mean: expected reward, failures included."""
    audit: Fraction = 0.1
    """Share of each batch that is drawn at random from the pool; the screen's worth is measured on it."""
    gate: Amount = 2.0
    """Lift, as measured plus one standard error, below which ideas are run at random."""
    learn: Literal["executed", "predicted", "none"] = "executed"
    """Training only, what the policy learns from: rewards of executed ideas, forecasts of all sampled ideas (once the
    screen ranks and while its gate is open), or nothing, for a frozen policy."""
    fresh: Fraction = 0.35
    """Share of new ideas in the pool below which an alarm begins. With `learn: predicted`, a batch below it trains
    nothing, and weights go a fifth of the way back to the start."""

    def outcomes_before(self, budget: int | None) -> int:
        """Outcomes that the screen waits for.

        Args:
            budget: experiments of the run; None for no limit.
        """
        # A budget that is known sets the default: the other three quarters are for choosing.
        if self.after is not None:
            return self.after
        return MOST_AFTER if budget is None else max(1, min(MOST_AFTER, int(SHARE_AFTER * budget)))

    def never_ranks(self, experiments: int | None, ideas: int | None) -> str:
        """Why a screen never chooses within these budgets, as a sentence; empty where it may.

        Args:
            experiments: of the run; None for no limit.
            ideas: to ask for; None for no limit.
        """
        first = self.outcomes_before(experiments)
        most = min((budget for budget in (experiments, ideas) if budget is not None), default=None)
        if most is None or first < most:
            return ""
        return (
            f"The screen waits for {first} outcomes, and a budget ends the search after {most} ideas: nothing will be "
            "screened. Lower screen.after, or raise the budget."
        )
