"""What can go wrong with a call, and what to do: try again, give up, or tell that the prompt is too long."""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass
from typing import Any

from ideator_rl.errors import IdeatorError

PATIENCE = 300.0
"""Seconds: a server that asks to wait longer is not waited for."""
SHOWN = 300
"""Characters of a server's words in a message."""
PASSING = (408, 409, 425, 429)
"""Statuses below 500 that may pass."""
QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes of a 429 that waiting does not cure."""
TOO_LONG = re.compile(
    r"context[_ ]length|context[_ ]window|context[_ ]size|maximum context|max_model_len|max_seq_len"
    r"|(prompt|input|request|messages?)( is| are)? too (long|large)|too many (input )?tokens|reduce the length"
    r"|exceeds? the (model|maximum|limit)[^.]*tokens",
    re.IGNORECASE,
)
"""How servers say that prompt and completion do not fit the model's window."""


class LLMUnavailable(IdeatorError):
    """The code LLM gave no answer; nothing was learned about the idea."""


class ContextTooLong(IdeatorError):
    """Prompt and completion together do not fit the model's window."""


@dataclass
class Fault(Exception):
    """One try that failed."""

    words: str
    """What came."""
    then: str = ""
    """What to do, where trying again does not help."""
    passing: bool = True
    too_long: bool = False
    billed: bool = False
    """It may have been: it was on the wire, and nothing more is known."""
    after: float | None = None
    """Seconds that the server asks to wait."""

    def final(self, url: str, tries: int) -> IdeatorError:
        """The error for the caller, when no try is left."""
        if self.too_long:
            return ContextTooLong(f"The prompt is too long for the LLM at {url}: {self.words}. {self.then}")
        if not self.passing:
            return LLMUnavailable(f"The LLM at {url} refuses to answer: {self.words}. {self.then}")
        times = "once" if tries == 1 else f"{tries} times"
        then = "See that it is up and ask again (a run: --resume); `retries` and `timeout` say how long to wait."
        return LLMUnavailable(
            f"The LLM at {url} was asked {times} and gave no answer. The last try: {self.words}. {then}"
        )


def of_status(status: int, body: Any, text: str, headers: Any, key_env: str | None) -> Fault:
    """A status other than 2xx.  Servers do not bill these."""
    code = str(body.get("code") or body.get("type") or "") if isinstance(body, dict) else ""
    told = (body.get("message") or body.get("detail") or body) if isinstance(body, dict) else (body or text)
    said = shortened(str(told))
    words = f"status {status}: {said}" if said else f"status {status}"
    if status in (400, 413, 422) and (TOO_LONG.search(code) or TOO_LONG.search(said)):
        return Fault(words, "Show less of the codebase, or lower max_tokens.", passing=False, too_long=True)
    if status == 429 and code in QUOTA:
        return Fault(words, "The account has no quota left: top it up, and go on with --resume.", passing=False)
    if status in PASSING or status >= 500:
        after = retry_after(headers)
        if after is not None and after > PATIENCE:
            return Fault(words, f"It asks to wait {after:.0f} s; go on with --resume after that.", passing=False)
        return Fault(words, after=after)
    return Fault(words, _advice(status, key_env), passing=False)


def of_connection(error: BaseException, timeout: float) -> Fault:
    """No status came.  Without a connection nothing can have been billed."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 10:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    unsent = any(type(one).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout") for one in causes)
    if not unsent and any("Timeout" in type(one).__name__ for one in causes):
        return Fault(f"no answer within {timeout:g} s", billed=True)
    kind = "no connection" if unsent else "the connection broke"
    return Fault(f"{kind} ({shortened(str(causes[-1])) or type(causes[-1]).__name__})", billed=not unsent)


def retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3)."""
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
    return line if len(line) <= SHOWN else line[:SHOWN] + " …"


def _advice(status: int, key_env: str | None) -> str:
    if status in (401, 403):
        return f"Check the key in {key_env}." if key_env else "It wants a key: name its variable with `api_key_env`."
    if status == 404:
        return "Check `base_url` (it usually ends with /v1) and the names in `models`."
    return "Check the names in `models`; a parameter that it does not know is left out by `extra_body: {seed: null}`."
