"""Prompts that carry past ideas and their results, fresh for every batch: the policy learns to improve on the known.

Guarantees: a share `free` of the groups, exact over batches, gets the environment's own prompt, and all of them do
before anything succeeded; the rest show the ideas that a strategy chose, each with its measured result.  The rows are
a function of (seed, batch, what the archive knows).  Past ideas are untrusted text: each is cut to a length and nothing
in it is filled in or interpreted.

The words are in `parents.md` and `explore.md` beside this module; an environment has its own by naming a prompt
`parents` or `explore` in its `env.yaml`.  Filled in: `{prompt}` (the environment's own), `{task}`, `{ideas}`,
`{metric}`, `{direction}` (lower or higher), `{baseline}`.
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
from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import FAILED, SUCCEEDED, Experiment
from ideator_rl.ideas import Idea, MalformedIdea, parse_idea
from ideator_rl.reward_buffer import RewardBuffer

PARENTS, EXPLORE = "parents", "explore"
"""Our words, of which an environment's prompts of these names take the place: do better than what is shown, or
something else."""
REASON_CHARS = 80
"""The most characters of what a failure is called."""
_PLACE = re.compile(r"\{(prompt|task|ideas|metric|direction|baseline)\}")


@dataclass(frozen=True)
class ArchivePrompts:
    """Gives a trainer its rows; see `rows`."""

    buffer: RewardBuffer
    strategy: Strategy
    free: float = 0.25
    """Share of groups with no past ideas in their prompt."""
    kind: str = "short"
    """Which of the environment's prompts asks for an idea."""
    chat: bool = False
    """Messages, for a model with a chat template, instead of text."""
    seed: int = 0
    idea_chars: int = 2000
    """The most characters of one past idea."""

    def __post_init__(self) -> None:
        if not 0 <= self.free <= 1:
            raise IdeatorError(f"The share of free prompts is {self.free}; expected a number from 0 to 1.")

    def rows(self, batch: int, groups: int) -> list[dict[str, Any]]:
        """One row a group: `prompt`, and `parents`, the experiment ids of the ideas that the prompt shows, as JSON."""
        archive, rng = archive_of(self.buffer), random.Random(f"{self.seed}:{batch}")
        free = set(rng.sample(range(groups), self._free(batch, groups)))
        chosen = iter(self.strategy.parents(archive, groups - len(free), rng))
        parents_by_group = [() if group in free else next(chosen) for group in range(groups)]
        return [
            {"prompt": self.prompt(parents, archive), "parents": [parent.id for parent in parents]}
            for parents in parents_by_group
        ]

    def prompt(self, shown: Sequence[Experiment], archive: Archive | None = None) -> Any:
        """The prompt, text or messages, that shows these experiments; the environment's own for none."""
        environment, preset = self.buffer.executor.environment, self.buffer.config.preset
        text = environment.prompt(preset, self.kind)
        if shown:
            known = archive or archive_of(self.buffer)
            results = [(record.idea, outcome(record, known)) for record in shown]
            baseline = known.baseline.metric if known.baseline else None
            text = parent_prompt(environment, text, results, baseline, self.idea_chars)
        return [{"role": "user", "content": text}] if self.chat else text

    def _free(self, batch: int, groups: int) -> int:
        """How many groups of a batch are free: whole numbers that add up to the share over batches."""
        until = [math.floor(self.free * groups * count + 1e-9) for count in (batch, batch + 1)]
        return until[1] - until[0]


def parent_prompt(
    environment: Environment,
    own: str,
    shown: Sequence[tuple[str, float | str | None]],
    baseline: float | None = None,
    most: int = 2000,
    words: str = PARENTS,
) -> str:
    """The text of a prompt that shows ideas.

    Args:
        own: the environment's prompt for an idea.
        shown: ideas, each with its metric; None if that is unknown, and a text for one that has none, such as
            `failed: …`.
        baseline: its metric; None if that is unknown.
        most: characters of one idea.
        words: `parents` or `explore`.
    """
    template = Path(__file__).with_name(f"{words}.md")
    if words in environment.prompt_files:
        template = environment.root / environment.prompt_files[words]
    ideas = [
        f"Idea {number}, {_result(environment, value, baseline)}:\n{cut(idea, most)}"
        for number, (idea, value) in enumerate(shown, 1)
    ]
    places = {
        "prompt": own,
        "task": environment.task,
        "ideas": "\n\n".join(ideas),
        "metric": environment.metric.name,
        "direction": "lower" if environment.metric.direction == "min" else "higher",
        "baseline": "" if baseline is None else f", and the baseline has {baseline:.5g}",
    }
    # In one pass: what an idea or a codebase holds in braces is not filled in.
    return _PLACE.sub(lambda place: places[place[1]], template.read_text(encoding="utf-8")).strip()


def outcome(record: Experiment, archive: Archive) -> float | str | None:
    """What came of an idea: its mean metric, or how it failed; None where it succeeded and its metric is unknown."""
    value = archive.metric(record)
    if value is not None or record.status == SUCCEEDED:
        return value
    kind = " ".join(str((record.error or {}).get("kind", "")).split())[:REASON_CHARS]
    named = [word.replace("_", " ") for word in dict.fromkeys((record.status, kind)) if word not in ("", FAILED)]
    return ": ".join(["failed", *named])


def _result(environment: Environment, value: float | str | None, baseline: float | None) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return f"{environment.metric.name} unknown"
    said = f"{environment.metric.name} {value:.5g}"
    if baseline is None:
        return said
    return f"{said}, {'better' if environment.metric.better(value, baseline) else 'not better'} than the baseline"


def cut(idea: str, most: int) -> str:
    """An idea in its form, its sections cut so that they have at most so many characters together."""
    try:
        parsed = parse_idea(idea)
    except MalformedIdea:
        return _cut(idea, most)
    experiment = _cut(parsed.experiment, max(most // 2, most - len(parsed.changes)))
    return Idea(experiment, _cut(parsed.changes, max(most // 2, most - len(experiment)))).text


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(0, most - 2)].rstrip() + " …"
