"""Scripted servers that answer as real ones do, each as coder and as ideator: what a thought quotes is never run."""

import asyncio

import pytest
from archives import archive
from conftest import TOY, replace_line
from llm_server import Scripted, answer, ending, streamed
from scripted import idea

from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.implementers.coder import CoderImplementer
from ideator_rl.llm import ChatClient, LLMSettings
from ideator_rl.search.ideator import Ask, Subject
from ideator_rl.search.ideators import get_ideator
from ideator_rl.storage.ledger import Caps, Ledger

ENVIRONMENT = load_environment(TOY)
BASE = ENVIRONMENT.baseline("cpu")


def parts(thought, text):
    """A content of parts, as Mistral's reasoning models send it."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": thought}], "closed": True}
    return [thinking, {"type": "text", "text": text}]


def gemini_usage(thought):
    return {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 + len(thought) // 4}


def azure(body):
    """With the verdicts of Azure's content filter around the answer."""
    verdict = {"hate": {"filtered": False, "severity": "safe"}}
    body["choices"][0] |= {"content_filter_results": verdict, "logprobs": None}
    return body | {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": verdict}]}


SHAPES = {
    "qwen3": lambda thought, text: answer(f"<think>\n{thought}\n</think>\n\n{text}"),
    "qwen3 whose template opens the thoughts": lambda thought, text: answer(f"{thought}\n</think>\n\n{text}"),
    "qwen3, closed at the end of a line": lambda thought, text: answer(f"{thought}\nso no.</think>\n\n{text}"),
    "qwen3 with a parser": lambda thought, text: answer(f"\n\n{text}", reasoning_content=thought),
    "vllm": lambda thought, text: answer(text, reasoning=thought, reasoning_content=thought, tool_calls=[]),
    "openrouter": lambda thought, text: answer(
        text, reasoning=thought, reasoning_details=[{"type": "reasoning.text", "text": thought}]
    ),
    "gpt-oss, raw": lambda thought, text: answer(
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{text}<|return|>"
    ),
    "gpt-oss without special tokens": lambda thought, text: answer(f"analysisWe see. {thought}assistantfinal{text}"),
    "gpt-oss with a tool channel": lambda thought, text: answer(
        f"<|channel|>commentary to=none<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{text}"
    ),
    "mistral": lambda thought, text: answer(parts(thought, text)),
    "mistral, raw": lambda thought, text: answer(f"[THINK]{thought}[/THINK]{text}"),
    "gemini": lambda thought, text: answer(f"<thought>{thought}</thought>{text}", "STOP", gemini_usage(thought)),
    "gemini's parts": lambda thought, text: answer([{"text": thought, "thought": True}, {"text": text}], "STOP"),
    "litellm": lambda thought, text: answer(
        text, reasoning_content=thought, thinking_blocks=[{"type": "thinking", "thinking": thought, "signature": "s"}]
    ),
    "azure": lambda thought, text: azure(answer(text, refusal=None, annotations=[], audio=None)),
    "azure with reasoning": lambda thought, text: azure(answer(text, reasoning_content=thought)),
    "seed": lambda thought, text: answer(f"<seed:think>{thought}</seed:think>{text}"),
    "a name of its own": lambda thought, text: answer(text, inner_monologue=thought, thought={"content": thought}),
}


def pieces(value, size=9):
    """A field of a message as it arrives: texts in pieces, also those of a part."""
    if isinstance(value, str):
        return [value[at : at + size] for at in range(0, len(value), size)]
    if isinstance(value, dict):
        names = [name for name in ("thinking", "text", "summary", "content") if name in value]
        return [{**value, names[0]: piece} for piece in pieces(value[names[0]], size)] if names else [value]
    return [[piece] for item in value for piece in pieces(item, size)]


def sent(body, stream):
    """The step of a server that sends this body at once, or as a stream."""
    if not stream:
        return {"body": body}
    (choice,) = body["choices"]
    fields = {name: value for name, value in choice["message"].items() if name != "role" and value}
    # Thoughts come before the content.
    deltas = [
        {name: piece} for name in sorted(fields, key=lambda name: name == "content") for piece in pieces(fields[name])
    ]
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return streamed(*events, *ending(choice["finish_reason"], body.get("usage")))


DRAFT, EDIT = replace_line("y = 4.0", "y = 9.0"), replace_line("x = 4.0", "x = 1.0")
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def implement(server, ledger=None, **settings):
    """The implementation of one idea by the coder behind a server."""
    raw = {"base_url": server.url, "models": "m", "samples": 1, "revisions": 0, "retries": 0, **settings}
    coder = CoderImplementer.from_settings(raw, ledger or Ledger())
    return asyncio.run(coder.implement(parse_idea(idea("Set x to 1.")), BASE, ENVIRONMENT, "cpu"))


def ideas(server, count=1, **settings):
    raw = {"base_url": server.url, "models": "m", "max_tokens": 1000, "retries": 0, **settings}
    ideator = get_ideator("chat", raw, Subject(ENVIRONMENT, "cpu"), Ledger())
    return asyncio.run(ideator.ideas(Ask("free", count), archive()))


def refusal(server, **settings):
    with pytest.raises(IdeatorError) as caught:
        implement(server, **settings)
    return str(caught.value)


@shapes
@pytest.mark.parametrize("stream", [False, True])
def test_an_edit_in_the_thoughts_is_not_applied(shape, stream):
    thought = DRAFT if stream else f"Or so:\n\n{DRAFT}\nbut the idea asks for x."
    with Scripted(sent(shape(thought, EDIT), stream)) as server:
        patch = implement(server, stream=stream).patch
        assert bool(server.requests[0].get("stream")) == stream
    assert "+x = 1.0" in patch and "y = 9.0" not in patch


@shapes
def test_an_edit_in_the_thoughts_of_a_coder_that_declines_is_not_applied(shape):
    with Scripted({"body": shape(f"Perhaps\n{DRAFT}", "CANNOT: there is no such setting.")}) as server:
        assert "there is no such setting" in refusal(server)


@shapes
@pytest.mark.parametrize(("count", "stream"), [(1, False), (1, True), (2, False)])
def test_an_idea_in_the_thoughts_is_not_proposed(shape, count, stream):
    thought = f"The form is {idea('what to change')}, so: {idea('a draft')}"
    body = shape(thought, "\n".join(idea(f"x = {n}") for n in range(count)))
    with Scripted(sent(body, stream)) as server:
        texts = ideas(server, count, stream=stream)
    assert [parse_idea(text).changes for text in texts] == [f"x = {n}" for n in range(count)]


@pytest.mark.parametrize("name", ["qwen3", "qwen3 with a parser", "mistral", "gpt-oss, raw", "litellm"])
def test_the_thoughts_stay_with_a_single_idea(name):
    with Scripted({"body": SHAPES[name]("The rate is too low.", idea("x = 1"))}) as server:
        (text,) = ideas(server)
    assert "The rate is too low." in parse_idea(text).thought


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "max_tokens", "FinishReason.MAX_TOKENS", "model_length",
    "insufficient_system_resource", "error", "abort", "pause_turn", "any new word", 2])  # fmt: skip
