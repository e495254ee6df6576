"""What the code LLM of a run may cost, before anything is asked.

low = one draft an idea, right at once:        ideas × (prompt + completion)
high = all drafts, each with all its revisions: ideas × samples × Σ over r = 0..revisions of (prompt + r·completion)
       for the prompts, for a revision's prompt repeats what was answered before; and
       ideas × samples × (revisions + 1) × completion for the completions.
Retries after faults that a server bills all the same are not in it.
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


def estimate(
    ideas: int, samples: int, revisions: int, prompt_tokens: int, completion_tokens: int, price: Price
) -> Estimate:
    """The two ends.

    Args:
        samples: drafts an idea.
        revisions: of a draft, at most.
        prompt_tokens: of a draft's prompt.
        completion_tokens: of one answer; the settings' `max_tokens` makes `high` the most it can be.
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
