"""An answer, read from what the server sent: odd ones are told through `finish`, never raised."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ideator_rl.llm.faults import Fault, shortened

Finish = Literal["stop", "length", "refused", "empty"]
TEMPLATE_TOKENS = 64
"""What a chat template may add to a message, and once to a prompt."""


@dataclass(frozen=True)
class Reply:
    """What a model answered."""

    text: str
    """Its words, with a reasoning prefix if the server leaves it in; of a refusal, the words of the refusal."""
    finish: Finish
    """`length`: cut off at max_tokens, perhaps before the first word; `refused`: by the model or a content filter."""
    model: str
    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    usd: float
    """At the prices known when it was asked."""
    seconds: float
    """From sending to the answer; waiting for a turn is not in it."""
    estimated: bool = False
    """The server did not count its tokens: characters / 4."""


@dataclass(frozen=True)
class Answer:
    """What stands in a chat completion."""

    text: str
    finish: Finish
    tokens: tuple[int, int] | None
    """Of prompt and completion; None where the server does not say."""
    reasoning: str


def read_answer(raw: bytes) -> Answer:
    """The first choice of a chat completion.

    Raises:
        Fault: this is no chat completion.
    """
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), _text(message.get("refusal"))
        reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
        reason = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = shortened(raw[:2000].decode("utf-8", "replace"))
        raise Fault(f"what came is no chat completion: {shown!r}", billed=True) from error
    usage: dict[str, Any] = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    tokens = None
    if isinstance(prompt, int) and isinstance(completion, int) and min(prompt, completion) >= 0:
        tokens = prompt, completion
    return Answer(text or refusal, _finish(text, refusal, reason), tokens, reasoning)


def tokens_of(text: str) -> int:
    """Roughly: a token is about four characters of English or code."""
    return math.ceil(len(text) / 4)


def prompt_tokens(messages: Sequence[dict[str, str]]) -> int:
    """Roughly, of a whole prompt."""
    return sum(tokens_of(message["content"]) for message in messages)


def most_prompt_tokens(messages: Sequence[dict[str, str]]) -> int:
    """The most to expect, for a reservation: two bytes a token (code has three to four), and the chat template."""
    size = sum(len(message["content"].encode()) for message in messages)
    return math.ceil(size / 2) + TEMPLATE_TOKENS * (len(messages) + 1)


def clean(text: str) -> str:
    """Half a surrogate pair, which JSON can hold, has no bytes."""
    return text.encode("utf-8", "replace").decode()


def _finish(text: str, refusal: str, reason: Any) -> Finish:
    if refusal or reason == "content_filter":
        return "refused"
    if reason == "length":
        return "length"
    return "stop" if text.strip() else "empty"


def _text(content: Any) -> str:
    """Text of a message's field: a string, or parts."""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return clean(content) if isinstance(content, str) else ""
