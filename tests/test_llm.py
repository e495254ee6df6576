"""The client of a code LLM, against a scripted server: each fault has its own outcome."""

import asyncio
import email.utils
import threading
import time

import pytest
from llm_server import Scripted, answer

from ideator_rl.llm import ChatClient, ContextTooLong, LLMSettings, LLMUnavailable, client
from ideator_rl.llm.settings import SettingsError
from ideator_rl.storage.ledger import BudgetSpent, Caps, Ledger

ASK = [{"role": "user", "content": "Write a patch."}]
PRICES = {"m": {"prompt": 1000, "completion": 10_000}}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def new_client(url, ledger=None, **settings):
    raw = {"base_url": url, "models": "m", "max_tokens": 100, **settings}
    return ChatClient(LLMSettings.from_mapping(raw), ledger or Ledger())


def ask(server, ledger=None, salt="a", **settings):
    async def once():
        chat_client = new_client(server.url, ledger, **settings)
        try:
            return await chat_client.complete(ASK, salt=salt)
        finally:
            await chat_client.close()

    return asyncio.run(once())


def assert_unavailable(server, message):
    with pytest.raises(LLMUnavailable, match=message):
        ask(server)


def test_a_reply_holds_the_tokens_the_cost_and_the_time_of_the_answer():
    ledger = Ledger()
    with Scripted({"body": answer("Done.")}) as server:
        reply = ask(server, ledger, prices=PRICES, temperature=0.5, extra_body={"top_k": 5})
    assert (reply.text, reply.finish, reply.model, reply.prompt_tokens, reply.completion_tokens) == ("Done.", "stop", "m", 10, 5)  # fmt: skip
    assert reply.usd == ledger.spent.usd == 0.06 and ledger.spent.tokens == 15 and not reply.estimated
    sent = server.requests[0]
    assert sent.pop("seed") >= 0
    assert sent == {"model": "m", "messages": ASK, "temperature": 0.5, "max_tokens": 100, "top_k": 5}
    assert reply.seconds > 0


def test_temporary_faults_are_retried_and_unbilled_attempts_are_not_booked():
    ledger = Ledger()
    script = [{"status": 500, "body": b"<html>oops"}, {"status": 503}, {"status": 429, "body": {"error": {"message": "slow"}}}, {}]  # fmt: skip
    with Scripted(*script) as server:
        assert ask(server, ledger).text == "Hello."
    assert len(server.requests) == 4 and ledger.spent.tokens == 15


# A date counts from the moment it is written, which is before the first request: it may leave less of the second.
@pytest.mark.parametrize(
    "form, least", [(str, 1.95), (lambda s: email.utils.formatdate(time.time() + s + 1, usegmt=True), 1.5)]
)
def test_a_retry_after_header_delays_all_clients_of_the_server(form, least):
    with Scripted({"status": 429, "headers": {"Retry-After": form(2)}}, {}) as server:

        async def call_twice():
            first = asyncio.create_task(new_client(server.url).complete(ASK, salt="a"))
            while not server.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(1.0)  # the answer has been read by now, also on a busy machine
            return await asyncio.gather(first, new_client(server.url).complete(ASK, salt="b"))

        asyncio.run(call_twice())
    assert len(server.times) == 3 and min(server.times[1:]) - server.times[0] >= least


def test_a_retry_after_of_an_hour_makes_the_server_unavailable():
    with Scripted({"status": 429, "headers": {"Retry-After": "3600"}}) as server:
        assert_unavailable(server, "3600 s")
    assert len(server.requests) == 1


def test_a_call_to_an_account_without_quota_is_not_retried():
    with Scripted({"status": 429, "body": {"error": {"code": "insufficient_quota", "message": "pay"}}}) as server:
        assert_unavailable(server, "no quota left")
    assert len(server.requests) == 1


def test_an_attempt_that_times_out_is_retried_and_its_reservation_is_booked():
    ledger = Ledger()
    with Scripted({"delay": 4}, {}) as server:
        assert ask(server, ledger, timeout=1).text == "Hello."
    assert len(server.requests) == 2 and ledger.spent.tokens > 100 + 15


