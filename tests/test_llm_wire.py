"""Forms of a request that servers differ in: each is found by itself, or set, and changes no identity."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from doc_blocks import blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_server import Scripted, answer, as_stream, ending, streamed
from test_reply_shapes import SHAPES

from ideator_rl.llm import ChatClient, LLMSettings, LLMUnavailable, client, wire
from ideator_rl.llm.faults import Fault
from ideator_rl.llm.reply import read_answer
from ideator_rl.llm.settings import SettingsError
from ideator_rl.llm.stream import assemble
from ideator_rl.storage.ledger import Ledger

SYSTEM = [{"role": "system", "content": "You write patches."}, {"role": "user", "content": "Go."}]
AZURE = {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "param": "max_tokens", "code": "unsupported_parameter"}}  # fmt: skip
GEMMA = {"object": "error", "message": "System role not supported", "type": "BadRequestError", "code": 400}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(wire, "_answered", {})
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def new_client(url, ledger=None, **settings):
    raw = {"base_url": url, "models": "m", "max_tokens": 100, "retries": 0, **settings}
    return ChatClient(LLMSettings.from_mapping(raw), ledger or Ledger())


def ask(server, ledger=None, salts="a", messages=SYSTEM, **settings):
    async def all_of_them():
        chat_client = new_client(server.url, ledger, **settings)
        replies = [await chat_client.complete(messages, salt=salt) for salt in salts]
        await chat_client.close()
        return replies

    return asyncio.run(all_of_them())


def refusing(when, body, status=400, reply=None):
    """A step that refuses requests for which `when` holds."""
    return lambda asked: {"status": status, "body": body} if when(asked) else reply or {}


def has_system(asked):
    return any(message["role"] == "system" for message in asked["messages"])


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("max_tokens", 400, AZURE),
        ("max_tokens", 400, {"error": {"message": "Unrecognized request argument supplied: max_tokens"}}),
        ("max_tokens", 400, [{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"max_tokens\": Cannot find field."}}]),
        ("max_tokens", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]}),
        ("max_tokens", 422, {"detail": "Unexpected fields in the request: {'max_tokens'}"}),
        ("max_tokens", 400, {"error": {"message": "property 'max_tokens' is unsupported"}}),
    ],
)  # fmt: skip
def test_a_refused_name_of_the_limit_is_replaced_at_once_and_for_the_rest_of_the_process(name, status, body, caplog):
    ledger = Ledger()
    with Scripted(refusing(lambda asked: name in asked, body, status)) as server:
        assert [reply.text for reply in ask(server, ledger, "ab")] == ["Hello."] * 2
        ask(server, ledger, "c")
    limits = [sorted(key for key in asked if key in wire.LIMITS) for asked in server.requests]
    assert limits == [["max_tokens"], *[["max_completion_tokens"]] * 3] and ledger.spent.tokens == 3 * 15
    assert [record.message.count("max_tokens_key: max_completion_tokens") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 9000. This model supports at most 4096 completion tokens.",
        "Invalid 'max_tokens': integer above maximum value.",
        "max_tokens: 9000 > 8192, which is the maximum allowed number of output tokens",
        "Unsupported value: 'temperature' does not support 0.5 with this model.",
        "The file system does not support locks.",
        "The system is overloaded. Unexpected load.",
        "Image input is not supported by this system",
        "Tool choice is not supported. The system prompt was 12 tokens",
    ],
)
def test_a_refused_value_is_no_refused_name(message):
    step = {"status": 400, "body": {"error": {"message": message}}}
    with Scripted(step) as server, pytest.raises(LLMUnavailable, match="status 400"):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "System role not supported"),
        (500, "Jinja Exception: System role not supported"),
        (400, "Unsupported value: 'messages[0].role' does not support 'system' with this model."),
        (400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (422, "Template error: unknown role: system"),
        (400, "role 'system' is not allowed"),
        (400, "System messages are not supported by this model."),
        (400, "This model does not support system prompts"),
        (400, "Only user and assistant roles are supported!"),
    ],
)
def test_a_refused_system_role_moves_its_text_to_the_head_of_the_first_user_message(status, message, caplog):
    with Scripted(refusing(has_system, GEMMA | {"message": message}, status)) as server:
        ask(server, salts="ab")
        ask(server, messages=SYSTEM[1:])
    sent = [asked["messages"] for asked in server.requests]
    assert sent == [SYSTEM, *[[{"role": "user", "content": "You write patches.\n\nGo."}]] * 2, SYSTEM[1:]]
    assert caplog.text.count("system_role: merge") == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "Unsupported parameter: 'seed' is not supported with this model."}}),
        (400, {"error": {"message": "UnsupportedParamsError: anthropic does not support parameters: ['seed'], for model=m"}}),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
    ],
)  # fmt: skip
def test_a_refused_seed_is_left_out(status, body):
    with Scripted(refusing(lambda asked: "seed" in asked, body, status)) as server:
        ask(server, salts="ab")
    assert ["seed" in asked for asked in server.requests] == [True, False, False]


def test_both_refusals_and_a_stream_without_counts_are_overcome_in_one_call():
    def picky(asked):
        if "stream_options" in asked:
            return {"status": 422, "body": {"detail": "Unexpected fields in the request: {'stream_options'}"}}
        if "max_tokens" in asked:
            return {"status": 400, "body": AZURE}
        return {"status": 400, "body": GEMMA} if has_system(asked) else streamed("Hi.", *ending(usage=None))

    with Scripted(picky) as server:
        (reply,) = ask(server, stream=True)
    assert reply.text == "Hi." and reply.estimated and len(server.requests) == 4


@pytest.mark.parametrize(
    ("settings", "body", "message"),
    [
        ({"max_tokens_key": "max_tokens"}, AZURE, "Write `max_tokens_key: max_completion_tokens`"),
        ({"system_role": "send"}, GEMMA, "Write `system_role: merge`"),
        ({}, {"error": {"message": "Unsupported value: 'temperature' does not support 0.5 with this model."}}, r"`extra_body: \{temperature: null\}`"),
    ],
)  # fmt: skip
def test_a_form_that_is_set_is_kept_and_the_error_names_the_line_to_write(settings, body, message):
    with Scripted({"status": 400, "body": body}) as server, pytest.raises(LLMUnavailable, match=message):
        ask(server, **settings)
    assert len(server.requests) == 1


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens", None])
def test_the_limit_is_sent_under_the_name_that_is_set_or_not_at_all(key):
    with Scripted() as server:
        ask(server, max_tokens_key=key, system_role="merge")
    sent = server.requests[0]
    assert {name: sent.get(name) for name in wire.LIMITS if name in sent} == ({key: 100} if key else {})
    assert len(sent["messages"]) == 1


def test_a_server_that_takes_neither_name_is_asked_twice_and_the_error_says_how_to_leave_both_out():
    refused = lambda asked: {"status": 400, "body": {"error": {"message": f"Unknown parameter: '{next(k for k in wire.LIMITS if k in asked)}'."}}}  # noqa: E731  # fmt: skip
    with Scripted(refused) as server, pytest.raises(LLMUnavailable, match="`max_tokens_key: null`"):
        ask(server)
    assert len(server.requests) == 2


def test_headers_and_query_come_from_the_environment_and_no_error_shows_them(monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY", "very-secret-1")
    extra = {
        "extra_headers": {"api-key": "${GATEWAY_KEY}", "X-Team": "a ${GATEWAY_KEY} b"},
        "extra_query": {"api-version": "2024-10-21"},
    }
    with Scripted({}, {"status": 403, "body": {"error": {"message": "no very-secret-1"}}}) as server:
        ask(server, api_key_env=None, **extra)
        with pytest.raises(LLMUnavailable, match=r"no \*\*\*"):
            ask(server, **extra)
    headers = server.headers[0]
    assert (headers["api-key"], headers["x-team"]) == ("very-secret-1", "a very-secret-1 b")
    assert "authorization" not in headers and server.paths[0] == "/v1/chat/completions?api-version=2024-10-21"


def test_a_secret_that_is_a_part_of_a_header_is_shown_by_no_error(monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY", "very-secret-1")
    with (
        Scripted({"status": 403, "body": {"error": {"message": "no very-secret-1"}}}) as server,
        pytest.raises(LLMUnavailable, match=r"no \*\*\*"),
    ):
        ask(server, api_key_env=None, extra_headers={"Authorization": "Bearer ${GATEWAY_KEY}"})


@pytest.mark.parametrize("settings", [{"api_key_env": "A_KEY"}, {"extra_headers": {"api-key": "${A_KEY}"}}])
def test_a_key_is_sent_without_its_line_end_and_refused_unseen_with_a_character_of_no_header(settings, monkeypatch):
    monkeypatch.setenv("A_KEY", "very-secret-1\r\n")
    with Scripted({}) as server:
        ask(server, **settings)
    assert "very-secret-1" in server.headers[0].get("api-key", server.headers[0].get("authorization"))
    for wrong in ("very\u2013secret-1", "very\nsecret-1"):
        monkeypatch.setenv("A_KEY", wrong)
        with pytest.raises(SettingsError, match="at place 5. Copy") as caught:
            ask(server, **settings)
        assert "secret-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_headers": {"api-key": "very-secret-1"}}, r"a secret in extra_headers.api-key.*\$\{NAME_OF_THE_VARIABLE\}"),
        ({"extra_headers": {"X-A": "a\nb"}}, "extra_headers.X-A"),
        ({"extra_headers": {"X-A": 1}}, "extra_headers.X-A: 1. Expected text"),
        ({"extra_body": {"stream": True}}, "see `stream`"),
        ({"max_tokens_key": "tokens"}, "Expected auto or max_tokens or max_completion_tokens or null"),
        ({"system_role": "drop"}, "Expected auto or send or merge"),
        ({"base_url": "https://x.example/v1?api-version=1"}, "extra_query"),
    ],
)  # fmt: skip
def test_unusable_forms_are_refused_with_the_reason_and_without_the_secret(settings, message):
    with pytest.raises(SettingsError, match=message) as caught:
        LLMSettings.from_mapping({"models": "m", **settings})
    assert "very-secret" not in str(caught.value)


def test_a_header_whose_variable_is_not_set_is_reported_by_its_name_before_any_call():
    with pytest.raises(SettingsError, match="The environment variable NOT_SET.*extra_headers"):
        new_client("http://127.0.0.1:1/v1", extra_headers={"api-key": "${NOT_SET}"})


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"stream": True, "system_role": "merge", "max_tokens_key": "max_completion_tokens"}, True),
        ({"extra_headers": {"X-A": "b"}, "extra_query": {"a": "b"}}, True),
        ({"stream": True, "max_tokens_key": None}, False),
    ],
)
def test_forms_of_the_wire_change_neither_identity_nor_recording_but_a_limit_that_is_not_sent_does(
    settings, same, tmp_path
):
    file = tmp_path / "calls.jsonl"
    plain = new_client("http://127.0.0.1:1/v1").version
    assert (new_client("http://127.0.0.1:1/v1", **settings).version == plain) == same
    with Scripted({"body": answer("one")}, streamed("two", *ending())) as server:
        ask(server, record=str(file))
        (again,) = ask(server, record=str(file), **settings)
    assert (again.text == "one") == same
    recorded = [json.loads(line) for line in file.read_text().splitlines()]
    assert all("extra_headers" not in row["request"] for row in recorded)


PART = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (("He", "llo\u2028.", *ending()), ("Hello\u2028.", "stop", 10, 5)),
        (({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, "Half", *ending("length")), ("Half", "length", 10, 5)),
        (({"choices": [{"delta": {"role": "assistant", "reasoning_content": "Hm"}}]}, {"choices": [{"delta": {"role": "assistant", "reasoning_content": "m"}}]}, "Yes", *ending()), ("Yes", "stop", 10, 5)),
        (({"choices": [{"delta": {"content": [PART]}}]}, "Yes", *ending()), ("Yes", "stop", 10, 5)),
        (({"choices": [{"index": 1, "delta": {"content": "other"}}]}, "Yes", *ending()), ("Yes", "stop", 10, 5)),
        (({"choices": [], "usage": None}, "Yes", {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}), ("Yes", "stop", 7, 3)),
        ((*ending(refusal="No."),), ("No.", "refused", 10, 5)),
    ],
)  # fmt: skip
def test_a_stream_gives_the_same_reply_as_an_answer_in_one_piece(events, expected):
    with Scripted(streamed(*events)) as server:
        (reply,) = ask(server, stream=True)
    assert (reply.text, reply.finish, reply.prompt_tokens, reply.completion_tokens) == expected
    assert server.requests[0]["stream"] is True and server.requests[0]["stream_options"] == {"include_usage": True}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["choices", "delta", "index", "content", "error", "usage", "finish_reason"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(st.lists(JSON.map(lambda event: f"data: {json.dumps(event)}\n".encode()) | st.binary(max_size=20), max_size=4))
def test_any_bytes_of_a_stream_are_an_answer_or_a_fault(chunks):
    async def stream():
        for chunk in chunks:
            yield chunk

    with suppress(Fault):
        read_answer(asyncio.run(assemble(stream())))


def test_every_shape_of_an_answer_gives_the_same_reply_as_a_stream():
    bodies = [shape("Hm, so be it. ", "Yes.") for shape in SHAPES.values()]
    bodies += [answer(None), answer("Half", "MAX_TOKENS"), answer("x", None), answer("y", usage=None)]
    salts = [str(number) for number in range(len(bodies))]
    with Scripted(*({"body": body} for body in bodies)) as server:
        whole = ask(server, salts=salts)
    with Scripted(*map(as_stream, bodies)) as server:
        pieces = ask(server, salts=salts, stream=True)
    assert [replace(reply, seconds=0) for reply in pieces] == [replace(reply, seconds=0) for reply in whole]


def test_thoughts_of_a_stream_count_where_the_server_does_not_count():
    thought = {"choices": [{"delta": {"reasoning_content": "y" * 40}}]}
    with Scripted(streamed(thought, "x" * 8, *ending(usage=None))) as server:
        (reply,) = ask(server, stream=True)
    assert reply.estimated and reply.completion_tokens == 12


@pytest.mark.parametrize(
    "broken",
    [
        streamed("Half an ans", done=False),
        streamed("Half an answer", *ending(), cut=60),
        {"body": answer("Half an answer in one piece"), "cut": 60},
        {"status": 503, "body": {"error": {"message": "overloaded, please try again"}}, "cut": 20},
        streamed("Half", {"error": {"message": "overloaded", "code": 503}}),
        streamed("Half", {"choices": [{"delta": {}}], "error": "gone"}, *ending()),
        {"headers": {"Content-Type": "text/event-stream"}, "body": b"data: {\n\n"},
        {"headers": {"Content-Type": "text/event-stream"}, "body": b""},
    ],
)
def test_a_stream_that_breaks_is_asked_for_again_and_its_reservation_is_booked(broken):
    ledger = Ledger()
    with Scripted(broken, streamed("Whole.", *ending())) as server:
        (reply,) = ask(server, ledger, stream=True, retries=1)
    assert reply.text == "Whole." and ledger.spent.tokens > 100 + 15 and len(server.requests) == 2


def test_an_answer_in_one_piece_to_a_call_for_a_stream_is_read_as_it_is():
    with Scripted({"body": answer("Whole.")}) as server:
        assert ask(server, stream=True)[0].text == "Whole."


def test_a_stream_without_being_asked_for_is_read_too():
    with Scripted(streamed("Whole.", *ending())) as server:
        assert ask(server)[0].text == "Whole."


def test_a_stream_that_is_too_slow_is_a_timeout():
    with Scripted({"delay": 2}, streamed("Whole.", *ending())) as server:
        assert ask(server, stream=True, timeout=0.3, retries=1)[0].text == "Whole."


def test_every_example_of_the_page_about_endpoints_is_a_valid_mapping_without_a_secret():
    page = Path(__file__).parent.parent / "docs" / "how-to" / "endpoints.md"
    examples = [yaml.safe_load(block.text) for block in blocks(page) if block.language == "yaml"]
    assert len(examples) >= 9 and all(LLMSettings.from_mapping(example).models for example in examples)
