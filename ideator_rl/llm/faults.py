"""The faults of a call, and which of them are temporary.

A temporary fault is retried.  A permanent one is raised at once as `LLMUnavailable`, or as `ContextTooLong` if the
prompt does not fit the model's window.
"""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass
from typing import Any

from ideator_rl.errors import IdeatorError

MAX_RETRY_AFTER = 300.0
"""Seconds; a server that asks for a longer wait counts as unavailable."""
MAX_QUOTED = 300
"""Characters of a server's message in an error."""
TEMPORARY = (408, 409, 425, 429)
"""Statuses below 500 that are retried."""
QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes of a 429 that no wait cures."""
TOO_LONG = re.compile(
    r"context[_ ]length|context[_ ]window|context[_ ]size|maximum context|max_model_len|max_seq_len"
    r"|(prompt|input|request|messages?)( is| are)? too (long|large)|too many (input )?tokens|reduce the length"
    r"|exceeds? the (model|maximum|limit)[^.]*tokens",
    re.IGNORECASE,
)
"""Messages of servers when prompt and completion do not fit the model's window."""


class LLMUnavailable(IdeatorError):
    """The code LLM gave no answer, so the idea cannot be judged."""


class ContextTooLong(IdeatorError):
    """Prompt and completion together do not fit the model's window."""


@dataclass
class Fault(Exception):
    """One attempt that failed."""

    description: str
    advice: str = ""
    """The next step, for a permanent fault."""
    temporary: bool = True
    too_long: bool = False
    maybe_billed: bool = False
    """The request was sent, and whether the server bills it is not known."""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""

    def final_error(self, url: str, attempts: int) -> IdeatorError:
        """The error for the caller, when there is no further attempt."""
        if self.too_long:
            return ContextTooLong(f"The prompt is too long for the LLM at {url}: {self.description}. {self.advice}")
        if not self.temporary:
            return LLMUnavailable(f"The LLM at {url} refuses to answer: {self.description}. {self.advice}")
        times = "once" if attempts == 1 else f"{attempts} times"
        return LLMUnavailable(
            f"The LLM at {url} was asked {times} and gave no answer. The last attempt: {self.description}. "
            "Check that it runs and repeat (a run: --resume); `retries` and `timeout` set how long to wait."
        )


def of_status(status: int, body: Any, text: str, headers: Any, key_env: str | None) -> Fault:
    """The fault of a status other than 2xx.  Servers do not bill these."""
    code = str(body.get("code") or body.get("type") or "") if isinstance(body, dict) else ""
    message = shortened(
        str((body.get("message") or body.get("detail") or body) if isinstance(body, dict) else body or text)
    )
    description = f"status {status}: {message}" if message else f"status {status}"
    if status in (400, 413, 422) and (TOO_LONG.search(code) or TOO_LONG.search(message)):
        advice = "Show less of the codebase, or lower max_tokens."
        return Fault(description, advice, temporary=False, too_long=True)
    # Some servers answer 429 for an empty account too, which no wait refills.
    if status == 429 and code in QUOTA:
        advice = "The account has no quota left: top it up, and continue with --resume."
        return Fault(description, advice, temporary=False)
    if status in TEMPORARY or status >= 500:
        seconds = retry_after(headers)
        if seconds is not None and seconds > MAX_RETRY_AFTER:
            advice = f"It asks to wait {seconds:.0f} s; continue with --resume after that."
            return Fault(description, advice, temporary=False)
        return Fault(description, retry_after=seconds)
    return Fault(description, _advice(status, key_env), temporary=False)


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
    return Fault(f"{kind} ({shortened(str(causes[-1])) or names[-1]})", maybe_billed=not unsent)


def retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None without one."""
    raw = headers.get("retry-after")
    if raw is None:
        return None
    try:
        return max(0.0, float(raw))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(raw).timestamp() - time.time())
    except ValueError:
        return None


def shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_QUOTED else line[:MAX_QUOTED] + " …"


def _advice(status: int, key_env: str | None) -> str:
    if status in (401, 403):
        return f"Check the key in {key_env}." if key_env else "It needs a key: name its variable with `api_key_env`."
    if status == 404:
        return "Check `base_url` (it usually ends with /v1) and the names in `models`."
    return "Check the names in `models`; `extra_body: {seed: null}` leaves out a parameter that it does not support."