def test_an_attempt_whose_connection_breaks_is_retried_and_its_reservation_is_booked():
    ledger = Ledger()
    with Scripted({"drop": True}, {}) as server:
        assert ask(server, ledger).text == "Hello."
    assert ledger.spent.tokens > 100 + 15


def test_a_server_that_is_down_costs_nothing_and_is_unavailable():
    server, ledger = Scripted(), Ledger()
    server.stop()
    with pytest.raises(LLMUnavailable, match=r"asked 3 times and gave no answer.*no connection.*--resume"):
        ask(server, ledger, retries=2)
    assert ledger.spent.tokens == 0


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'{"choices": []}', b'{"error": {"message": "overloaded"}}', b'{"choices": [null]}', {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "gone"}, "message": {"content": "Half"}}]}])  # fmt: skip
def test_a_body_that_is_no_chat_completion_is_retried(body):
    with Scripted({"body": body}, {}) as server:
        assert ask(server).text == "Hello."
    with Scripted({"body": body}) as server, pytest.raises(LLMUnavailable, match="no chat completion"):
        ask(server, retries=1)


@pytest.mark.parametrize(
    ("body", "finish", "text"),
    [
        (answer(""), "empty", ""),
        (answer(None), "empty", ""),
        (answer(" \n"), "empty", " \n"),
        (answer(None, tool_calls=[{"id": "1"}], finish="tool_calls"), "empty", ""),
        (answer(None, refusal="I won't."), "refused", "I won't."),
        (answer("Half", finish="content_filter"), "refused", "Half"),
        (answer("Half", finish="length"), "length", "Half"),
        (answer("", finish="length", reasoning_content="Hm"), "length", ""),
        (answer("Yes", reasoning_content="Hm"), "stop", "Yes"),
        (answer([{"type": "text", "text": "Yes"}, {"type": "image"}]), "stop", "Yes"),
        (answer("<think>Hm</think>Yes", finish=None), "stop", "<think>Hm</think>Yes"),
        (answer("half \ud83d pair"), "stop", "half ? pair"),
    ],
)
def test_odd_answers_are_replies_with_a_finish_and_not_errors(body, finish, text):
    with Scripted({"body": body}) as server:
        reply = ask(server)
    assert (reply.finish, reply.text, len(server.requests)) == (finish, text, 1)


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": None, "completion_tokens": 3}, {"prompt_tokens": -1, "completion_tokens": 3}])  # fmt: skip
def test_tokens_that_the_server_does_not_count_are_estimated_and_marked_so(usage):
    with Scripted({"body": answer("x" * 9, usage=usage, reasoning_content="y" * 8)}) as server:
        reply = ask(server)
    assert reply.estimated and (reply.prompt_tokens, reply.completion_tokens) == (4, 3 + 2)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "Check the key in MY_KEY"), (403, "Check the key"), (404, "base_url.*models"), (400, "seed: null"), (422, "status 422")],
)  # fmt: skip
def test_a_permanent_fault_is_raised_at_once_and_never_shows_the_key(status, message, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    step = {"status": status, "body": {"error": {"message": "bad sk-secret-123 there"}}}
    with Scripted(step) as server, pytest.raises(LLMUnavailable, match=message) as caught:
        ask(server, api_key_env="MY_KEY")
    assert len(server.requests) == 1 and "sk-secret" not in str(caught.value) and "***" in str(caught.value)
    assert server.headers[0]["authorization"] == "Bearer sk-secret-123"


@pytest.mark.parametrize(
    "step",
    [
        {"body": {"error": {"code": 401, "message": "bad sk-secret-123 there"}}},
        {"body": b"<p>no sk-secret-123</p>"},
        {
            "body": b'data: {"error": {"message": "sk-secret-123"}}\n\n',
            "headers": {"Content-Type": "text/event-stream"},
        },
    ],
)
def test_an_answer_with_status_200_that_repeats_the_key_never_shows_it(step, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    with Scripted(step) as server, pytest.raises(LLMUnavailable) as caught:
        ask(server, api_key_env="MY_KEY", retries=0)
    assert "sk-secret" not in str(caught.value) and "***" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "no"},
        {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."},
        {"message": "prompt is too long: 210000 tokens > 200000 maximum"},
        {"message": "the request exceeds the available context size, try increasing it"},
        "This model's maximum prompt length is 131072 but the request contains 136973 tokens.",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8192. Given: 8000 `inputs` tokens and 500",
        "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
        {"message": "input length and `max_tokens` exceed context limit: 199211 + 20000 > 200000"},
        {"code": "invalid_parameter_error", "message": "Range of input length should be [1, 30720]"},
    ],
)
def test_a_prompt_that_the_server_finds_too_long_has_an_error_of_its_own(error):
    with (
        Scripted({"status": 400, "body": {"error": error}}) as server,
        pytest.raises(ContextTooLong, match="Show less"),
    ):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        "Input validation error: `max_new_tokens` must be <= 512. Given: 1000",
    ],
)
def test_a_completion_longer_than_the_server_allows_is_not_taken_for_a_long_prompt(message):
    step = {"status": 422, "body": {"error": message}}
    with Scripted(step) as server, pytest.raises(LLMUnavailable, match="refuses to answer"):
        ask(server)


