"""What a run's own finds add to its training: prompts that show past ideas, and the best ideas to imitate."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ideator_rl.archive.archive import archive_of, elites_for_imitation
from ideator_rl.archive.parents import get_strategy
from ideator_rl.archive.prompts import ArchivePrompts
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.training.imitation import Examples
from ideator_rl.training.recipe.recipe import Recipe

EXAMPLES = 8
"""Ideas imitated beside a batch."""


@dataclass(frozen=True)
class Elites:
    """Draws examples: the best idea of a kind of change, with its own thought; every other one as an answer to the
    ideas it descends from, where that is known."""

    buffer: RewardBuffer
    prompts: ArchivePrompts
    cells: int
    seed: int

    def __call__(self, batch: int) -> Examples:
        archive = archive_of(self.buffer)
        best = elites_for_imitation(archive, self.cells)
        drawn = random.Random(f"{self.seed}:imitation:{batch}").sample(best, min(EXAMPLES, len(best)))
        examples: Examples = []
        for number, elite in enumerate(drawn):
            if completion := self.buffer.journal.completion_of(elite.id):
                parents = archive.parents(elite) if number % 2 else []
                examples.append({"prompt": self.prompts.prompt(parents, archive), "completion": completion})
        return examples


def archive_prompts(recipe: Recipe, buffer: RewardBuffer, chat: bool) -> ArchivePrompts | None:
    """Prompts that carry past ideas, if the recipe wants them.

    Raises:
        UnknownName: there is no such strategy.
        IdeatorError: it does not take the recipe's numbers.
    """
    ours = recipe.ours
    if ours.prompt_strategy is None:
        return None
    strategy = get_strategy(ours.prompt_strategy, shown=ours.prompt_parents, elites=ours.prompt_elites)
    return ArchivePrompts(buffer, strategy, ours.free_prompts, ours.prompts, chat, recipe.seed)


def elites(recipe: Recipe, buffer: RewardBuffer, chat: bool) -> Elites | None:
    """The best ideas found, to imitate, if the recipe gives that a weight."""
    ours = recipe.ours
    if not ours.imitation_weight:
        return None
    prompts = ArchivePrompts(buffer, get_strategy("top_k"), kind=ours.prompts, chat=chat)
    return Elites(buffer, prompts, ours.imitation_cells, recipe.seed)
