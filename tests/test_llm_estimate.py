"""The estimated cost of a run's code LLM: the documented formula, computed by hand."""

from ideator_rl.llm.estimate import Amount, estimate
from ideator_rl.llm.prices import FREE, Price, mean, shipped


def test_low_is_one_draft_an_idea_and_high_all_drafts_with_all_revisions():
    cost = estimate(10, samples=3, revisions=2, prompt_tokens=1000, completion_tokens=100, price=Price(1.0, 10.0))
    assert cost.low == Amount(calls=10, prompt_tokens=10_000, completion_tokens=1000, usd=0.02)
    # The prompts of a draft have 1000, 1100 and 1200 tokens: each repeats the earlier answers.
    assert cost.high == Amount(
        calls=90, prompt_tokens=30 * 3300, completion_tokens=30 * 300, usd=(99_000 + 90_000) / 1e6
    )
    assert cost.high.tokens == 108_000


def test_one_draft_without_revisions_has_one_cost():
    cost = estimate(7, samples=1, revisions=0, prompt_tokens=10, completion_tokens=5, price=FREE)
    assert cost.low == cost.high and cost.low.usd == 0


def test_several_models_cost_their_mean_by_weight():
    assert mean({"a": 3, "b": 1}, {"a": Price(1, 2), "b": Price(5, 6)}) == Price(2, 3)


def test_the_shipped_prices_are_read_and_are_per_million():
    assert shipped()["gpt-5-mini"].usd(1_000_000, 500_000) == 0.25 + 1.0
    assert all(0 < price.prompt < price.completion < 100 for price in shipped().values())
