"""Reads the body of a chat completion.  An odd answer (empty, cut off, refused) has a `finish`; it is no error."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ideator_rl.llm.faults import Fault, shortened
from ideator_rl.text.display import encodable

Finish = Literal["stop", "length", "refused", "empty"]
TEMPLATE_TOKENS = 64
"""Tokens that a chat template may add to a message, and once to a prompt."""


@dataclass(frozen=True)
class Reply:
    """A model's answer."""

    text: str
    """With a reasoning prefix if the server leaves it in; for a refusal, the text of the refusal."""
    finish: Finish
    """`length`: cut off at max_tokens, perhaps before the first word; `refused`: by the model or a content filter."""
    model: str
    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    usd: float
    """At the prices of the time of the call."""
    seconds: float
    """From sending to the answer, without the wait for a slot."""
    estimated: bool = False
    """Whether the tokens are estimated as characters / 4, because the server did not count them."""


@dataclass(frozen=True)
class Answer:
    """The content of a chat completion."""

    text: str
    finish: Finish
    tokens: tuple[int, int] | None
    """Of prompt and completion; None if the server does not count them."""
    reasoning: str


def read_answer(raw: bytes) -> Answer:
    """The first choice of a chat completion.

    Raises:
        Fault: the body is no chat completion.
    """
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), _text(message.get("refusal"))
        reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
        reason = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        quoted = shortened(raw[:2000].decode("utf-8", "replace"))
        raise Fault(f"the answer is no chat completion: {quoted!r}", maybe_billed=True) from error
    usage: dict[str, Any] = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    tokens = None
    if isinstance(prompt, int) and isinstance(completion, int) and min(prompt, completion) >= 0:
        tokens = prompt, completion
    return Answer(text or refusal, _finish(text, refusal, reason), tokens, reasoning)


def tokens_of(text: str) -> int:
    """An estimate: a token is about four characters of English or code."""
    return math.ceil(len(text) / 4)


def prompt_tokens(messages: Sequence[dict[str, str]]) -> int:
    """An estimate for a prompt, by `tokens_of`."""
    return sum(tokens_of(message["content"]) for message in messages)


def max_prompt_tokens(messages: Sequence[dict[str, str]]) -> int:
    """An upper bound, for a reservation: two bytes a token (code has three to four), and the chat template."""
    size = sum(len(message["content"].encode()) for message in messages)
    return math.ceil(size / 2) + TEMPLATE_TOKENS * (len(messages) + 1)


def _finish(text: str, refusal: str, reason: Any) -> Finish:
    if refusal or reason == "content_filter":
        return "refused"
    if reason == "length":
        return "length"
    return "stop" if text.strip() else "empty"


def _text(content: Any) -> str:
    """The text of a message's field, which is a string or a list of parts."""
    if isinstance(content, list):
        content = "".join(str(item.get("text") or "") for item in content if isinstance(item, dict))
    return encodable(content) if isinstance(content, str) else ""
