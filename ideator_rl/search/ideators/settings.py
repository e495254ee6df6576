"""What the settings of the ideators `chat` and `local` have in common."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Config, Count, CountOrZero, Flag
from ideator_rl.patch.shown_files import FILES_TOKENS

AS_TRAINED_SHOWN, IN_FULL_SHOWN = 2, 100
"""Past ideas in a prompt where `max_shown` is null: `prompt_parents` of training's recipes, and the paper's number."""


@dataclass(frozen=True, kw_only=True)
class PromptStyle(Config):
    """How a question becomes a prompt."""

    as_trained: Flag = False
    """Ask with exactly the prompts of warm-up and training, one idea per completion."""
    max_shown: CountOrZero | None = None
    """Past ideas in a prompt, at most; null for 2 as trained, else 100."""
    idea_chars: Count = 2000
    """Characters of one past idea, at most; of its description, where ideas inherit code."""
    code_tokens: Count = FILES_TOKENS
    """Tokens of code in a prompt, at most: the files, and where ideas inherit code the patches of past ideas."""

    @property
    def shown_limit(self) -> int:
        """Past ideas in a prompt, at most."""
        if self.max_shown is not None:
            return self.max_shown
        return AS_TRAINED_SHOWN if self.as_trained else IN_FULL_SHOWN
