"""Writes the prompt for a question: which past ideas it shows, and how it is shortened to fit the model's context.

In full     the environment's prompt, then the shown ideas with their results and failures, the ideas to avoid, and how
            many ideas are wanted
As trained  exactly the two prompts of `ideator-rl sft` and of the trainer: the environment's own, or the one that shows
            parents, for one idea; small models answer nothing else

Of a question that shows more than `max_shown` ideas, every completion sees a random draw of its own.  Past ideas are
untrusted text: each is cut to a length, and braces in it are not filled in.  A prompt that does not fit the context is
first cut idea by idea, then the last ideas are left out, with one warning.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.bases import NONE, Bases, own_prompt
from ideator_rl.archive.code_prompt import CodePrompt
from ideator_rl.archive.prompts import EXPLORE as EXPLORE_PROMPT
from ideator_rl.archive.prompts import PARENTS, outcome, parent_prompt
from ideator_rl.environments.feedback import feedback_of
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.search.ideator import EXPLORE, Answer, Ask, Subject
from ideator_rl.search.ideators.settings import PromptStyle
from ideator_rl.storage.idea_context import Base, IdeaContext

SHARES = (0.75, 0.5, 0.35, 0.2, 0.1, 0.0)
"""Shares of the shown and avoided ideas that are tried in turn once shorter ideas did not suffice."""
LEAST_CHARS, AVOID_CHARS = 250, 200

_templates = Templates(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,
)


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the past ideas that it shows."""

    text: str
    past_ideas: tuple[Experiment, ...]
    parents: tuple[Experiment, ...]
    """The shown ideas that its answers improve on."""
    base_of: Callable[[str], Base | None] = lambda text: None
    """The codebase that an answer changes; None for the baseline."""

    def answer(self, text: str) -> Answer:
        """A completion with its parents and its context."""
        return Answer(text, self.parents, IdeaContext(self.text, self.base_of(text)))


@dataclass
class PromptWriter:
    """Writes prompts about a subject for a model with a limited context.

    The environment's own prompt is never cut: a model that cannot read it is of no use here.
    """

    subject: Subject
    style: PromptStyle
    size: Callable[[str], int] = len
    """Size of a text, in the unit of `room`."""
    room: int | None = None
    """Size of a prompt, at most; None where the limit is unknown."""
    _has_warned: bool = field(default=False, repr=False)

    def write(self, ask: Ask, archive: Archive, count: int = 1, index: int = 0, share: float = 1.0) -> Prompt:
        """The prompt that asks for `count` of a question's ideas.

        Args:
            index: of this completion or call among those that the question is split into; seeds the draw of ideas.
            share: of the room, or of the full prompt's size; below 1 after a server refused the prompt as too long.
        """
        past_ideas = self._draw_shown(ask, index)
        full_text = self._text(ask, archive, past_ideas, count, self.style.idea_chars)
        size = self.size(full_text)
        # A server that refused the prompt counts other tokens than `size`: its room is a share of what was sent.
        room = self.room if share == 1.0 else int(share * min(size, self.room or size))
        if room is None or size <= room or not (past_ideas or ask.avoid):
            return self._prompt(full_text, past_ideas, ask, archive)
        # Too long: the first of ever shorter prompts that fits, or the shortest.
        for chars, kept_share in self._reductions():
            shorter = replace(ask, avoid=_newest(ask.avoid, kept_share))
            remaining = past_ideas[: round(kept_share * len(past_ideas))]
            text = self._text(shorter, archive, remaining, count, chars)
            if self.size(text) <= room:
                break
        self._warn_once(len(past_ideas), chars, len(remaining))
        return self._prompt(text, remaining, ask, archive)

    def _draw_shown(self, ask: Ask, index: int) -> tuple[Experiment, ...]:
        """The past ideas of one prompt; as trained, a prompt shows only ideas to improve on."""
        if self.style.as_trained and not ask.descends:
            return ()
        if len(ask.shown) <= self.style.shown_limit:
            return ask.shown
        # Every completion draws for itself, so that one question explores several combinations of parents.
        rng = random.Random(f"{ask.salt}:{index}")
        return tuple(ask.shown[i] for i in sorted(rng.sample(range(len(ask.shown)), self.style.shown_limit)))

    def _reductions(self) -> list[tuple[int, float]]:
        """Characters of an idea, and the share of ideas that is shown, in the order in which they are tried."""
        lengths = [max(LEAST_CHARS, self.style.idea_chars >> halvings) for halvings in range(1, 4)]
        return [(chars, 1.0) for chars in lengths] + [(lengths[-1], share) for share in SHARES]

    def _text(self, ask: Ask, archive: Archive, past_ideas: Sequence[Experiment], count: int, chars: int) -> str:
        text = self._own_prompt
        # As trained, a prompt that explores shows no ideas, and the parents' template is the only one.
        if past_ideas and ask.descends and self._bases.inherit != NONE:
            base, budget = self._bases.for_prompt(past_ideas, archive), self.style.code_tokens
            # A prompt that must be shorter has less code too.
            budget = budget * chars // self.style.idea_chars
            text = CodePrompt(self._bases, self.subject.kind).text(past_ideas, archive, base, budget, chars)
        elif past_ideas:
            environment, level = self.subject.environment, self.subject.environment.feedback
            results = [(record.idea, outcome(record, archive, level)) for record in past_ideas]
            feedback = [feedback_of(record, level, chars) for record in past_ideas]
            baseline = archive.baseline.metric if archive.baseline else None
            template = EXPLORE_PROMPT if ask.kind == EXPLORE and not self.style.as_trained else PARENTS
            text = parent_prompt(environment, text, results, baseline, chars, template, feedback)
        if self.style.as_trained:
            return text
        request = _templates.get_template("more.md.j2").render(count=count, avoid=list(map(one_line, ask.avoid)))
        return f"{text}\n\n{request}".strip()

    def _prompt(self, text: str, past_ideas: tuple[Experiment, ...], ask: Ask, archive: Archive) -> Prompt:
        parents = past_ideas if ask.descends else ()
        return Prompt(text, past_ideas, parents, lambda answer: self._bases.of_answer(answer, parents, archive))

    @cached_property
    def _bases(self) -> Bases:
        return Bases(self.subject.environment, self.subject.preset, self.subject.inherit)

    @cached_property
    def _own_prompt(self) -> str:
        subject = self.subject
        return own_prompt(subject.environment, subject.preset, subject.kind, subject.inherit, self.style.code_tokens)

    def _warn_once(self, past_ideas: int, chars: int, remaining: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logging.getLogger(__name__).warning(
                "A question shows %d past ideas, which do not fit into the model's context together with an answer: "
                "%d of them were shown, cut to %d characters each. Lower max_shown or max_tokens, or raise "
                "context_tokens if the model's context is longer. Further prompts are cut without a warning.",
                past_ideas, remaining, chars,
            )  # fmt: skip


def _newest(avoid: tuple[str, ...], share: float) -> tuple[str, ...]:
    return avoid[len(avoid) - round(share * len(avoid)) :]


def one_line(idea: str) -> str:
    """An idea's description on one line, cut to `AVOID_CHARS`."""
    try:
        text = parse_idea(idea).experiment
    except MalformedIdea:
        text = idea
    flat = " ".join(text.split())
    return flat if len(flat) <= AVOID_CHARS else flat[: AVOID_CHARS - 2].rstrip() + " …"
