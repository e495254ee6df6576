"""The faults of a call: which are retried, and which no wait cures.

- Temporary (overload, no connection): retried, then raised as `LLMUnavailable`.
- Permanent (key, model, address, quota, parameters): raised at once as `LLMUnavailable` with `permanent`.
- Unreadable (a 2xx answer that is not the API's JSON, such as a login page): retried once, then permanent.
- Of this prompt (too long, stopped by a content filter): raised at once; the next prompt may be answered.

`refusals` counts the permanent ones in a row.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.llm.retry_hints import retry_after
from ideator_rl.text.display import shorten
from ideator_rl.text.redaction import beginning_of

MAX_RETRY_AFTER = 300.0
"""Seconds; a server that asks for a longer wait counts as unavailable."""
MAX_QUOTED = 300
"""Characters of a server's message in an error."""
MAX_READ = 2000
"""Characters of a server's message in a fault: the client removes its secrets before it shortens."""
MAX_DESCRIPTION = MAX_QUOTED + 100
"""Characters of a fault in an error."""
TEMPORARY = (408, 409, 425, 429)
"""Statuses below 500 that are retried."""
QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes of a 429 that no wait cures."""
OF_ADDRESS = (300, 301, 302, 303, 307, 308, 404, 405, 410)
"""Statuses of an address, or a model, that is not there."""
FILTERED = re.compile(r"content[_ ]?(filter|policy|management)|moderation|flagged", re.IGNORECASE)
"""Messages of servers when a filter stops one prompt."""
CUT_SHORT = re.compile(r"could not finish the message because max_tokens", re.IGNORECASE)
"""A status 400 of some reasoning models, for an answer that max_tokens cut off before its first word."""
KEY_REFUSED = re.compile(
    r"(invalid|incorrect|wrong|expired|missing|revoked) [\w ]{0,20}api[ _-]?key"
    r"|api[ _-]?key [\w ]{0,20}(not valid|invalid|incorrect|expired|not found|missing|revoked)",
    re.IGNORECASE,
)
"""Messages of servers that refuse a key with another status than 401 and 403."""
TOO_LONG = re.compile(
    r"context[_ ](length|window|size|limit)|maximum (context|prompt length)|max_model_len|max_seq_len"
    r"|(prompt|input|request|messages?)( is| are)? too (long|large)|too many (input )?tokens|reduce the length"
    r"|exceeds? the (model|maximum|limit)[^.]*tokens|must have less than \d+ tokens"
    r"|tokens \+ `?max_new_tokens|range of input length",
    re.IGNORECASE,
)
"""Messages of servers when prompt and completion do not fit the model's window."""


class LLMUnavailable(IdeatorError):
    """The LLM gave no answer."""

    def __init__(self, message: str, permanent: bool = False, repeated: bool = False):
        super().__init__(message)
        self.permanent = permanent
        """No wait cures the cause: a person has to."""
        self.repeated = repeated
        """It was not the first permanent fault in a row; the client sends no further call."""


class PromptRefused(LLMUnavailable):
    """The LLM refuses this prompt alone; the next one may be answered."""


class ContextTooLong(IdeatorError):
    """Prompt and completion together do not fit the model's window."""


@dataclass
class Fault(Exception):
    """One attempt that failed."""

    description: str
    advice: str = ""
    """The next step, for a permanent fault."""
    temporary: bool = True
    permanent: bool = False
    """No wait cures it.  Neither this nor `temporary`: the fault is of this prompt."""
    of_parameters: bool = False
    """Permanent if another prompt is refused too: the server may refuse only this one."""
    too_long: bool = False
    maybe_billed: bool = False
    """The request was sent, and whether the server bills it is not known."""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""

    def final_error(self, url: str, attempts: int) -> IdeatorError:
        """The error for the caller, when there is no further attempt."""
        if self.too_long:
            return ContextTooLong(
                f"The prompt is too long for the LLM at {url}: {self.description.rstrip('.')}. {self.advice}"
            )
        if self.permanent or not self.temporary:
            text = f"The LLM at {url} refuses to answer: {self.description.rstrip('.')}. {self.advice}"
            return LLMUnavailable(text, permanent=True) if self.permanent else PromptRefused(text)
        times = "once" if attempts == 1 else f"{attempts} times"
        return LLMUnavailable(
            f"The LLM at {url} was asked {times} and gave no answer. The last attempt: {self.description}. "
            "Check that it runs and repeat (a run: --resume); `retries` and `timeout` set how long to wait."
        )


