"""The estimated cost of a run's code LLM: the documented formula, computed by hand."""

import pytest

from ideator_rl.llm.estimate import Amount, estimate
from ideator_rl.llm.prices import FREE, Price, listed, mean
from ideator_rl.llm.settings import LLMSettings


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


def test_the_price_of_a_known_server_is_that_of_its_address_and_of_a_gateway_that_of_the_maker():
    openai, gateway = "https://api.openai.com/v1", "https://llm.example/v1"
    assert listed("gpt-5-mini", openai).usd(1_000_000, 500_000) == 0.25 + 1.0
    assert listed("gpt-5-mini", gateway) == listed("openai/gpt-5-mini", gateway) == listed("gpt-5-mini", openai)
    assert listed("claude-sonnet-5", openai) is None, "not sold there"
    assert listed("anthropic/claude-sonnet-5", "https://openrouter.ai/api/v1").prompt == 2.0


def test_a_price_that_rises_with_the_prompt_counts_as_the_longest_prompt_pays():
    google = "https://generativelanguage.googleapis.com/v1beta/openai"
    assert listed("gemini-2.5-pro", google) == Price(2.5, 15.0)
    assert listed("gemini-2.5-pro", google, 100_000) == Price(1.25, 10.0)
    settings = {"models": "gemini-2.5-pro", "base_url": google, "context_tokens": 100_000}
    assert LLMSettings.from_mapping(settings).price("gemini-2.5-pro") == Price(1.25, 10.0)


@pytest.mark.parametrize("model", ["some", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "gpt-99", "google/gemma-3-27b-it", "sonar-pro", ""])  # fmt: skip
def test_a_model_without_a_sure_price_has_none(model):
    assert listed(model, "https://llm.example/v1") is None


def test_on_this_machine_only_a_model_that_its_maker_alone_serves_costs_money():
    settings = LLMSettings.from_mapping({"models": "m", "base_url": "http://127.0.0.1:4000/v1", "prices": {"mine": {"prompt": 3, "completion": 3}}})  # fmt: skip
    free = ["m", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-R1", "llama-3.3-70b", "/models/claudette"]
    assert all(settings.price(name) == FREE for name in free)
    assert settings.price("anthropic/claude-sonnet-5").prompt == 2.0 and settings.price("gpt-5-mini").prompt == 0.25
    assert settings.price("mine") == Price(3, 3) and settings.price("gpt-neo") == FREE
