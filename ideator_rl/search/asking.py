"""What a search asks for, and who answers: the one interface between strategies and ideators.

A strategy looks at what is known and says what to ask for (`Ask`); an ideator turns that into ideas.  Neither runs
anything: the reward buffer does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ideator_rl.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.ledger import BudgetSpent
from ideator_rl.search.archive import Archive

FREE, EXPLOIT, EXPLORE = "free", "exploit", "explore"


@dataclass(frozen=True)
class Ask:
    """One question to an ideator."""

    kind: str
    """What the strategy wants with it: `free`, `exploit` (better than what is shown), `explore` (unlike what is shown),
    or a word of its own; it stands in the records."""
    count: int
    """Ideas that are wanted."""
    shown: tuple[Experiment, ...] = ()
    """Past ideas that the question shows, in this order; their results are in the archive."""
    avoid: tuple[str, ...] = ()
    """Texts of ideas that the answers should not resemble."""
    salt: str = ""
    """Names this question: who samples from it seeds himself with it, so that a repeated question has one answer."""
    descends: bool = True
    """The answers improve on what is shown, so that it stands as their parents in the records."""


class Answer(str):
    """A completion that says which of the shown ideas it was made from; a plain text is taken to be made from all."""

    parents: tuple[Experiment, ...]

    def __new__(cls, text: str, parents: Sequence[Experiment]) -> Answer:
        made = super().__new__(cls, text)
        made.parents = tuple(parents)
        return made


@dataclass(frozen=True)
class Subject:
    """What an ideator is to have ideas about."""

    environment: Environment
    preset: str
    kind: str = "short"
    """Which of the environment's prompts asks for an idea."""


class Ideator(Protocol):
    """Writes ideas: a chat endpoint, a local model, or the environment's catalogue.

    One that avoids what it answered before has `remember(texts)` besides, which is told, once, what it answered in
    earlier sittings of a search: so a killed search goes on with the ideas that an untouched one has.
    """

    name: str

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        """Completions in answer to a question, thought and all; fewer or more than were asked for are possible, and
        what holds no idea is a malformed one.

        Raises:
            IdeatorError: nothing can be had from it, now or ever; it says what to do.
        """
        ...

    def close(self) -> None: ...


async def answers(ideator: Ideator, asks: Sequence[Ask], archive: Archive) -> list[list[str]]:
    """What `ideas` gives for each of several questions at once.

    An ideator that answers many for the price of one has `async def ideas_many(asks, archive)`, and is asked by it.

    Raises:
        IdeatorError: as `answered`.
    """
    if hasattr(ideator, "ideas_many"):
        many: list[list[str]] = await ideator.ideas_many(asks, archive)
        return many
    return answered(
        await asyncio.gather(*(ideator.ideas(ask, archive) for ask in asks), return_exceptions=True), "questions"
    )


def answered(came: Sequence[list[str] | BaseException], what: str) -> list[list[str]]:
    """What came of calls side by side; nothing in the place of one that failed, for the others are paid for.

    Args:
        came: by `asyncio.gather`.
        what: the calls are, for the log.

    Raises:
        BudgetSpent: all failed, and one for this reason.
        IdeatorError: all failed.
    """
    failed = [each for each in came if isinstance(each, BaseException)]
    for error in failed:
        if not isinstance(error, IdeatorError):
            raise error
    if failed and len(failed) == len(came):
        raise next((error for error in failed if isinstance(error, BudgetSpent)), failed[0])
    if failed:
        logging.getLogger(__name__).warning("%d of %d %s got no answer: %s", len(failed), len(came), what, failed[0])
    return [[] if isinstance(each, BaseException) else each for each in came]