def of_status(status: int, body: Any, text: str, headers: Any, key_env: str | None) -> Fault:
    """The fault of a status other than 2xx.  Servers do not bill these."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]  # as Gemini sends it
    if isinstance(body, dict) and isinstance(body.get("error"), str | dict):
        body = body["error"]
    code = str(body.get("code") or body.get("type") or "") if isinstance(body, dict) else ""
    kind = str(body.get("type") or "") if isinstance(body, dict) else ""
    whole = quoted((body.get("message") or body.get("detail") or body) if isinstance(body, dict) else body or text)
    description, message = f"status {status}: {whole}" if whole else f"status {status}", shorten(whole, MAX_QUOTED)
    if status in (400, 413, 422) and (TOO_LONG.search(code) or TOO_LONG.search(message)):
        advice = "Show less of the codebase, or lower max_tokens."
        return Fault(description, advice, temporary=False, too_long=True)
    # Neither is a fault of key or settings: the next prompt may be answered.
    if status in (400, 403) and (FILTERED.search(code) or FILTERED.search(message)):
        return Fault(description, "A content filter stopped this prompt.", temporary=False)
    if status == 400 and CUT_SHORT.search(message):
        return Fault(description, "Raise max_tokens.", temporary=False)
    # Gemini and xAI answer 400, some gateways 200 with an error that has no status.
    if status in (400, 500) and KEY_REFUSED.search(message):
        return Fault(description, _advice(401, key_env), temporary=False, permanent=True)
    # Some servers answer 429 for an empty account too, which no wait refills.
    if status == 402 or (status == 429 and {code, kind} & set(QUOTA)):
        advice = "The account has no quota left: top it up, and continue with --resume."
        return Fault(description, advice, temporary=False, permanent=True)
    if status in TEMPORARY or status >= 500:
        seconds = retry_after(headers, body, message)
        if seconds is not None and seconds > MAX_RETRY_AFTER:
            advice = f"It asks to wait {seconds:.0f} s; continue with --resume after that."
            return Fault(description, advice, temporary=False, permanent=True)
        return Fault(description, retry_after=seconds)
    of_parameters = status not in (401, 403, *OF_ADDRESS)
    return Fault(description, _advice(status, key_env), temporary=False, permanent=True, of_parameters=of_parameters)


def of_body(raw: bytes) -> Fault:
    """The fault of a 2xx answer that is no chat completion.  It may be billed."""
    try:
        error = json.loads(raw)["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        error = None
    if isinstance(error, str | dict) and error:
        return of_error(error)
    advice = "Check `base_url` (it usually ends with /v1), and that no proxy or login page answers instead."
    return Fault(f"the answer is no chat completion: {quoted(raw)!r}", advice, permanent=True, maybe_billed=True)


def of_error(error: Any) -> Fault:
    """The fault of a 2xx answer that holds an error: of a gateway, whose code is the status of the server behind it."""
    body = error if isinstance(error, dict) else {"message": str(error)}
    code = body.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        fault = of_status(code, body, "", {}, None)
    else:
        # Without a status it may pass, unless it is about the key.
        fault = of_status(500, body, "", {}, None)
        fault.description = fault.description.removeprefix("status 500: ")
    fault.description = f"the answer is no chat completion but an error: {fault.description}"
    fault.maybe_billed = True
    return fault


def of_connection(error: BaseException, timeout: float) -> Fault:
    """The fault of an attempt without a status.  Without a connection the server cannot have billed it."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 10:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    # By name: these classes belong to the HTTP library under the openai client.
    names = [type(cause).__name__ for cause in causes]
    unsent = any(name in ("ConnectError", "ConnectTimeout", "PoolTimeout") for name in names)
    if not unsent and any("Timeout" in name for name in names):
        return Fault(f"no answer within {timeout:g} s", maybe_billed=True)
    kind = "no connection" if unsent else "the connection broke"
    return Fault(f"{kind} ({quoted(causes[-1]) or names[-1]})", maybe_billed=not unsent)


def quoted(message: Any) -> str:
    """The beginning of a server's message on one line, without the word that the cut went through: half of a secret
    would not be removed."""
    # More bytes than the cut needs, so that it sees that there are more.
    text = message[: 5 * MAX_READ].decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    return " ".join(beginning_of(text, MAX_READ).split())


def _advice(status: int, key_env: str | None) -> str:
    if status in (401, 403):
        return f"Check the key in {key_env}." if key_env else "Check the key; `api_key_env` names its variable."
    if status in OF_ADDRESS:
        return "Check `base_url` (it usually ends with /v1) and the names in `models`."
    return "Check the names in `models`; `extra_body: {seed: null}` leaves out a parameter that it does not support."
