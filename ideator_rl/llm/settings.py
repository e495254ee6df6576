"""Settings of a code LLM, as a recipe's `coder` mapping gives them, checked before anything is asked."""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ideator_rl.errors import IdeatorError
from ideator_rl.llm.prices import Price, shipped

OURS = ("model", "messages", "max_tokens", "max_completion_tokens", "n", "stream")
"""What an `extra_body` may not hold: reservations and recordings stand on it."""


class SettingsError(IdeatorError):
    """Settings of a code LLM that cannot be used."""


@dataclass(frozen=True)
class LLMSettings:
    """How a code LLM is asked."""

    models: dict[str, float]
    """Name to weight; a call's salt picks one."""
    base_url: str | None = None
    """None for the openai client's own: OPENAI_BASE_URL, or OpenAI."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key; None for a server without keys."""
    temperature: float = 1.0
    max_tokens: int = 8192
    """Of a completion, reasoning included."""
    context_tokens: int | None = None
    """Of the model's window: prompt and completion together."""
    timeout: float = 300.0
    """Seconds until an answer is there, whole."""
    concurrency: int = 16
    """Calls on the wire at once, of this process, to this `base_url`."""
    requests_per_minute: float | None = None
    """Starts, evenly spaced, of this process, to this `base_url`."""
    retries: int = 6
    record: str | None = None
    """A journal to answer from and to append to."""
    replay: str | None = None
    """A journal to answer from, and from nothing else."""
    prices: dict[str, Price] = field(default_factory=dict)
    """Over those that are shipped."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Passed through to the server; `seed: null` or `temperature: null` leaves one out."""

    @classmethod
    def from_mapping(cls, raw: dict[str, Any]) -> LLMSettings:
        """Raises: SettingsError for an unknown key, a wrong type, or a number out of range."""
        known = [item.name for item in fields(cls)]
        for key in raw:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                _fail(f"have the unknown key {key!r}", f"Did you mean {near[0]!r}?" if near else f"Known: {known}.")
        full = dict(raw)
        full["models"] = _models(raw.get("models"))
        for key, value in raw.items():
            if key in CHECKS and not CHECKS[key][0](value):
                _fail(f"have {key}: {value!r}", f"Expected {CHECKS[key][1]}.")
        full["prices"] = {name: _price(name, price) for name, price in (raw.get("prices") or {}).items()}
        full["extra_body"] = raw.get("extra_body") or {}
        if owned := [key for key in OURS if key in full["extra_body"]]:
            _fail(f"have {owned[0]!r} in extra_body", "The library sends it itself; see `models` and `max_tokens`.")
        if raw.get("record") and raw.get("replay"):
            _fail("have both record and replay", "`record` answers from its file too and asks for the rest; keep one.")
        if full.get("context_tokens") and full["context_tokens"] <= full.get("max_tokens", cls.max_tokens):
            _fail("have a context_tokens that max_tokens fills", "Lower max_tokens: the prompt needs room too.")
        return cls(**full)

    def price(self, model: str) -> Price | None:
        """USD for a model's tokens, nothing on this machine; None where nobody knows."""
        return self.prices.get(model) or shipped().get(model) or (Price() if self.loopback else None)

    @property
    def url(self) -> str:
        """Where calls go."""
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1").rstrip("/")

    @property
    def shown_url(self) -> str:
        """The same for messages: without what may be secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def loopback(self) -> bool:
        """A server on this machine."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def _number(low: float, whole: bool = False, none: bool = False) -> Any:
    def fits(value: Any) -> bool:
        if value is None:
            return none
        kinds = int if whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) and value >= low

    return fits


def _text(none: bool) -> Any:
    return lambda value: (value is None and none) or (isinstance(value, str) and value.strip() != "")


def _url(value: Any) -> bool:
    if not isinstance(value, str):
        return value is None
    return urlsplit(value).scheme in ("http", "https") and bool(urlsplit(value).hostname)


CHECKS: dict[str, tuple[Any, str]] = {
    "base_url": (_url, "the address of a server, such as http://localhost:8000/v1, or null for the openai default"),
    "api_key_env": (_text(True), "the name of an environment variable, or null for a server without keys"),
    "temperature": (_number(0), "a number of at least 0"),
    "max_tokens": (_number(1, True), "a whole number of at least 1"),
    "context_tokens": (_number(1, True, True), "a whole number of tokens, or null"),
    "timeout": (_number(0.001), "seconds, above 0"),
    "concurrency": (_number(1, True), "a whole number of at least 1"),
    "requests_per_minute": (_number(0.001, none=True), "a number above 0, or null"),
    "retries": (_number(0, True), "a whole number of at least 0"),
    "record": (_text(True), "the path of a file, or null"),
    "replay": (_text(True), "the path of a file, or null"),
    "prices": (lambda value: value is None or isinstance(value, dict), "a mapping of model to prices"),
    "extra_body": (lambda value: value is None or isinstance(value, dict), "a mapping"),
}


def _models(raw: Any) -> dict[str, float]:
    models = {raw: 1.0} if isinstance(raw, str) else raw
    if not isinstance(models, dict) or not models:
        _fail(f"have models: {raw!r}", "Expected the name of a model, or a mapping of names to weights.")
    for name, weight in models.items():
        if not isinstance(name, str) or not name.strip() or not _number(0)(weight):
            _fail(f"have the model {name!r}: {weight!r}", "Expected a name, and a weight of at least 0.")
    if not sum(models.values()):
        _fail("have weights of 0 only", "Give at least one model a weight above 0.")
    return {name: float(weight) for name, weight in models.items()}


def _price(name: str, raw: Any) -> Price:
    keys = ("prompt", "completion")
    if not isinstance(raw, dict) or sorted(raw) != sorted(keys) or not all(_number(0)(raw[key]) for key in keys):
        _fail(f"have the price {raw!r} for {name}", "Expected {prompt: USD, completion: USD}, per 1 million tokens.")
    return Price(float(raw["prompt"]), float(raw["completion"]))


def _fail(what: str, then: str) -> NoReturn:
    raise SettingsError(f"The settings of the LLM {what}. {then}")
