"""Faults of an LLM that no wait cures: the second in a row closes the client, and a probe finds them before a run pays."""

import asyncio

import pytest
from conftest import run
from llm_server import Scripted, answer

from ideator_rl.llm import ChatClient, LLMSettings, LLMUnavailable, client
from ideator_rl.storage.ledger import Caps, Ledger

HTML = {"body": b"<!doctype html><title>Log in</title>", "headers": {"Content-Type": "text/html"}}
WRONG_KEY = {"status": 401, "body": {"error": {"message": "Incorrect API key provided."}}}
NO_MODEL = {"status": 404, "body": {"error": {"message": "The model m does not exist."}}}
REFUSED = {"status": 400, "body": {"error": {"message": "Unexpected field: flavour."}}}
FILTERED = {"status": 400, "body": {"error": {"code": "content_filter", "message": "The prompt was filtered."}}}
OVERLOADED = {"status": 502, "body": b"<html>Bad gateway</html>"}
PERMANENT = {
    "wrong key": (WRONG_KEY, "Incorrect API key.*Check the key"),
    "forbidden": ({"status": 403}, "403.*Check the key"),
    "no such model": (NO_MODEL, "does not exist.*`models`"),
    "moved": ({"status": 302}, "302.*`base_url`"),
    "parameter": (REFUSED, "flavour.*`models`"),
    "no money": ({"status": 402}, "no quota left"),
    "no quota": ({"status": 429, "body": {"error": {"type": "insufficient_quota", "code": "429"}}}, "no quota left"),
    "login page": (HTML, "Log in.*login page"),
    "no JSON": ({"body": b"pong"}, "no chat completion.*pong.*`base_url`"),
    "nothing": ({"body": b""}, "no chat completion"),
    "other JSON": ({"body": {"ok": True}}, "no chat completion"),
    "Gemini's wrong key": (
        {
            "status": 400,
            "body": [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}],
        },
        "status 400: API key not valid.*Check the key",
    ),
    "xAI's wrong key": (
        {"status": 400, "body": {"code": "invalid argument", "error": "Incorrect API key provided: xx."}},
        "status 400: Incorrect API key.*Check the key",
    ),
    "wrong key as an answer": (
        {"body": {"error": "invalid api key"}},
        "no chat completion but an error: invalid api key.*Check the key",
    ),
    "error as an answer": ({"body": {"error": {"code": 401, "message": "No key."}}}, "no chat completion.*No key"),
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567890")


def new_client(server, ledger=None, **settings):
    raw = {"base_url": server.url, "models": "m", "max_tokens": 100, "retries": 0, **settings}
    return ChatClient(LLMSettings.from_mapping(raw), ledger or Ledger())


def faults_of(chat_client, *prompts):
    """Ask in turn; the error of each call, or None where it was answered."""

    async def ask():
        errors = []
        for number, prompt in enumerate(prompts):
            try:
                await chat_client.complete([{"role": "user", "content": prompt}], salt=str(number))
                errors.append(None)
            except LLMUnavailable as error:
                errors.append(error)
        await chat_client.close()
        return errors

    return run(ask())


@pytest.mark.parametrize(("step", "sentence"), PERMANENT.values(), ids=PERMANENT)
def test_after_the_second_permanent_fault_in_a_row_nothing_is_sent(step, sentence):
    with Scripted(step) as server:
        first, second, third = faults_of(new_client(server), *"abc")
        assert len(server.requests) == 2
    assert first.permanent and not first.repeated and second.repeated and third.repeated
    for error in (first, second, third):
        with pytest.raises(LLMUnavailable, match=sentence):
            raise error


@pytest.mark.parametrize("step", [HTML, {"body": b"{"}, {"body": {"choices": []}}])
def test_an_answer_that_is_not_the_apis_json_is_asked_for_once_more_and_no_more(step):
    with Scripted(step) as server:
        (error,) = faults_of(new_client(server, retries=6), "a")
        assert len(server.requests) == 2 and error.permanent and error.repeated
    with Scripted(step, {}) as server:
        assert faults_of(new_client(server, retries=6), "a") == [None]


@pytest.mark.parametrize("step", [OVERLOADED, {"status": 429}, {"drop": True}, FILTERED, {"body": {"error": "busy"}}])
def test_a_passing_fault_or_one_of_a_single_prompt_closes_nothing(step):
    with Scripted(step) as server:
        errors = faults_of(new_client(server), *"abcd")
        assert len(server.requests) == 4 and not any(error.permanent for error in errors)


