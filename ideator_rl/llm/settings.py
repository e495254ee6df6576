"""Settings of an LLM behind a server, as a recipe's mapping gives them, checked before any call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import (
    Amount,
    Config,
    Count,
    CountOrZero,
    Expected,
    Flag,
    PlainAmount,
    Positive,
    read_config,
)
from ideator_rl.errors import IdeatorError
from ideator_rl.llm.prices import CLOSED, FREE, MILLION, Price, listed
from ideator_rl.text.redaction import is_secret_key
from ideator_rl.text.variables import UnsetVariable, fill, variables

RESERVED = {
    "model": "models",
    "messages": "system_role",
    "max_tokens": "max_tokens` and `max_tokens_key",
    "max_completion_tokens": "max_tokens` and `max_tokens_key",
    "n": "samples",
    "stream": "stream",
    "stream_options": "stream",
}
"""Keys that an `extra_body` must not hold, because reserved costs and recordings depend on them, and what sets them."""


MAPPINGS = ("prices", "extra_body", "extra_headers", "extra_query")


class SettingsError(IdeatorError):
    """Settings of an LLM that cannot be used."""


def _is_url(value: str) -> bool:
    parts = urlsplit(value)
    # A port out of range raises a ValueError when it is read.
    valid_port = parts.port != 0
    return parts.scheme in ("http", "https") and bool(parts.hostname) and valid_port and not parts.query


def _have_weight(models: dict[str, float]) -> bool:
    return all(name.strip() for name in models) and sum(models.values()) > 0


Url = Annotated[
    str, Expected("the address of a server, such as http://localhost:8000/v1, its parameters in `extra_query`", _is_url)
]
Variable = Annotated[str, Expected("the name of an environment variable", str.isidentifier)]
File = Annotated[str, Expected("the path of a file", str.strip)]
Texts = dict[str, Annotated[str, Expected("text", lambda value: "\n" not in value and "\r" not in value)]]
Models = Annotated[
    dict[str, Amount],
    BeforeValidator(lambda value: {value: 1.0} if isinstance(value, str) else value),
    Expected("the name of a model, or a mapping of names to weights, one of them above 0", _have_weight),
]


def absolute_recordings(settings: dict[str, Any] | None) -> dict[str, Any] | None:
    """Unchecked settings with absolute paths of recordings: a saved recipe may be read from another folder."""
    paths = {}
    for key in ("record", "replay"):
        path = (settings or {}).get(key)
        if isinstance(path, str) and path.strip():
            paths[key] = str(Path(path.strip()).absolute())
    return {**settings, **paths} if settings and paths else settings


@dataclass(frozen=True)
class LLMSettings(Config):
    """How an LLM is called."""

    models: Models
    """Name of the model, or names with weights; each call picks one at random, by its salt."""
    base_url: Url | None = None
    """Address of the server; null for the openai client's own: OPENAI_BASE_URL, or OpenAI."""
    api_key_env: Variable | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null for a server without keys."""
    temperature: PlainAmount = 1.0
    """Sampling temperature."""
    max_tokens: Count = 8192
    """Tokens of a completion, reasoning included."""
    max_tokens_key: Literal["auto", "max_tokens", "max_completion_tokens"] | None = "auto"
    """Name under which `max_tokens` is sent; auto for the one that the server takes; null to send no limit."""
    system_role: Literal["auto", "send", "merge"] = "auto"
    """merge puts the system text at the head of the first user message; auto does so once a server refuses the role."""
    stream: Flag = False
    """Read answers as a stream, for gateways that cut long silent connections."""
    context_tokens: Count | None = None
    """Tokens of the model's window, prompt and completion together; null where it is not known."""
    timeout: Positive = 300.0
    """Seconds until a whole answer must have arrived."""
    concurrency: Count = 16
    """Calls that run at the same time, of this process, to this `base_url`."""
    requests_per_minute: Positive | None = None
    """Calls started per minute, evenly spaced, of this process, to this `base_url`; null for no limit."""
    retries: CountOrZero = 6
    """Further tries of a call that failed."""
    record: File | None = None
    """File to answer from and to append new answers to."""
    replay: File | None = None
    """File to answer from; no server is called."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """USD per 1 million tokens by model, {prompt: USD, completion: USD}; they replace those of genai-prices."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the server; `seed: null` or `temperature: null` leaves one out."""
    extra_headers: Texts = Field(default_factory=dict)
    """Headers of every call; `${NAME}` in a value stands for an environment variable, which a secret needs."""
    extra_query: Texts = Field(default_factory=dict)
    """The same for parameters of the address, such as `{api-version: 2024-10-21}`."""

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, values: Any) -> Any:
        """Of a mapping in YAML: a key without a value stands for an empty mapping."""
        if isinstance(values, dict):
            return {key: {} if key in MAPPINGS and value is None else value for key, value in values.items()}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> LLMSettings:
        if reserved := [key for key in RESERVED if key in self.extra_body]:
            raise ValueError(f"{reserved[0]!r} in extra_body. The library sends it; see `{RESERVED[reserved[0]]}`.")
        for name in ("extra_headers", "extra_query"):
            for key, text in getattr(self, name).items():
                if is_secret_key(key) and text and not variables(text):
                    raise ValueError(
                        f"a secret in {name}.{key}. Put it into an environment variable and write "
                        f"`{name}: {{{key}: ${{NAME_OF_THE_VARIABLE}}}}`."
                    )
        if self.record and self.replay:
            raise ValueError("both record and replay. `record` answers from its file too, and asks for the rest.")
        if self.context_tokens is not None and self.context_tokens <= self.max_tokens:
            raise ValueError(
                f"context_tokens: {self.context_tokens} and max_tokens: {self.max_tokens}, which leaves no room for a "
                "prompt. Lower max_tokens."
            )
        return self

    @classmethod
    def from_mapping(cls, raw: dict[str, Any]) -> LLMSettings:
        """Raises: SettingsError for an unknown key, a wrong type, or a number out of range."""
        return read_config(cls, raw, "The settings of the LLM have", SettingsError)

    @property
    def sampling(self) -> list[Any]:
        """The settings that change what an answer may be; all others change only how it is fetched."""
        limit = None if self.max_tokens_key is None else self.max_tokens
        return [self.models, self.temperature, limit, self.extra_body]

    def filled(self, texts: dict[str, str]) -> dict[str, str]:
        """Headers or parameters of the address with the values of their environment variables.

        Raises:
            SettingsError: a variable is not set.
        """
        try:
            return {name: fill(text) for name, text in texts.items()}
        except UnsetVariable as error:
            raise SettingsError(
                f"The environment variable {error} that the calls to {self.shown_url} need is not set. Set it, or "
                "change `extra_headers` or `extra_query`."
            ) from None

    @property
    def room(self) -> int | None:
        """Tokens of the window that the longest completion leaves for a prompt; None where it is not known."""
        return self.context_tokens - self.max_tokens if self.context_tokens else None

    def price(self, model: str) -> Price | None:
        """USD for a model's tokens; nothing on this machine, unless only its maker serves it; None if not known."""
        if model in self.prices:
            return self.prices[model]
        if self.loopback and not CLOSED.search(model):
            return FREE
        return listed(model, self.url, self.room or MILLION) or (FREE if self.loopback else None)

    @property
    def url(self) -> str:
        """Where calls go."""
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        # Examples of servers show the address of a call, which people copy.
        return url.rstrip("/").removesuffix("/chat/completions").rstrip("/")

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
