"""Prompts that show past ideas and their results, new for every batch: the policy learns to improve on them.

Guarantees: a share `free` of the groups, exact over batches, gets the environment's own prompt; before the first
success all groups do.  The others show the ideas that a strategy picked, each with its result.  The rows are a function
of seed, batch and archive.  Past ideas are untrusted text: each is cut to a length, braces in it are not
filled in, and special tokens of chat templates lose their brackets.

The templates are `parents.md` and `explore.md` in this folder; an environment brings its own as the prompts `parents`
and `explore` of its `env.yaml`.  Fields: `{prompt}` (the environment's own), `{task}`, `{ideas}`, `{metric}`,
`{direction}` (lower or higher), `{baseline}`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.archive.archive import Archive, archive_of
from ideator_rl.archive.parents import Strategy
from ideator_rl.config.reader import read_text
from ideator_rl.environments.environment import Environment
from ideator_rl.environments.feedback import feedback_of
from ideator_rl.environments.preset import FEEDBACK_NONE, FEEDBACK_STATUS
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import FAILED, SUCCEEDED, Experiment
from ideator_rl.ideas import Idea, MalformedIdea, parse_idea
from ideator_rl.llm.prompt_form import as_messages
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.text.special_tokens import without_special_tokens

PARENTS, EXPLORE = "parents", "explore"
"""Templates, here or in an environment: do better than the shown ideas, or propose something different."""
REASON_CHARS = 80
"""Characters of a failure's error kind, at most."""
_FIELD = re.compile(r"\{(prompt|task|ideas|metric|direction|baseline)\}")


@dataclass(frozen=True)
class ArchivePrompts:
    """Makes the rows of a trainer's batches."""

    buffer: RewardBuffer
    strategy: Strategy
    free: float = 0.25
    """Share of the groups whose prompt shows no past ideas."""
    kind: str = "short"
    """Which of the environment's prompts asks for an idea."""
    chat: bool = False
    """Messages, for a model with a chat template, instead of text."""
    seed: int = 0
    idea_chars: int = 2000
    """Characters of one past idea, at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.free <= 1:
            raise IdeatorError(f"The share of free prompts is {self.free}; expected a number from 0 to 1.")

    def rows(self, batch: int, groups: int) -> list[dict[str, Any]]:
        """One row for each group: `prompt`, and `parents`, the experiment ids of the shown ideas, as JSON values."""
        archive, rng = archive_of(self.buffer), random.Random(f"{self.seed}:{batch}")
        # Which groups are free is drawn, how many is exact.
        free = set(rng.sample(range(groups), self._free(batch, groups)))
        picked = iter(self.strategy.parents(archive, groups - len(free), rng))
        parents_by_group = [() if group in free else next(picked) for group in range(groups)]
        return [self._row(parents, archive) for parents in parents_by_group]

    def prompt(self, parents: Sequence[Experiment], archive: Archive | None = None) -> Any:
        """The prompt, as text or messages, that shows these experiments; without any, the environment's own."""
        text = self._text(parents, archive or archive_of(self.buffer))
        return as_messages(text) if self.chat else text

    def _row(self, parents: Sequence[Experiment], archive: Archive) -> dict[str, Any]:
        return {"prompt": self.prompt(parents, archive), "parents": [parent.id for parent in parents]}

    def _text(self, parents: Sequence[Experiment], archive: Archive) -> str:
        environment = self.buffer.executor.environment
        text, level = environment.prompt(self.buffer.config.preset, self.kind), environment.feedback
        if not parents:
            return text
        results = [(record.idea, outcome(record, archive, level)) for record in parents]
        baseline = archive.baseline.metric if archive.baseline else None
        feedback = [feedback_of(record, level, self.idea_chars) for record in parents]
        return parent_prompt(environment, text, results, baseline, self.idea_chars, feedback=feedback)

    def _free(self, batch: int, groups: int) -> int:
        """How many groups of a batch are free: integers that add up to the share over batches."""
        before, after = (math.floor(self.free * groups * count + 1e-9) for count in (batch, batch + 1))
        return after - before


def parent_prompt(
    environment: Environment,
    own: str,
    past_ideas: Sequence[tuple[str, float | str | None]],
    baseline: float | None = None,
    idea_chars: int = 2000,
    template_name: str = PARENTS,
    feedback: Sequence[str] = (),
) -> str:
    """The text of a prompt that shows ideas.

    Args:
        own: the environment's prompt for an idea.
        past_ideas: each with its metric; None for an unknown metric, a text such as `failed: …` for a failure.
        baseline: its metric; None if unknown.
        idea_chars: characters of one idea, at most.
        template_name: `parents` or `explore`.
        feedback: lines below each idea, as `feedback_of` returns them; empty for none.
    """
    template = Path(__file__).with_name(f"{template_name}.md")
    if template_name in environment.prompt_files:
        template = environment.root / environment.prompt_files[template_name]
    ideas = []
    for index, (idea, value) in enumerate(past_ideas):
        lines = feedback[index] if index < len(feedback) else ""
        shown = without_special_tokens(cut(idea, idea_chars))
        head = f"Idea {index + 1}, {_result(environment, value, baseline)}:\n{shown}"
        ideas.append(f"{head}\n{lines}" if lines else head)
    values = {
        "prompt": own,
        "task": environment.task,
        "ideas": "\n\n".join(ideas),
        "metric": environment.metric.name,
        "direction": "lower" if environment.metric.direction == "min" else "higher",
        "baseline": "" if baseline is None else f", and the baseline has {baseline:.5g}",
    }
    # In one pass, so that braces in an idea or a task are not filled in.
    return _FIELD.sub(lambda match: values[match[1]], read_text(template)).strip()


def outcome(record: Experiment, archive: Archive, level: str = FEEDBACK_STATUS) -> float | str | None:
    """The mean metric of an idea, or how it failed; None for a success whose metric is unknown.

    Args:
        level: the environment's `feedback`; at `none`, a failure has no reason.
    """
    value = archive.metric(record)
    # The mean over replicates, not this run's value: the archive knows them all.
    if value is not None or record.status == SUCCEEDED:
        return value
    if level == FEEDBACK_NONE:
        return FAILED
    kind = " ".join(str(record.error_kind).split())[:REASON_CHARS]
    reasons = [text.replace("_", " ") for text in dict.fromkeys((record.status, kind)) if text not in ("", FAILED)]
    return ": ".join(["failed", *reasons])


def _result(environment: Environment, value: float | str | None, baseline: float | None) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return f"{environment.metric.name} unknown"
    result = f"{environment.metric.name} {value:.5g}"
    if baseline is None:
        return result
    return f"{result}, {'better' if environment.metric.better(value, baseline) else 'not better'} than the baseline"


def cut(idea: str, chars: int) -> str:
    """The idea in its form, its sections cut to at most `chars` characters together."""
    try:
        parsed = parse_idea(idea)
    except MalformedIdea:
        return _cut(idea, chars)
    # A short section leaves its room to the other one.
    experiment = _cut(parsed.experiment, max(chars // 2, chars - len(parsed.changes)))
    return Idea(experiment, _cut(parsed.changes, max(chars // 2, chars - len(experiment)))).text


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: max(0, chars - 2)].rstrip() + " …"