def test_an_answer_between_two_faults_keeps_the_client_open():
    with Scripted(WRONG_KEY, {}, WRONG_KEY, {}, WRONG_KEY) as server:
        assert [error is None for error in faults_of(new_client(server), *"abcde")] == [False, True] * 2 + [False]


def test_a_wrong_name_among_several_models_closes_the_client_although_the_others_answer():
    def step(request):
        return NO_MODEL if request["model"] == "bad" else {}

    with Scripted(step) as server:
        errors = faults_of(new_client(server, models={"bad": 1, "good": 3}), *map(str, range(40)))
        asked = [request["model"] for request in server.requests]
    assert asked.count("bad") == 2 and asked[-1] == "bad" and errors[-1].repeated


def test_drafts_that_share_a_refused_prompt_count_once():
    with Scripted(REFUSED) as server:
        errors = faults_of(new_client(server), *"aaaabb")
        assert len(server.requests) == 5 and [error.repeated for error in errors] == [False] * 4 + [True] * 2


def test_calls_that_wait_for_a_slot_are_not_sent_once_the_key_is_refused():
    ledger = Ledger(Caps(tokens=10_000))
    with Scripted({**WRONG_KEY, "delay": 0.05}) as server:
        chat_client = new_client(server, ledger, concurrency=2)

        async def many():
            calls = (chat_client.complete([{"role": "user", "content": str(n)}], salt=str(n)) for n in range(12))
            return await asyncio.gather(*calls, return_exceptions=True)

        errors = run(many())
        assert len(server.requests) <= 3 and all(error.permanent for error in errors)
    assert ledger.spent.tokens == 0


PROMPT = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Write OK."}]


def test_a_probe_asks_every_model_for_a_few_tokens_and_books_them():
    ledger = Ledger()
    with Scripted({"body": answer("OK")}) as server:
        chat_client = new_client(server, ledger, models={"one": 1, "two": 2, "never": 0}, max_tokens=9000)
        run(chat_client.probe(PROMPT))
        assert [request["model"] for request in server.requests] == ["one", "two"] and ledger.spent.tokens == 30
        assert all(request["max_tokens"] == 16 and request["messages"] == PROMPT for request in server.requests)
        assert faults_of(chat_client, "a") == [None]


@pytest.mark.parametrize(("step", "sentence"), PERMANENT.values(), ids=PERMANENT)
def test_a_probe_raises_a_permanent_fault_within_two_calls(step, sentence):
    with Scripted(step) as server:
        with pytest.raises(LLMUnavailable, match=sentence):
            run(new_client(server, retries=6).probe(PROMPT))
        assert len(server.requests) <= 2


def test_a_probe_is_patient_with_passing_faults_for_a_short_while_only():
    with Scripted(OVERLOADED, {}) as server:
        run(new_client(server, retries=6).probe(PROMPT))
    with Scripted(OVERLOADED) as server, pytest.raises(LLMUnavailable, match="asked 3 times"):
        run(new_client(server, retries=6).probe(PROMPT))


def test_a_probe_of_a_server_that_never_answers_ends(monkeypatch):
    monkeypatch.setattr(client, "PROBE_SECONDS", 0.1)
    with Scripted({"delay": 2}) as server, pytest.raises(LLMUnavailable, match=r"no answer within 0\.1 s"):
        run(new_client(server).probe(PROMPT))


def test_a_probe_keeps_the_caps_and_leaves_recordings_alone(tmp_path):
    file = tmp_path / "calls.jsonl"
    with Scripted() as server:
        run(new_client(server, Ledger(Caps(tokens=20))).probe(PROMPT))
        assert not server.requests  # the run ends at its cap
        run(new_client(server, record=str(file)).probe(PROMPT))
        assert len(server.requests) == 1 and not file.read_text()
        run(new_client(server, replay=str(file)).probe(PROMPT))
        assert len(server.requests) == 1


def test_a_reasoning_model_that_cannot_answer_in_a_few_tokens_has_shown_that_it_answers():
    message = "Could not finish the message because max_tokens or model output limit was reached."
    with Scripted({"status": 400, "body": {"error": {"message": message}}}) as server:
        run(new_client(server).probe(PROMPT))
