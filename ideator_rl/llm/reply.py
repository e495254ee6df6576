"""Reads the body of a chat completion.  An odd answer (empty, cut off, refused) has a `finish`; it is no error.

What a server states in a form that is not known here counts on the careful side: an unknown reason to finish is no
`stop`, an unknown part or field of the message is no answer, and of two readings of the usage the larger sum is booked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ideator_rl.llm.faults import MAX_QUOTED, of_body, of_error
from ideator_rl.text.display import encodable, shorten
from ideator_rl.text.thought_marks import names_thoughts

Finish = Literal["stop", "length", "refused", "empty"]
TEMPLATE_TOKENS = 64
"""Tokens that a chat template may add to a message, and once to a prompt."""
FINISHED = (
    "stop", "end", "eos", "eos_token", "end_turn", "end_of_turn", "end_of_text", "stop_sequence", "stop_token",
    "complete", "completed", "done", "finished", "success", "tool_calls", "tool_use", "function_call",
)  # fmt: skip
"""Reasons to finish of an answer that is whole, in lower case."""
_REFUSAL = re.compile(r"filter|safety|recitation|blocklist|prohibited|spii|refus|guardrail|sensitive|moderat")
"""Parts of reasons to finish of an answer that the model or a filter withheld."""
_TEXT_PARTS = ("text", "output_text")
"""Types of a message's parts that hold its answer."""
_NO_TEXT = ("role", "id", "name", "type", "refusal")
"""Fields of a message that never hold an answer."""
_PROMPT_TOKENS = ("prompt_tokens", "input_tokens", "prompt_token_count", "promptTokenCount")
_COMPLETION_TOKENS = ("completion_tokens", "output_tokens", "candidates_token_count", "candidatesTokenCount")
_TOTAL_TOKENS = ("total_tokens", "total_token_count", "totalTokenCount")
_REASONING_TOKENS = ("reasoning_tokens", "thoughts_token_count", "thoughtsTokenCount")
_CACHE_TOKENS = ("cache_creation_input_tokens", "cache_read_input_tokens")
"""What Anthropic counts beside input_tokens."""


@dataclass(frozen=True)
class Reply:
    """A model's answer."""

    text: str
    """With a reasoning prefix if the server leaves it in; for a refusal, the text of the refusal."""
    finish: Finish
    """`length`: cut off, perhaps before the first word, or for a reason that is not known to end a whole answer;
    `refused`: by the model or a content filter."""
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
    finish_reason: str = ""
    """As the server states it."""
    reasoning: str = ""
    """The thoughts that came outside the text."""
    reasoning_field: str = ""
    """The field of the message that held them."""

    @property
    def lack(self) -> str:
        """Why there is no text, or why it may be cut, and what to do: one clause."""
        where = f"{len(self.reasoning)} characters came in {self.reasoning_field}" if self.reasoning else ""
        if self.finish == "length" and self.finish_reason.lower() != "length":
            reason = (
                f"it ended with the reason {shorten(self.finish_reason, MAX_QUOTED)!r}"
                if self.finish_reason
                else "no reason"
            )
            cut = f"the answer may be cut off: {reason}, after {self.completion_tokens} tokens"
        else:
            cut = f"the answer was cut off after {self.completion_tokens} tokens" if self.finish == "length" else ""
        if not self.text.strip() and not cut and self.finish_reason.lower() not in ("", "stop"):
            cut = f"the answer held no text; it ended with the reason {shorten(self.finish_reason, MAX_QUOTED)!r}"
        if self.text.strip() or not where:
            return cut or "the answer held no text"
        return f"{cut or 'the answer held no text'}; its {where}: raise max_tokens, or let the model think less"


@dataclass(frozen=True)
class Answer:
    """The content of a chat completion."""

    text: str
    finish: Finish
    tokens: tuple[int | None, int] | None
    """Of prompt and completion; None for what the server does not count."""
    reasoning: str
    reasoning_field: str = ""
    finish_reason: str = ""


