"""The text of sampled tokens, so that readers of completions can tell a model's thoughts from its answer.

Decoding loses two marks of thoughts: those that are special tokens (`[THINK]`), and the opening mark at the end of the
prompt, without which a completion that was cut inside its thoughts looks like an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ideator_rl.llm.prompt_form import PromptForm
from ideator_rl.text.thoughts import has_marks, opening_mark, split_thoughts


def sampled_text(tokenizer: Any, ids: Sequence[int], text: str, prompt: str, is_cut: bool) -> str:
    """The text of a completion with the marks of its thoughts.

    Args:
        ids: of the completion.
        text: decoded without special tokens.
        prompt: as the model read it.
        is_cut: whether the completion reached its greatest length.
    """
    special: list[str] = tokenizer.all_special_tokens
    if any(map(has_marks, special)):
        text = tokenizer.decode(ids, skip_special_tokens=False)
        for token in special:
            text = text if has_marks(token) else text.replace(token, "")
    # A completion that ended by itself is an answer, even where a model skips the thoughts that its template opens.
    opening = opening_mark(prompt) if is_cut else ""
    return opening + text if opening and not split_thoughts(text).spans else text


def marked_completions(
    form: PromptForm,
    rows: Sequence[dict[str, Any]],
    completions: Sequence[Any],
    ids: Sequence[Sequence[int]],
    limit: int,
) -> list[Any]:
    """The completions of a trainer, texts or messages, with the marks of their thoughts that decoding lost.

    Args:
        form: of the prompts, as the trainer's.
        rows: N rows with a `prompt`.
        ids: of the N completions.
        limit: tokens of a completion, at most.
    """

    def marked(prompt: Any, completion: Any, tokens: Sequence[int]) -> Any:
        message = completion[-1] if isinstance(completion, list) and completion else {}
        text = completion if isinstance(completion, str) else message.get("content")
        if not isinstance(text, str):
            return completion
        is_cut = len(tokens) >= limit
        text = sampled_text(form.tokenizer, tokens, text, form.text(prompt) if is_cut else "", is_cut)
        return text if isinstance(completion, str) else [*completion[:-1], {**message, "content": text}]

    return [marked(row["prompt"], *row_texts) for row, *row_texts in zip(rows, completions, ids, strict=True)]