def test_nothing_of_an_answer_that_may_be_cut_off_is_applied(reason, stream):
    with Scripted(sent(answer(f"{EDIT}\nNow the second, more important chan", reason), stream)) as server:
        message = refusal(server, stream=stream)
    assert "cut off" in message and (reason == "length" or str(reason) in message)


@pytest.mark.parametrize("reason", ["stop", "STOP", "FinishReason.STOP", "FINISH_REASON_STOP", "end_turn", "eos", "eos_token", "stop_sequence", "COMPLETE", None, ""])  # fmt: skip
def test_an_answer_that_ended_is_applied_whatever_its_server_calls_that(reason):
    with Scripted({"body": answer(EDIT, reason)}) as server:
        assert "+x = 1.0" in implement(server).patch


def test_an_answer_of_the_greatest_length_without_a_reason_counts_as_cut_off():
    with Scripted({"body": answer(EDIT, None)}) as server:
        assert "cut off" in refusal(server, max_tokens=5)


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "refusal", "guardrail_intervened"])  # fmt: skip
def test_an_answer_that_a_filter_withheld_is_refused(reason):
    with Scripted({"body": azure(answer(EDIT, reason))}) as server:
        assert "refused" in refusal(server)


FIELDS = [
    {"reasoning_content": EDIT},
    {"reasoning": EDIT},
    {"reasoning": {"text": EDIT}},
    {"thinking": EDIT},
    {"thoughts": [{"text": EDIT}]},
    {"output": EDIT},
    {"reasoning_details": [{"type": "reasoning.summary", "summary": EDIT}]},
]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: next(iter(field)))
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_text_that_came_in_another_field_is_named_and_not_applied(field, finish):
    (name,), stream = field, finish == "length"
    with Scripted(sent(answer(None, finish, **field), stream)) as server:
        message = refusal(server, stream=stream)
    assert f"came in {name}" in message and "raise max_tokens" in message


