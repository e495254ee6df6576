"""How long a server asks to wait before the next call, in the forms in common use.

In this order: `retry-after-ms`; `retry-after` (RFC 9110, 10.2.3); `retryDelay` and its like in the body; a sentence of
the body ("try again in 1m2.5s"); the time at which a rate limit without any calls left is reset.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

LONGEST = 30 * 86_400.0
"""Seconds; a longer hint is taken for a mistake."""
EPOCH = 1e9
"""A number from here on is a point in time: seconds since 1970, or milliseconds from a hundred times this on."""
UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
BODY_KEYS = ("retryDelay", "retry_after", "retry_after_seconds")
_UNIT = r"(?:milliseconds?|ms|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)"
_STEP = re.compile(rf"(\d+(?:\.\d+)?)\s*({_UNIT})(?![a-z])", re.IGNORECASE)
_DURATION = rf"(?:\d+(?:\.\d+)?\s*{_UNIT}(?![a-z])[\s,]*)+"
_SENTENCE = re.compile(
    r"(?:try(?:ing)? again|retry(?:ing)?|wait)\b"
    rf"(?:\s+(?:after|in|for|at least|about|your request)){{0,3}}\s+({_DURATION})",
    re.IGNORECASE,
)


def retry_after(headers: Any, body: Any = None, text: str = "") -> float | None:
    """Seconds to wait; None without a usable hint.  A hint that is negative, zero, endless or absurd is none.

    Args:
        headers: a mapping of names in lower case, or one that ignores case.
        body: the answer's JSON, in which some servers hide the hint.
        text: the message for people.
    """
    for seconds in _hints(headers, body, text):
        if seconds is not None and 0 < seconds <= LONGEST:
            return seconds
    return None


def _hints(headers: Any, body: Any, text: str) -> Iterator[float | None]:
    milliseconds = _number(headers.get("retry-after-ms"))
    yield None if milliseconds is None else milliseconds / 1000
    yield _seconds(headers.get("retry-after"))
    yield from (_seconds(value) for value in _values(body, 0))
    if sentence := _SENTENCE.search(text):
        yield _seconds(sentence[1])
    # The reset of a limit that still has calls left is no reason to wait.
    resets = [
        _seconds(value)
        for name, value in headers.items()
        if "ratelimit" in name.lower() and "reset" in name.lower()
        and _number(headers.get(name.lower().replace("reset", "remaining"))) == 0
    ]  # fmt: skip
    yield max((seconds for seconds in resets if seconds is not None), default=None)


def _values(body: Any, depth: int) -> Iterator[Any]:
    """The values under `BODY_KEYS`, at the depths at which servers put them."""
    if depth > 5:
        return
    if isinstance(body, dict):
        yield from (body[key] for key in BODY_KEYS if key in body)
        body = list(body.values())
    for inner in body if isinstance(body, list) else ():
        yield from _values(inner, depth + 1)


def _seconds(value: Any) -> float | None:
    """Seconds from now, of a number, a duration such as 6m0s, a point in time since 1970, or a date."""
    if (number := _number(value)) is not None:
        if number >= EPOCH * 100:
            return number / 1000 - time.time()
        return number - time.time() if number >= EPOCH else number
    if not isinstance(value, str) or len(value) > 100:
        return None
    if re.fullmatch(_DURATION, value.strip(), re.IGNORECASE):
        return sum(float(number) * UNITS[_unit(name.lower())] for number, name in _STEP.findall(value))
    for read in (email.utils.parsedate_to_datetime, datetime.fromisoformat):
        try:
            return read(value).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _unit(name: str) -> str:
    return "ms" if name.startswith(("ms", "milli")) else name[0]


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return number if math.isfinite(number) else None