def test_a_prompt_beyond_the_window_is_not_sent():
    with Scripted() as server:
        assert ask(server, context_tokens=104).text == "Hello."
        with pytest.raises(ContextTooLong, match="about 4 tokens.*100.*103"):
            ask(server, context_tokens=103)
    assert len(server.requests) == 1


def test_the_concurrency_limit_holds_across_clients_threads_and_loops():
    with Scripted({"delay": 0.03}) as server:

        async def many():
            chat_client = new_client(server.url, concurrency=3)
            await asyncio.gather(*(chat_client.complete(ASK, salt=str(i)) for i in range(8)))
            await chat_client.close()

        threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.requests) == 24 and server.most_inside == 3


def test_one_client_serves_several_loops_in_turn_and_at_once():
    with Scripted({"delay": 0.05}) as server:
        shared = new_client(server.url, concurrency=1)
        replies = []

        def work():
            replies.append(asyncio.run(shared.complete(ASK, salt="a")))

        work()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(replies) == 5 and server.most_inside == 1


def test_the_rate_limit_holds_for_all_clients_of_a_server_together():
    with Scripted() as server:

        async def many():
            clients = [new_client(server.url, requests_per_minute=1200) for _ in range(2)]
            await asyncio.gather(*(clients[i % 2].complete(ASK, salt=str(i)) for i in range(21)))

        asyncio.run(many())
    assert server.times[-1] - server.times[0] >= 0.7, "21 starts 0.05 s apart; two gates would need half of that"


def test_a_cancelled_call_frees_its_slot_at_once_and_its_reservation_is_booked():
    with Scripted({"delay": 6}, {}) as server:
        ledger = Ledger()

        async def cancel_two_calls():
            chat_client = new_client(server.url, ledger, concurrency=1)
            sent = asyncio.create_task(chat_client.complete(ASK, salt="a"))
            waiting = asyncio.create_task(chat_client.complete(ASK, salt="b"))
            while not server.requests:
                await asyncio.sleep(0.01)
            waiting.cancel()
            sent.cancel()
            started = time.monotonic()
            await asyncio.gather(sent, waiting, return_exceptions=True)
            reserved = ledger.spent.tokens
            await chat_client.complete(ASK, salt="c")
            return reserved, time.monotonic() - started

        reserved, seconds = asyncio.run(cancel_two_calls())
    assert seconds < 4 and len(server.requests) == 2
    assert 100 < reserved < 300 and ledger.spent.tokens == reserved + 15, "the waiting call costs nothing"


def test_fifty_calls_at_once_never_break_a_cap():
    full = {"prompt_tokens": 7, "completion_tokens": 100}
    ledger = Ledger(Caps(usd=20.0, tokens=2000))
    with Scripted({"delay": 0.01, "body": answer(usage=full)}) as server:

        async def many():
            chat_client = new_client(server.url, ledger, concurrency=50, prices=PRICES)
            calls = (chat_client.complete(ASK, salt=str(i)) for i in range(50))
            return await asyncio.gather(*calls, return_exceptions=True)

        results = asyncio.run(many())
    answered = [result for result in results if not isinstance(result, BaseException)]
    assert all(isinstance(result, BudgetSpent) for result in results if result not in answered)
    assert ledger.spent.usd <= 20 and ledger.spent.tokens == len(answered) * 107 <= 2000
    assert len(answered) == len(server.requests) >= 15, "the cap is used up as far as a call surely fits"
    assert ledger.exhausted


