"""Prices of tokens: a shipped table with a date; a recipe's `prices` replace its entries.

A cost is an upper bound: discounts for cached prompts or batches are not included.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Amount, Config

MILLION = 1_000_000


@dataclass(frozen=True)
class Price(Config):
    """USD per 1 million tokens."""

    prompt: Amount
    completion: Amount

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / MILLION


FREE = Price(0.0, 0.0)


@cache
def shipped() -> Mapping[str, Price]:
    """The table in `prices.yaml`, by the model's exact name."""
    raw = yaml.safe_load((Path(__file__).parent / "prices.yaml").read_text(encoding="utf-8"))
    return {name: Price(**price) for name, price in raw.items()}


def mean(models: Mapping[str, float], prices: Mapping[str, Price]) -> Price:
    """The mean price of a call, over models by weight."""
    total = sum(models.values())
    return Price(
        sum(weight * prices[name].prompt for name, weight in models.items()) / total,
        sum(weight * prices[name].completion for name, weight in models.items()) / total,
    )
