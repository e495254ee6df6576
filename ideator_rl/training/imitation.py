"""Elite imitation: with the policy loss, the likelihood of the best ideas so far (as in EvoTune, arXiv 2504.05108).

The loss is the mean negative log-likelihood of a completion's tokens, end token included, averaged over examples.  The
trainer multiplies it by a weight and adds it once an optimizer step, in parts: each micro-step has a share of the
examples, at most as many as completions.  The examples of a batch are drawn at rank 0 and stored in its `TrainBatch`,
so they are the same at every rank, and in a run that repeats the batch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ideator_rl.archive.archive import archive_of, elites_for_imitation
from ideator_rl.archive.bases import NONE
from ideator_rl.archive.parents import get_strategy
from ideator_rl.archive.prompts import ArchivePrompts
from ideator_rl.llm.prompt_form import PromptForm, as_messages
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.idea_context import prompt_of
from ideator_rl.text.thoughts import has_marks
from ideator_rl.training.recipe.recipe import Recipe

EXAMPLES = 8
"""Ideas imitated with a batch, at most."""
Examples = list[dict[str, Any]]
"""Each with `prompt` (text or messages) and `completion` (text)."""
Draw = Callable[[int], Examples]
"""Returns the examples for a batch, by its index; none while no idea is worth imitating."""
LogProbs = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""Of ids and attention mask (B, L) and a number K: log-probs of the last K tokens of each row, (B, K)."""


@dataclass(frozen=True)
class EliteExamples:
    """Draws examples: the best idea of a kind of change, with its own thought.

    Every other one answers a prompt that shows the ideas it descends from, where these are known.  Where ideas inherit
    code, each answers the prompt that it was written for: its edits fit the code of that prompt alone.
    """

    buffer: RewardBuffer
    prompts: ArchivePrompts
    cells: int
    """Kinds of change to draw from, the best first."""
    seed: int
    keeps_prompts: bool = False
    """Ideas inherit code, so that their prompts are in the journal."""

    def __call__(self, batch: int) -> Examples:
        archive = archive_of(self.buffer)
        elites = elites_for_imitation(archive, self.cells)
        # Seeded by the batch, so that a repeated batch draws the same examples from the same archive.
        drawn = random.Random(f"{self.seed}:imitation:{batch}").sample(elites, min(EXAMPLES, len(elites)))
        examples: Examples = []
        for number, elite in enumerate(drawn):
            if completion := self.buffer.journal.completion_of(elite.id):
                text = prompt_of(self.buffer.journal, elite.id) if self.keeps_prompts else None
                if text is not None:
                    prompt = as_messages(text) if self.prompts.chat else text
                else:
                    prompt = self.prompts.prompt(archive.parents(elite) if number % 2 else [], archive)
                examples.append({"prompt": prompt, "completion": completion})
        return examples


def elite_examples(recipe: Recipe, buffer: RewardBuffer, chat: bool) -> EliteExamples | None:
    """The best ideas so far, if the recipe has an `imitation_weight`."""
    ours = recipe.ours
    if not ours.imitation_weight:
        return None
    prompts = ArchivePrompts(buffer, get_strategy("top_k"), kind=ours.prompts, chat=chat)
    return EliteExamples(buffer, prompts, ours.imitation_cells, recipe.seed, ours.inherit != NONE)


def share_of(examples: Examples, step: int, args: Any) -> tuple[Examples, float]:
    """The examples of a micro-step, and their share of those of its optimizer step.

    Args:
        step: number of the micro-step in the training.
        args: TRL's GRPOConfig.  A micro-step has no more examples than completions: its memory would not hold more.
    """
    accumulated = args.gradient_accumulation_steps
    used = examples[: args.per_device_train_batch_size * accumulated]
    share = used[step % accumulated :: accumulated]
    return share, len(share) / max(1, len(used))


def imitation_loss(
    log_probs: LogProbs, form: PromptForm, examples: Examples, device: torch.device, max_tokens: int
) -> torch.Tensor:
    """Negative log-likelihood of the examples' completions.

    Args:
        log_probs: the trainer's own, which computes no logits of prompt tokens: with code in the prompts and a large
            vocabulary these take tens of gigabytes.
        form: of the prompts, as the trainer's.
        max_tokens: of a completion; a longer one is cut, and then has no end token.
    """
    pairs = [_token_ids(form, example, max_tokens) for example in examples]
    prompt_length = max(len(prompt) for prompt, _ in pairs)
    completion_length = max(len(completion) for _, completion in pairs)
    # As TRL pads: prompts on the left, completions on the right, so that all completions start at one position.
    shape = (len(pairs), prompt_length + completion_length)
    ids = torch.full(shape, form.tokenizer.pad_token_id, device=device)
    attention = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(pairs):
        first, end = prompt_length - len(prompt), prompt_length + len(completion)
        ids[row, first:end] = torch.tensor(prompt + completion, device=device)
        attention[row, first:end] = 1
    mask = attention[:, prompt_length:]
    nll = -log_probs(ids, attention, completion_length)
    return ((nll * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


def _token_ids(form: PromptForm, example: dict[str, Any], max_tokens: int) -> tuple[list[int], list[int]]:
    """The ids of prompt and completion.

    A special token that the completion spells out is text, as it was when it was sampled; only marks of thoughts are
    special tokens there, where the tokenizer has such.
    """
    tokenizer = form.tokenizer
    marks = [token for token in tokenizer.all_special_tokens if has_marks(token)]
    pieces = (
        re.split(f"({'|'.join(map(re.escape, marks))})", example["completion"]) if marks else [example["completion"]]
    )
    completion_ids: list[int] = []
    for piece in filter(None, pieces):
        if piece in marks:
            completion_ids.append(tokenizer.convert_tokens_to_ids(piece))
        else:
            completion_ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return form.ids(example["prompt"]), [*completion_ids, tokenizer.eos_token_id][:max_tokens]