def test_content_parts_of_thoughts_alone_are_no_answer():
    with Scripted({"body": answer(parts(EDIT, ""))}) as server:
        assert "came in content" in refusal(server)


@pytest.mark.parametrize("count", [1, 3])
def test_an_ideator_whose_text_came_in_another_field_names_it(count, caplog):
    with Scripted({"body": answer(None, reasoning_content=f"So </think> {idea('x = 1')}")}) as server:
        (text,) = ideas(server, count)
    with pytest.raises(MalformedIdea, match="came in reasoning_content.*Raise max_tokens"):
        parse_idea(text)
    assert "came in reasoning_content" in caplog.text


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 550}, (500, 50)),
        # Included in the completion, as OpenAI counts.
        ({"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 550,
          "completion_tokens_details": {"reasoning_tokens": 40}}, (500, 50)),
        # Beside it: xAI, and gateways to Gemini.
        ({"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 5550,
          "completion_tokens_details": {"reasoning_tokens": 5000}}, (500, 5050)),
        ({"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 590,
          "completion_tokens_details": {"reasoning_tokens": 40}}, (500, 90)),
        ({"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81,
          "completion_tokens_details": {"reasoning_tokens": 60}}, (21, 60)),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, (20, 603)),
        ({"prompt_tokens": 20, "completion_tokens": 198, "thoughts_token_count": 405}, (20, 603)),
        ({"prompt_tokens": 20, "completion_tokens": 198, "reasoning_tokens": 405}, (20, 603)),
        ({"prompt_tokens": 20, "completion_tokens": 50, "total_tokens": 70,
          "completion_tokens_details": {"reasoning_tokens": 400}}, (20, 450)),
        ({"promptTokenCount": 20, "candidatesTokenCount": 198, "thoughtsTokenCount": 405, "totalTokenCount": 623}, (20, 603)),
        ({"input_tokens": 20, "output_tokens": 5, "cache_read_input_tokens": 100}, (120, 5)),
        ({"prompt_tokens": 20.0, "completion_tokens": 5.0}, (20, 5)),
        ({"prompt_tokens": 20, "total_tokens": 70}, (20, 50)),
        ({"completion_tokens": 50, "total_tokens": 70}, (20, 50)),
        # Of a sum alone all may be completion, which costs more.
        ({"total_tokens": 5060}, (0, 5060)),
        ({"prompt_tokens": "20", "completion_tokens": "5000"}, (20, 5000)),
    ],
)  # fmt: skip
def test_the_larger_sum_of_a_usage_is_booked(usage, tokens):
    ledger = Ledger(Caps(usd=1000))
    with Scripted({"body": answer(EDIT, usage=usage)}) as server:
        usage = implement(server, ledger, prices={"m": {"prompt": 1000, "completion": 1000}}).usage
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == tokens
    assert ledger.spent.tokens == sum(tokens) and ledger.spent.usd == pytest.approx(sum(tokens) / 1000)


@pytest.mark.parametrize("usage", [
    None, [], {"prompt_tokens": 5}, {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": -1, "completion_tokens": 5}, {"prompt_tokens": True, "completion_tokens": 5},
    {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}, {"prompt_tokens": 1e999, "completion_tokens": 1},
    {"prompt_tokens": "nine", "completion_tokens": "5"}, {"prompt_tokens": 10**400, "completion_tokens": 5},
])  # fmt: skip
def test_a_usage_that_counts_nothing_is_estimated(usage):
    async def reply(url):
        client = ChatClient(LLMSettings.from_mapping({"base_url": url, "models": "m"}), Ledger())
        return await client.complete([{"role": "user", "content": "x" * 400}], salt="a")

    body = answer("y" * 80, reasoning_content="z" * 120) | {"usage": usage}
    with Scripted({"body": body}) as server:
        got = asyncio.run(reply(server.url))
    assert got.estimated and (got.prompt_tokens, got.completion_tokens) == (100, 50)


def test_a_cap_counts_the_tokens_of_thoughts():
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 60_000}}
    ledger = Ledger(Caps(tokens=50_000))
    with Scripted({"body": answer(EDIT, usage=usage)}) as server:
        implement(server, ledger)
        assert "max_coder_tokens" in refusal(server, ledger=ledger)
    assert len(server.requests) == 1
