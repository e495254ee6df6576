"""Elite imitation: beside the policy loss, the likelihood of the best ideas found (EvoTune, 2504.05108, is kin).

The loss is the mean negative log-likelihood of a completion's tokens, end token included, averaged over examples.  The
trainer weighs it and adds it once an optimizer step; the examples of a batch are drawn in the first process, stand in
the batch's closing, and are the same at every rank and in a run that repeats the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Examples = list[dict[str, Any]]
"""Each with `prompt` (text or messages) and `completion` (text)."""
Draw = Callable[[int], Examples]
"""Examples for a batch, by its index; none while nothing is worth imitating."""


def imitation_loss(model: Any, tokenizer: Any, examples: Examples, device: torch.device, longest: int) -> torch.Tensor:
    """Negative log-likelihood of the examples' completions.

    Args:
        longest: tokens of a completion; what is longer is cut, without an end token.
    """
    pairs = [_tokens(tokenizer, example, longest) for example in examples]
    length = max(len(prompt) + len(completion) for prompt, completion in pairs)
    ids = torch.full((len(pairs), length), tokenizer.pad_token_id, device=device)
    attention, learned = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion, device=device)
        attention[row, :end] = 1
        learned[row, len(prompt) : end] = 1
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")
    mask = learned[:, 1:]
    return ((nll * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


def _tokens(tokenizer: Any, example: dict[str, Any], longest: int) -> tuple[list[int], list[int]]:
    prompt = example["prompt"]
    if isinstance(prompt, str):
        before = tokenizer(prompt)["input_ids"]
    else:
        given = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
        before = given["input_ids"]
    after = [*tokenizer(example["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return list(before), after[:longest]
