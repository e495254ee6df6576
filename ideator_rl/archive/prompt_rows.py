"""The rows that a trainer samples from: a prompt, and the columns from which `execution_reward` opens its buffer.

Written to a file, they let the stock `trl grpo` command train on execution rewards.
"""

from __future__ import annotations

from typing import Any

from ideator_rl.environments.environment import Environment
from ideator_rl.llm.prompt_form import as_messages
from ideator_rl.reward_buffer import BufferConfig


def prompt_rows(
    environment: Environment, config: BufferConfig, count: int, kind: str = "short", chat: bool = False
) -> list[dict[str, Any]]:
    """`count` equal rows; a sampler needs as many as a generation batch has prompts.

    Args:
        kind: which of the environment's prompts.
        chat: messages, for a model with a chat template, instead of text.
    """
    prompt = prompt_of(environment, config.preset, kind, chat)
    return [{"prompt": prompt, **config.columns()} for _ in range(count)]


def prompt_of(environment: Environment, preset: str, kind: str = "short", chat: bool = False) -> Any:
    """One of the environment's prompts, as text or as messages."""
    text = environment.prompt(preset, kind)
    return as_messages(text) if chat else text
