"""Assembles a streamed answer into the ordinary chat completion that `reply.read_answer` reads.

A stream that ends before its finish, or that carries an error, is a fault: never a shorter answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from ideator_rl.llm.faults import Fault, of_body, quoted

DATA = b"data:"
END = b"[DONE]"


async def assemble(chunks: AsyncIterator[bytes]) -> bytes:
    """The body of a chat completion, from the bytes of a stream of server-sent events.

    Raises:
        Fault: an event is an error or no JSON, or the stream ended before the answer's finish.
    """
    completion: dict[str, Any] = {}
    choice: dict[str, Any] = {"index": 0, "finish_reason": None, "message": {"role": "assistant"}}
    ended = False
    async for line in _lines(chunks):
        # Other fields of the protocol (event, id, retry) and comments carry nothing of the answer.
        if not line.startswith(DATA):
            continue
        data = line[len(DATA) :].strip()
        if data == END:
            ended = True
            break
        if data:
            _add(completion, choice, _event(data))
    if not ended and choice["finish_reason"] is None:
        raise Fault("the stream broke off before the answer's end", maybe_billed=True)
    try:
        return json.dumps({**completion, "object": "chat.completion", "choices": [choice]}).encode()
    except RecursionError:
        raise Fault("the stream holds an answer that is nested too deeply", maybe_billed=True) from None


def is_stream(headers: Any) -> bool:
    """Whether an answer is a stream: some servers stream unasked, others answer in one piece all the same."""
    return "event-stream" in headers.get("content-type", "").lower()


async def once(body: bytes) -> AsyncIterator[bytes]:
    """The chunks of a stream that was read already."""
    yield body


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream.

    Only at line feeds: a text's own U+2028 or U+0085, at which `str.splitlines` cuts too, is part of the JSON.
    """
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *lines, tail = bytes(rest).split(b"\n")
            rest = bytearray(tail)
            for line in lines:
                yield line.rstrip(b"\r")
    yield bytes(rest)


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise Fault(f"the stream holds an event that is no JSON object: {quoted(data)!r}", maybe_billed=True)
    if event.get("error"):
        raise of_body(data)
    return event


def _add(completion: dict[str, Any], choice: dict[str, Any], event: dict[str, Any]) -> None:
    """Add an event's part of the first choice, and the fields around it, of which the last value counts."""
    completion |= {key: value for key, value in event.items() if key != "choices" and value is not None}
    parts = event.get("choices")
    for part in parts if isinstance(parts, list) else []:
        if not isinstance(part, dict) or part.get("index") not in (0, None):
            continue
        delta = part.get("delta")
        for key, value in delta.items() if isinstance(delta, dict) else ():
            if value is not None and key != "role":
                message = choice["message"]
                message[key] = _joined(message[key], value) if key in message else value
        if part.get("finish_reason") is not None:
            choice["finish_reason"] = part["finish_reason"]


def _joined(before: Any, after: Any) -> Any:
    """Texts, lists and fields grow.  A text beside a list of parts, as Mistral streams it, becomes one of them."""
    if isinstance(before, str) and isinstance(after, str):
        return before + after
    if isinstance(before, dict) and isinstance(after, dict):
        after = {key: value for key, value in after.items() if value is not None}
        return before | {key: _joined(before[key], value) if key in before else value for key, value in after.items()}
    if isinstance(before, list | str) and isinstance(after, list | str):
        return _parts(before) + _parts(after)
    return after


def _parts(value: list[Any] | str) -> list[Any]:
    return value if isinstance(value, list) else [{"type": "text", "text": value}]
