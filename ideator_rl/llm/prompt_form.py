"""How a prompt becomes tokens: in the model's chat template where it has one, with the recipe's arguments of it.

Warm-up, training, imitation, the ideator `local`, an export's card and the benchmarks ask through this one class: a
model that was trained without its thinking mode is asked without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ideator_rl.llm.model_lookup import ModelError, first_line


@dataclass(frozen=True)
class PromptForm:
    """The form of a model's prompts."""

    tokenizer: Any
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """`chat_template_kwargs`: arguments of the chat template, such as {enable_thinking: false}."""

    @property
    def is_chat(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self.tokenizer.chat_template)

    def prompt(self, text: str) -> Any:
        """A prompt as a dataset's row has it: messages for a model with a chat template, else the text."""
        return as_messages(text) if self.is_chat else text

    def text(self, prompt: Any) -> str:
        """The text that the model reads: of messages, with the beginning of its answer.

        Raises:
            ModelError: the template refuses the messages or its arguments.
        """
        if isinstance(prompt, str):
            return prompt
        return self._rendered(prompt, add_generation_prompt=True)

    def ids(self, prompt: Any) -> list[int]:
        """Token ids of a prompt, text or messages, as the trainer makes them.

        Raises:
            ModelError: as `text`.
        """
        # A template writes the special tokens itself.
        special = isinstance(prompt, str)
        ids: list[int] = self.tokenizer(self.text(prompt), add_special_tokens=special).input_ids
        return ids

    def length(self, prompt: Any, completion: str) -> int:
        """Tokens of a training row: prompt, completion and its end."""
        if isinstance(prompt, str):
            return len(self.tokenizer(prompt + completion).input_ids) + 1  # the end of text
        text = self._rendered([*prompt, {"role": "assistant", "content": completion}])
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _rendered(self, messages: Any, **how: Any) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, **how, **self.template_arguments)
        # Templates are programs of other people: jinja2 errors, and those of the functions they call.
        except Exception as error:
            arguments = f" with chat_template_kwargs {dict(self.template_arguments)}" if self.template_arguments else ""
            raise ModelError(
                f"The model's chat template cannot write the prompt{arguments}: {first_line(error)}"
            ) from error
        return text


def as_messages(prompt: str) -> list[dict[str, str]]:
    """A text prompt as a chat of one message."""
    return [{"role": "user", "content": prompt}]


def read_template_arguments(value: Any) -> dict[str, Any]:
    """The arguments of a recipe's `chat_template_kwargs`: a mapping, or its JSON as TRL takes it; None for none.

    Raises:
        ModelError: neither of them.
    """
    arguments = value
    if isinstance(value, str):
        try:
            arguments = json.loads(value)
        except ValueError:
            arguments = value
    if arguments is not None and not isinstance(arguments, dict):
        raise ModelError(f"chat_template_kwargs is {value!r}. Expected a mapping such as {{enable_thinking: false}}.")
    return arguments or {}
