"""How a request is put on the wire: forms that differ between servers and do not change what is asked.

Where the settings leave a form open, the usual one is sent first.  A server that refuses it by name gets the other one
at once, within the same attempt; the form that was answered is then used for this server and model until the process
ends.  A form is part neither of a recording's key nor of an implementer's identity.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ideator_rl.llm.settings import LLMSettings

LIMITS = ("max_tokens", "max_completion_tokens")
"""The two names of the limit on a completion's tokens."""
NEW_LIMIT_HOSTS = ("openai.com", "openai.azure.com")
"""Hosts that are asked by the second name first; they refuse the first one for reasoning models."""
IN_TEMPLATE = 500
"""Status with which llama.cpp and others fail in the model's chat template, which may refuse the system role."""
REFUSALS = (400, 404, 422, IN_TEMPLATE)
"""Statuses with which servers refuse a form."""
_NO = (
    r"unsupported|not supported|does(?: not|n't) support|unrecogni[sz]ed|unknown|unexpected|not permitted"
    r"|extra_forbidden|no longer|deprecated"
)
_SYSTEM = r"(?:\b(?:system|developer) (?:role|message|prompt|instruction)s?\b|role\W{1,4}system\b|['\"`]system['\"`])"
_SYSTEM_REFUSED = re.compile(
    rf"{_SYSTEM}[^.]{{0,20}}?\b(?:not (?:supported|enabled|allowed|permitted|available)|unsupported)\b"
    rf"|(?:unsupported|unknown|unexpected|invalid|does(?: not|n't) (?:support|allow|accept))[^.]{{0,20}}?{_SYSTEM}"
    r"|only user and assistant roles|roles must alternate",
    re.IGNORECASE,
)
"""Messages of servers, and of models' chat templates, about a prompt with a system message."""


@dataclass(frozen=True)
class WireForm:
    max_tokens_key: str | None
    """Name under which the limit on a completion's tokens is sent; None leaves it out."""
    merge_system: bool
    """Whether the system text is put at the head of the first user message."""
    seed: bool = True
    """Whether a seed is sent: without one a draft cannot be sampled again, which few servers promise anyway."""
    stream_usage: bool = True
    """Whether a streamed answer is asked to count its tokens."""


_answered: dict[tuple[str, str, WireForm], WireForm] = {}
"""By address, model and first form: the form that was answered.  Every client's thread reads and writes it."""
_lock = threading.Lock()


def first_form(settings: LLMSettings) -> WireForm:
    """The form before anything is known about the server."""
    key: str | None = settings.max_tokens_key
    if key == "auto":
        key = LIMITS[any(f".{settings.host}".endswith(f".{host}") for host in NEW_LIMIT_HOSTS)]
    return WireForm(key, settings.system_role == "merge")


def form_for(settings: LLMSettings, model: str) -> WireForm:
    """The form to send: the one that this server answered before, or the first one."""
    first = first_form(settings)
    with _lock:
        return _answered.get((settings.url, model, first), first)


def remember(settings: LLMSettings, model: str, form: WireForm) -> None:
    """Use a form that was answered for all further calls of this process; logs a change once."""
    first = first_form(settings)
    with _lock:
        previous = _answered.get((settings.url, model, first), first)
        _answered[settings.url, model, first] = form
    if form == previous:
        return
    lines = []
    if form.max_tokens_key != previous.max_tokens_key:
        lines.append(f"max_tokens_key: {form.max_tokens_key}")
    if form.merge_system != previous.merge_system:
        lines.append("system_role: merge")
    if form.seed != previous.seed:
        lines.append("extra_body: {seed: null}")
    if form.stream_usage != previous.stream_usage:
        lines.append("no token counts in streams: they are estimated")
    logging.getLogger(__name__).warning(
        "The LLM at %s refused the usual form of a request for %s; from now on it is sent with %s.",
        settings.shown_url, model, ", ".join(lines),
    )  # fmt: skip


def other_form(form: WireForm, settings: LLMSettings, status: int, text: str, has_system: bool) -> WireForm | None:
    """The form to try after a refusal; None where the refusal is not about a form that the settings leave open.

    Args:
        text: body of the refusal.
        has_system: whether the request has a system message.
    """
    if status not in REFUSALS:
        return None
    if has_system and not form.merge_system and settings.system_role == "auto" and _SYSTEM_REFUSED.search(text):
        return replace(form, merge_system=True)
    if status == IN_TEMPLATE:
        return None
    key = form.max_tokens_key
    if key is not None and settings.max_tokens_key == "auto" and refuses(key, text):
        return replace(form, max_tokens_key=LIMITS[key == LIMITS[0]])
    if form.seed and "seed" not in settings.extra_body and refuses("seed", text):
        return replace(form, seed=False)
    if settings.stream and form.stream_usage and refuses("stream_options", text):
        return replace(form, stream_usage=False)
    return None


def refuses(name: str, text: str) -> bool:
    """Whether a refusal says that a parameter of this name is not supported; a refused value does not count."""
    near = rf"(?<!\w){name}(?!\w)[^.]{{0,60}}?(?:{_NO})|(?:{_NO})[^.]{{0,80}}?(?<!\w){name}(?!\w)"
    return re.search(near, text, re.IGNORECASE) is not None


def advice(form: WireForm, text: str, has_system: bool) -> str:
    """The line of the settings that avoids a refusal; empty where the refusal names nothing of these."""
    key = form.max_tokens_key
    if key is not None and refuses(key, text):
        return (
            f"Write `max_tokens_key: {LIMITS[key == LIMITS[0]]}`, or `max_tokens_key: null`, which sends neither name "
            "and leaves the length to the server."
        )
    if has_system and not form.merge_system and _SYSTEM_REFUSED.search(text):
        return "Write `system_role: merge`."
    if refuses("temperature", text):
        return "Write `extra_body: {temperature: null}`, which leaves the temperature to the server."
    return ""


def merged(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The messages without a system role: its text opens the first user message."""
    texts = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    if not texts:
        return rest
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": "\n\n".join(texts)}, *rest]
    return [{"role": "user", "content": "\n\n".join([*texts, rest[0]["content"]])}, *rest[1:]]
