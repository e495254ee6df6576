"""Prices of tokens: those of the library genai-prices, by the server's address; a recipe's `prices` replace them.

A cost is an upper bound: discounts for cached prompts, batches or quiet hours are not included.  The library's data
come with its release, and are never fetched: `pip install -U genai-prices` brings newer ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache

from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Amount, Config

MILLION = 1_000_000
CLOSED = re.compile(r"(?:^|/)(?:claude|gpt-(?!oss)|chatgpt|o[1-9]|gemini|grok)\b", re.IGNORECASE)
"""Names of models without public weights: a server on this machine can only pass them on, for money."""


@dataclass(frozen=True)
class Price(Config):
    """USD per 1 million tokens."""

    prompt: Amount
    completion: Amount

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / MILLION


FREE = Price(0.0, 0.0)


@cache
def listed(model: str, url: str, prompt_tokens: int = MILLION) -> Price | None:
    """The library's price of a model; None where it has none, or has one that tokens alone do not give.

    Args:
        url: of the server.  Where the library does not know it, the model's maker is assumed, as its name tells.
        prompt_tokens: of the longest prompt; of prices that rise with its length, this one's counts.
    """
    from genai_prices import Usage, calc_price
    from genai_prices.data_snapshot import get_snapshot

    usage = Usage(input_tokens=prompt_tokens, output_tokens=prompt_tokens)
    by_address = True
    try:
        get_snapshot().find_provider(None, None, url)
    except LookupError:
        by_address = False
    # The highest price of a day counts: some servers are cheaper at night.
    prompt = completion = 0.0
    for hour in range(24):
        when = datetime.now(UTC) + timedelta(hours=hour)
        try:
            if by_address:
                cost = calc_price(usage, model, provider_api_url=url, genai_request_timestamp=when)
            else:
                # With this name the library takes `maker/model` apart, as gateways write it.
                cost = calc_price(usage, model, provider_id="litellm", genai_request_timestamp=when)
        except LookupError:
            return None
        # A fee for each call, or a price of zero at an unknown server, would make a cap fail to hold.
        if cost.total_price != cost.input_price + cost.output_price or not (by_address or cost.total_price):
            return None
        prompt = max(prompt, float(cost.input_price) / prompt_tokens * MILLION)
        completion = max(completion, float(cost.output_price) / prompt_tokens * MILLION)
    return Price(prompt, completion)


def mean(models: Mapping[str, float], prices: Mapping[str, Price]) -> Price:
    """The mean price of a call, over models by weight."""
    total = sum(models.values())
    return Price(
        sum(weight * prices[name].prompt for name, weight in models.items()) / total,
        sum(weight * prices[name].completion for name, weight in models.items()) / total,
    )
