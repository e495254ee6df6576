"""One call: the parameters that are sent, and the key under which its answer is recorded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ideator_rl.llm.prices import Price
from ideator_rl.llm.reply import max_prompt_tokens
from ideator_rl.llm.settings import LLMSettings
from ideator_rl.llm.wire import WireForm, merged
from ideator_rl.storage.ledger import Spent
from ideator_rl.text.display import encodable


@dataclass(frozen=True)
class Request:
    model: str
    messages: list[dict[str, str]]
    temperature: float
    max_tokens: int
    seed: int
    salt: str

    def key(self, settings: LLMSettings) -> str:
        """The key of a recorded answer: equal for calls that may share one, whichever way they are sent."""
        limit = None if settings.max_tokens_key is None else self.max_tokens
        return digest_of({**vars(self), "max_tokens": limit, "extra_body": settings.extra_body})

    def max_cost(self, price: Price) -> Spent:
        """An upper bound for one attempt."""
        prompt = max_prompt_tokens(self.messages)
        return Spent(usd=price.usd(prompt, self.max_tokens), tokens=prompt + self.max_tokens)

    @property
    def has_system(self) -> bool:
        return any(message["role"] == "system" for message in self.messages)

    def parameters(self, settings: LLMSettings, form: WireForm) -> dict[str, Any]:
        """The arguments of the openai client; the settings' `extra_body` replaces ours, and null leaves one out."""
        parameters: dict[str, Any] = {
            "model": self.model,
            "messages": merged(self.messages) if form.merge_system else self.messages,
            "temperature": self.temperature,
        }
        if form.seed:
            parameters["seed"] = self.seed
        if form.max_tokens_key is not None:
            parameters[form.max_tokens_key] = self.max_tokens
        if settings.stream:
            parameters["stream"] = True
            if form.stream_usage:
                parameters["stream_options"] = {"include_usage": True}
        # The openai client sends `extra_body` as it is; a parameter of the same name must not be sent twice.
        extra = settings.extra_body
        extra_body = {name: value for name, value in extra.items() if value is not None}
        return {name: value for name, value in parameters.items() if name not in extra} | {"extra_body": extra_body}


def make_request(
    settings: LLMSettings,
    messages: list[dict[str, str]],
    salt: str,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> Request:
    """The request of a call; its salt alone selects the model, by weight, and the seed."""
    digest = hashlib.sha256(salt.encode()).digest()
    return Request(
        model=_model_at(settings.models, int.from_bytes(digest[:8], "big") / 2**64),
        messages=[{"role": message["role"], "content": encodable(message["content"])} for message in messages],
        temperature=settings.temperature if temperature is None else temperature,
        max_tokens=settings.max_tokens if max_tokens is None else max_tokens,
        seed=int.from_bytes(digest[8:12], "big") >> 1,
        salt=salt,
    )


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _model_at(models: dict[str, float], share: float) -> str:
    """The model at `share`, in [0, 1), of the sorted models' cumulative weight."""
    left = share * sum(models.values())
    for name in sorted(models):
        if (left := left - models[name]) < 0:
            return name
    return max(models, key=lambda name: models[name])  # rounding left a rest above the last weight
