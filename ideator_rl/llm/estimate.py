"""The cost of a run's code LLM, estimated before the first call.

low = one draft an idea, valid at once:         ideas × (prompt + completion)
high = all drafts, each with all its revisions: ideas × samples × Σ over r = 0..revisions of (prompt + r·completion)
       for the prompts, because a revision's prompt repeats the earlier answers; and
       ideas × samples × (revisions + 1) × completion for the completions.
Not included: retries after faults that a server bills all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from ideator_rl.llm.prices import Price


@dataclass(frozen=True)
class Amount:
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Estimate:
    low: Amount
    high: Amount
    experiments_per_idea: int = 1
    """At most; more than one where the coder mends what crashed."""


def estimate(
    ideas: int, samples: int, revisions: int, prompt_tokens: int, completion_tokens: int, price: Price
) -> Estimate:
    """The low and the high end.

    Args:
        samples: drafts an idea.
        revisions: revisions of a draft, at most.
        prompt_tokens: tokens of a draft's prompt.
        completion_tokens: tokens of one answer; with the settings' `max_tokens`, `high` is an upper bound.
        price: of the model, or `prices.mean` of several.
    """
    drafts = ideas * samples
    calls = drafts * (revisions + 1)
    repeated = drafts * completion_tokens * revisions * (revisions + 1) // 2
    return Estimate(
        _amount(ideas, ideas * prompt_tokens, ideas * completion_tokens, price),
        _amount(calls, calls * prompt_tokens + repeated, calls * completion_tokens, price),
    )


def _amount(calls: int, prompt: int, completion: int, price: Price) -> Amount:
    return Amount(calls, prompt, completion, price.usd(prompt, completion))