def test_the_salt_alone_selects_the_seed_and_the_model_by_weight():
    with Scripted() as server:

        async def many():
            chat_client = new_client(server.url, models={"big": 3, "small": 1, "none": 0}, concurrency=50)
            return [(await chat_client.complete(ASK, salt=str(i % 100))).model for i in range(200)]

        models = asyncio.run(many())
    assert models[:100] == models[100:] and "none" not in models and 60 <= models[:100].count("big") <= 90
    seeds = [sent["seed"] for sent in server.requests]
    assert seeds[:100] == seeds[100:] and len(set(seeds)) == 100


def test_a_null_in_extra_body_leaves_a_parameter_out():
    with Scripted() as server:
        ask(server, extra_body={"seed": None, "temperature": None})
    assert sorted(server.requests[0]) == ["max_tokens", "messages", "model"]


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Scripted() as server:
        assert ask(server, retries=0).text == "Hello."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modles": "m"}, "unknown key 'modles'. Did you mean 'models'"),
        ({"models": {}}, "models: {}"),
        ({"models": {"m": -1}}, "models.m: -1. Expected a number of at least 0"),
        ({"models": {"m": 0}}, "one of them above 0"),
        ({"temperature": "hot"}, "temperature: 'hot'. Expected a number"),
        ({"concurrency": True}, "concurrency: True"),
        ({"retries": 1.5}, "retries: 1.5"),
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"prices": {"m": {"prompt": 1}}}, "no 'prices.m.completion'"),
        ({"extra_body": {"max_tokens": 5}}, "'max_tokens' in extra_body"),
        ({"record": "a", "replay": "a"}, "both record and replay"),
        ({"context_tokens": 100}, "no room for a prompt"),
    ],
)
def test_unusable_settings_are_refused_with_the_reason(settings, message):
    with pytest.raises(SettingsError, match=message):
        LLMSettings.from_mapping({"models": "m", "max_tokens": 100, **settings})


def test_a_missing_key_is_reported_by_name_before_any_call():
    with pytest.raises(SettingsError, match="OPENAI_API_KEY.*api_key_env: null"):
        new_client("https://llm.example/v1")
    new_client("https://llm.example/v1", api_key_env=None)
    new_client("http://127.0.0.1:1/v1")


def test_a_cap_in_usd_needs_a_price_and_without_a_cap_a_missing_price_is_logged(caplog):
    capped = Ledger(Caps(usd=1.0))
    with pytest.raises(SettingsError, match="No price is known for m.*cap in USD"):
        new_client("https://llm.example/v1", capped, api_key_env=None)
    new_client("https://llm.example/v1", capped, api_key_env=None, models="gpt-5-mini")
    new_client("https://llm.example/v1", capped, api_key_env=None, prices=PRICES)
    new_client("http://localhost:1/v1", capped)
    assert not caplog.records
    new_client("https://llm.example/v1", api_key_env=None)
    assert [record.message.count("\n") for record in caplog.records] == [0] and "count as 0 USD" in caplog.text


def test_the_version_depends_on_the_settings_that_change_an_answer():
    def version(**settings):
        return new_client("http://127.0.0.1:1/v1", **settings).version

    same = [version(), version(concurrency=3), version(retries=1, timeout=5), version(api_key_env=None)]
    changed = [version(models="n"), version(temperature=0), version(max_tokens=5), version(extra_body={"top_p": 0.9})]
    assert len(set(same)) == 1 and len({*same, *changed}) == 5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"api_key_env": "sk-abcabcabcabcabcabc"}, "api_key_env: .*name of an environment variable"),
        ({"base_url": "http://me:abc@host/v1?key=abc"}, r"http://host/v1\?\(hidden\)"),
    ],
)
def test_a_secret_in_a_setting_that_does_not_take_it_is_not_shown(setting, message):
    with pytest.raises(SettingsError, match=message) as caught:
        LLMSettings.from_mapping({"models": "m", **setting})
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("end", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_address_of_a_call_serves_as_that_of_the_server(end):
    assert LLMSettings.from_mapping({"models": "m", "base_url": f"http://host/v1{end}"}).url == "http://host/v1"
