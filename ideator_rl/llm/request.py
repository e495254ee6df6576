"""One call: what is sent, and the name under which it is recorded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ideator_rl.llm.prices import Price
from ideator_rl.llm.reply import clean, most_prompt_tokens
from ideator_rl.llm.settings import LLMSettings
from ideator_rl.storage.ledger import Spent

NEW_NAME = ("openai.com", "openai.azure.com")
"""Hosts where max_tokens is called max_completion_tokens, and the old name refused for reasoning models."""


@dataclass(frozen=True)
class Request:
    model: str
    messages: list[dict[str, str]]
    temperature: float
    max_tokens: int
    seed: int
    salt: str

    def key(self, extra_body: dict[str, Any]) -> str:
        """The same for calls that may share an answer."""
        return digest_of({**vars(self), "extra_body": extra_body})

    def most(self, price: Price) -> Spent:
        """The most that one try may cost."""
        prompt = most_prompt_tokens(self.messages)
        return Spent(usd=price.usd(prompt, self.max_tokens), tokens=prompt + self.max_tokens)

    def parameters(self, settings: LLMSettings) -> dict[str, Any]:
        """What the openai client is called with."""
        new = any(f".{settings.host}".endswith(f".{host}") for host in NEW_NAME)
        ours = {
            "model": self.model,
            "messages": self.messages,
            "temperature": self.temperature,
            "max_completion_tokens" if new else "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        extra = settings.extra_body
        left = {name: value for name, value in extra.items() if value is not None}
        return {name: value for name, value in ours.items() if name not in extra} | {"extra_body": left}


def make_request(
    settings: LLMSettings,
    messages: list[dict[str, str]],
    salt: str,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> Request:
    """The salt picks the model, by weight, and the seed: the same ones whenever it is asked."""
    digest = hashlib.sha256(salt.encode()).digest()
    return Request(
        model=_picked(settings.models, int.from_bytes(digest[:8], "big") / 2**64),
        messages=[{"role": one["role"], "content": clean(one["content"])} for one in messages],
        temperature=settings.temperature if temperature is None else temperature,
        max_tokens=settings.max_tokens if max_tokens is None else max_tokens,
        seed=int.from_bytes(digest[8:12], "big") >> 1,
        salt=salt,
    )


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _picked(models: dict[str, float], share: float) -> str:
    """The model at `share` in [0, 1) of the weights laid end to end."""
    left = share * sum(models.values())
    for name in sorted(models):
        if (left := left - models[name]) < 0:
            return name
    return max(models, key=lambda name: models[name])  # rounding left a crumb
