"""A question in words: what a model is asked, and how much of what is known it is shown.

Two manners.  In full: the environment's prompt, with what the question shows (results, failures by name), what it is to
avoid, and how many ideas are wanted.  As trained: the two prompts that `ideator-rl sft` and the trainer use, to the
letter: the environment's own, or the one that shows parents; a small model answers these and nothing else, one idea a
completion.  Of a question that shows more than `max_shown`, each completion is shown a draw of its own.

Past ideas are untrusted text: each is cut to a length, and nothing in it is filled in or interpreted.  What does not
fit the model's context is cut shorter first, and then the last ones are left out; a warning says so, once.
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
from ideator_rl.archive.prompts import EXPLORE as DIFFERENT
from ideator_rl.archive.prompts import PARENTS, outcome, parent_prompt
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.search.ideator import EXPLORE, Answer, Ask, Subject

AS_TRAINED_SHOWN, IN_FULL_SHOWN = 2, 100
"""Past ideas in a prompt where `max_shown` is null: `prompt_parents` of training's recipes, and the paper's number."""
SHARES = (0.75, 0.5, 0.35, 0.2, 0.1, 0.0)
"""How much is left of what is shown, once cutting was not enough."""
LEAST_CHARS, AVOID_CHARS = 250, 200

_templates = Templates(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,
)


@dataclass
class Manner:
    """How questions are put."""

    as_trained: bool = False
    max_shown: int | None = None
    idea_chars: int = 2000
    """The most characters of one past idea."""

    @property
    def most(self) -> int:
        """Past ideas in a prompt."""
        if self.max_shown is not None:
            return self.max_shown
        return AS_TRAINED_SHOWN if self.as_trained else IN_FULL_SHOWN


@dataclass(frozen=True)
class Question:
    """A prompt, and the past ideas that it shows."""

    text: str
    shown: tuple[Experiment, ...]
    parents: tuple[Experiment, ...]
    """Those of them that its answers improve on."""

    def answer(self, text: str) -> Answer:
        """A completion with its parents."""
        return Answer(text, self.parents)


@dataclass
class Questions:
    """Puts questions about a subject into words, for a model that reads so much.

    What the environment's own prompt holds is never cut: a model that cannot read it has to be told so.
    """

    subject: Subject
    manner: Manner
    size: Callable[[str], int] = len
    """Of a text, in the unit of `room`."""
    room: int | None = None
    """The most that a prompt may have; None where nobody said."""
    _told: bool = field(default=False, repr=False)

    def put(self, ask: Ask, archive: Archive, count: int = 1, part: int = 0, share: float = 1.0) -> Question:
        """The prompt that asks for `count` of a question's ideas.

        Args:
            part: which of the completions or calls that a question is split into.
            share: of the room, or of what the whole prompt takes; below 1 after a server said that it is too long.
        """
        shown = self._shown(ask, part)
        whole = self._words(ask, archive, shown, count, self.manner.idea_chars)
        size = self.size(whole)
        room = self.room if share == 1.0 else int(share * min(size, self.room or size))
        if room is None or size <= room or not (shown or ask.avoid):
            return _question(whole, shown, ask)
        for chars, left in self._smaller():
            less = replace(ask, avoid=_last(ask.avoid, left))
            some = shown[: round(left * len(shown))]
            text = self._words(less, archive, some, count, chars)
            if self.size(text) <= room:
                break
        self._tell(len(shown), chars, len(some))
        return _question(text, some, ask)

    def _shown(self, ask: Ask, part: int) -> tuple[Experiment, ...]:
        """As trained, nothing is shown that is not to be improved on."""
        if self.manner.as_trained and not ask.descends:
            return ()
        if len(ask.shown) <= self.manner.most:
            return ask.shown
        rng = random.Random(f"{ask.salt}:{part}")
        return tuple(ask.shown[place] for place in sorted(rng.sample(range(len(ask.shown)), self.manner.most)))

    def _smaller(self) -> list[tuple[int, float]]:
        """Characters an idea and the share of ideas that is shown, in the order in which they are tried."""
        chars = [max(LEAST_CHARS, self.manner.idea_chars >> halvings) for halvings in range(1, 4)]
        return [(each, 1.0) for each in chars] + [(chars[-1], share) for share in SHARES]

    def _words(self, ask: Ask, archive: Archive, shown: Sequence[Experiment], count: int, chars: int) -> str:
        text = self._own
        if shown:
            results = [(record.idea, outcome(record, archive)) for record in shown]
            baseline = archive.baseline.metric if archive.baseline else None
            words = DIFFERENT if ask.kind == EXPLORE and not self.manner.as_trained else PARENTS
            text = parent_prompt(self.subject.environment, text, results, baseline, chars, words)
        if self.manner.as_trained:
            return text
        more = _templates.get_template("more.md.j2").render(count=count, avoid=list(map(one_line, ask.avoid)))
        return f"{text}\n\n{more}".strip()

    @cached_property
    def _own(self) -> str:
        return self.subject.prompt()

    def _tell(self, shown: int, chars: int, left: int) -> None:
        if not self._told:
            self._told = True
            logging.getLogger(__name__).warning(
                "A question shows %d past ideas, which do not fit beside an answer into what the model reads: %d of "
                "them were shown, cut to %d characters each. Lower max_shown or max_tokens, or raise context_tokens "
                "where the model reads more. This is said once.",
                shown, left, chars,
            )  # fmt: skip


def _question(text: str, shown: tuple[Experiment, ...], ask: Ask) -> Question:
    return Question(text, shown, shown if ask.descends else ())


def _last(avoid: tuple[str, ...], share: float) -> tuple[str, ...]:
    return avoid[len(avoid) - round(share * len(avoid)) :]


def one_line(idea: str) -> str:
    """What an idea is about, on one line, cut."""
    try:
        text = parse_idea(idea).experiment
    except MalformedIdea:
        text = idea
    flat = " ".join(text.split())
    return flat if len(flat) <= AVOID_CHARS else flat[: AVOID_CHARS - 2].rstrip() + " …"
