"""Elite imitation: with the policy loss, the likelihood of the best ideas so far (as in EvoTune, arXiv 2504.05108).

The loss is the mean negative log-likelihood of a completion's tokens, end token included, averaged over examples.  The
trainer multiplies it by a weight and adds it once an optimizer step.  The examples of a batch are drawn at rank 0 and
stored in its `TrainBatch`, so they are the same at every rank, and in a run that repeats the batch.
"""

from __future__ import annotations

import random
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
from ideator_rl.training.recipe.recipe import Recipe

EXAMPLES = 8
"""Ideas imitated with a batch, at most."""
Examples = list[dict[str, Any]]
"""Each with `prompt` (text or messages) and `completion` (text)."""
Draw = Callable[[int], Examples]
"""Returns the examples for a batch, by its index; none while no idea is worth imitating."""


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


def imitation_loss(
    model: Any, form: PromptForm, examples: Examples, device: torch.device, max_tokens: int
) -> torch.Tensor:
    """Negative log-likelihood of the examples' completions.

    Args:
        form: of the prompts, as the trainer's.
        max_tokens: of a completion; a longer one is cut, and then has no end token.
    """
    pairs = [_token_ids(form, example, max_tokens) for example in examples]
    length = max(len(prompt) + len(completion) for prompt, completion in pairs)
    # Padded on the right: with causal attention, padding there changes no other position.
    ids = torch.full((len(pairs), length), form.tokenizer.pad_token_id, device=device)
    attention, learned = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion, device=device)
        attention[row, :end] = 1
        learned[row, len(prompt) : end] = 1
    # The logits at a position predict the next token, so targets and mask are shifted by one.
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")
    mask = learned[:, 1:]
    return ((nll * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


def _token_ids(form: PromptForm, example: dict[str, Any], max_tokens: int) -> tuple[list[int], list[int]]:
    """The ids of prompt and completion."""
    completion_ids = form.tokenizer(example["completion"], add_special_tokens=False)["input_ids"]
    return form.ids(example["prompt"]), [*completion_ids, form.tokenizer.eos_token_id][:max_tokens]
