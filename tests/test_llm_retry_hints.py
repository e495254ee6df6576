"""The forms in which servers ask to wait; each is read, and nonsense is no hint."""

import email.utils
from datetime import UTC, datetime

import pytest

from ideator_rl.llm import retry_hints
from ideator_rl.llm.faults import of_status
from ideator_rl.llm.retry_hints import retry_after

NOW = 1_790_000_000.0
RETRY_INFO = {"error": {"code": 429, "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]}}  # fmt: skip


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    monkeypatch.setattr(retry_hints.time, "time", lambda: NOW)


@pytest.mark.parametrize(
    ("headers", "body", "text", "seconds"),
    [
        ({"retry-after": "7"}, None, "", 7),
        ({"retry-after": "1.5"}, None, "", 1.5),
        ({"retry-after": email.utils.formatdate(NOW + 40, usegmt=True)}, None, "", 40),
        ({"retry-after-ms": "250", "retry-after": "7"}, None, "", 0.25),
        ({"retry-after": "2m"}, None, "", 120),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, None, "", 360),
        ({"x-ratelimit-reset-tokens": "7.66s", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-requests": "9h", "x-ratelimit-remaining-requests": "12"}, None, "", 7.66),
        ({"X-RateLimit-Reset": "99", "x-ratelimit-reset-tokens": "20ms", "x-ratelimit-remaining-tokens": "0"}, None, "", 0.02),
        ({"x-ratelimit-reset": str(int((NOW + 60) * 1000)), "x-ratelimit-remaining": "0"}, None, "", 60),
        ({"x-ratelimit-reset": str(int(NOW + 60)), "x-ratelimit-remaining": "0"}, None, "", 60),
        ({"anthropic-ratelimit-tokens-reset": datetime.fromtimestamp(NOW + 30, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "anthropic-ratelimit-tokens-remaining": "0"}, None, "", 30),
        ({}, RETRY_INFO, "", 34.5),
        ({}, [RETRY_INFO], "", 34.5),
        ({}, {"retry_after": 3}, "", 3),
        ({}, None, "Rate limit reached for m in o: Limit 3, Used 3. Please try again in 1m2.5s. Visit https://x", 62.5),
        ({}, None, "Please try again in 20s.", 20),
        ({}, None, "Please try again in 6ms.", 0.006),
        ({}, None, "Please retry after 26 seconds.", 26),
        ({}, None, "You exceeded your quota. Please retry in 34.07s.", 34.07),
        ({}, None, "Try again in 1 hour, 5 minutes", 3900),
        ({"retry-after": "-5"}, None, "try again in 2s", 2),
    ],
)  # fmt: skip
def test_each_common_form_gives_its_seconds(headers, body, text, seconds):
    lower = {name.lower(): value for name, value in headers.items()}
    assert retry_after(lower, body, text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        ({"retry-after": raw}, None, "")
        for raw in ("", "0", "-3", "nan", "inf", "-inf", "1e300", "soon", "99999999", "9" * 500, "Wed, 99 Foo", "s", "12parsecs")
    ]
    + [
        ({"retry-after": email.utils.formatdate(NOW - 60, usegmt=True)}, None, ""),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "3"}, None, ""),
        ({"x-ratelimit-reset-requests": "6m0s"}, None, ""),
        ({}, {"error": {"details": [{"retryDelay": None}, {"retryDelay": {}}, "retryDelay"]}}, ""),
        ({}, None, "Do not retry. You have 20 seconds of audio left; wait until tomorrow."),
    ],
)  # fmt: skip
def test_nonsense_is_no_hint(headers, body, text):
    assert retry_after(headers, body, text) is None


def test_a_hint_of_the_body_reaches_the_fault_and_a_long_one_is_final():
    text = "Rate limit reached. Please try again in 1m2.5s."
    fault = of_status(429, {"message": text}, "", {}, None)
    assert fault.retry_after == 62.5 and fault.temporary
    final = of_status(429, {"message": "Try again in 2 hours."}, "", {}, None)
    assert not final.temporary and "7200 s" in final.advice