def read_answer(raw: bytes, max_tokens: int | None = None) -> Answer:
    """The first choice of a chat completion.

    Args:
        max_tokens: of the request; an answer without a reason to finish is whole if it has fewer tokens.

    Raises:
        Fault: the body is no chat completion, or says that the answer broke off.
    """
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        message = choice["message"]
        error = choice.get("error")
        text, in_parts = _parts(message.get("content"))
        refusal = _text(message.get("refusal"))
        reasoning, field = (in_parts, "content") if in_parts else _other_text(message)
        reason = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as fault:
        raise of_body(raw) from fault
    if error:
        # A gateway whose provider failed in the middle of an answer.
        raise of_error(error)
    tokens = _tokens(body.get("usage"))
    # A server that counts nothing for a text has not counted.
    if tokens is not None and tokens[1] == 0 and (text or reasoning):
        tokens = None
    if not reason and tokens and max_tokens is not None and tokens[1] >= max_tokens:
        reason = "length"
    finish = _finish(text, refusal, reason)
    return Answer(text or refusal, finish, tokens, reasoning, field, "" if reason is None else encodable(str(reason)))


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
    # Such as FinishReason.MAX_TOKENS or end-turn; a server without any reason has sent its whole answer.
    name = re.sub(r"[^a-z]+", "_", str(reason or "stop").rpartition(".")[2].lower()).strip("_")
    if refusal or _REFUSAL.search(name):
        return "refused"
    if name.removeprefix("finish_reason_") not in FINISHED:
        return "length"
    return "stop" if text.strip() else "empty"


def _tokens(usage: Any) -> tuple[int | None, int] | None:
    """Tokens of prompt and completion, reasoning included; None for what the server does not count."""
    if not isinstance(usage, dict):
        return None
    details = [value for name, value in usage.items() if name.endswith("_details") and isinstance(value, dict)]
    prompt, completion, total = (_count(usage, names) for names in (_PROMPT_TOKENS, _COMPLETION_TOKENS, _TOTAL_TOKENS))
    reasoning = max((_count(counts, _REASONING_TOKENS) or 0 for counts in (usage, *details)), default=0)
    if prompt is not None and "prompt_tokens" not in usage:
        prompt += sum(_count(usage, (name,)) or 0 for name in _CACHE_TOKENS)
    if completion is None and total is None and not reasoning:
        return None
    # Of a sum alone it is not known how much is prompt: all counts as completion, which costs more.
    if prompt is None and total is not None:
        prompt = max(total - completion - reasoning, 0) if completion else 0
    completion = completion or 0
    # Some servers count reasoning beside the completion: a sum or the size shows it; without a sum it may be.
    if reasoning > completion or total is None:
        completion += reasoning
    return prompt, max(completion, (total or 0) - (prompt or 0))


def _count(counts: dict[str, Any], names: Sequence[str]) -> int | None:
    """The first of some counts that is a whole number from 0, perhaps as text, of at most 15 digits."""
    for name in names:
        value = counts.get(name)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
            value = int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value // 1 == value < 10**15:
            return int(value)
    return None


def _parts(content: Any) -> tuple[str, str]:
    """The answer in a message's content, which is a string or a list of parts, and the thoughts in it."""
    if not isinstance(content, list):
        return _text(content), ""
    answer, thoughts = "", ""
    for part in content:
        is_text = not isinstance(part, dict) or part.get("type", "text") in _TEXT_PARTS and not part.get("thought")
        if is_text:
            answer += _text(part)
        else:
            thoughts += _text(part)
    return answer, thoughts


def _other_text(message: dict[str, Any]) -> tuple[str, str]:
    """The text of a message outside its content, and the field that holds it: thoughts, else whatever there is."""
    fields = {name: value for name, value in message.items() if name not in (*_NO_TEXT, "content")}
    # Some servers send the same thoughts under several names.
    names = sorted(fields, key=lambda name: (name not in ("reasoning_content", "reasoning"), not names_thoughts(name)))
    for name in names:
        value = fields[name]
        if (names_thoughts(name) or isinstance(value, str)) and (text := _text(value)).strip():
            return text, name
    return "", ""


def _text(content: Any) -> str:
    """The text of a field: a string, or strings below the keys of parts."""
    return encodable("".join(_strings(content)))


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for item in content:
            yield from _strings(item)
    elif isinstance(content, dict):
        for name in ("text", "thinking", "reasoning", "summary", "content"):
            yield from _strings(content.get(name))
