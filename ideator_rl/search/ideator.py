"""What a search asks for, and who answers: the one interface between strategies and ideators.

A strategy looks at what is known and says what to ask for (`Ask`); an ideator turns that into ideas.  Neither runs
anything: the reward buffer does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ideator_rl.archive.archive import Archive
from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.storage.ledger import BudgetSpent
from ideator_rl.text import visible

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

    def prompt(self) -> str:
        """That prompt.

        Raises:
            IdeatorError: the environment has none of that name.
        """
        return self.environment.prompt(self.preset, self.kind)


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
        IdeatorError: as `answered`; or the ideator failed, or gave something else than lists of texts.
    """
    who = f"The ideator {ideator.name}"
    if hasattr(ideator, "ideas_many"):
        with blamed(who):
            many = await ideator.ideas_many(asks, archive)
        if not isinstance(many, list | tuple) or len(many) != len(asks):
            gave = f"{len(many)} answers" if isinstance(many, list | tuple) else type(many).__name__
            raise IdeatorError(f"{who} gave {gave} to {len(asks)} questions. Expected a list of texts for each.")
        return [_texts(who, each) for each in many]

    async def one(ask: Ask) -> list[str]:
        with blamed(who):
            return _texts(who, await ideator.ideas(ask, archive))

    return answered(await asyncio.gather(*map(one, asks), return_exceptions=True), "questions")


@contextmanager
def blamed(who: str) -> Iterator[None]:
    """Code of anybody's: what it raises ends the search as an error that is known does, after what is under way.

    Raises:
        IdeatorError: it raised something; the traceback, which helps who wrote it, is logged.
    """
    try:
        yield
    except IdeatorError:
        raise
    except Exception as error:
        logging.getLogger(__name__).error("%s failed.", who, exc_info=True)
        raise IdeatorError(f"{who} failed: {error!r}. Mend it, and go on with --resume.") from error


def _texts(who: str, came: object) -> list[str]:
    """An answer, if it is one."""
    if not isinstance(came, list | tuple):
        raise IdeatorError(f"{who} answered with {type(came).__name__}. Expected a list of texts, one an idea.")
    for text in came:
        if not isinstance(text, str):
            raise IdeatorError(f"{who} answered with a list that holds {type(text).__name__}. Expected texts.")
    return list(came)


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
        why = visible(str(failed[0]))  # it may quote a server
        logging.getLogger(__name__).warning("%d of %d %s got no answer: %s", len(failed), len(came), what, why)
    return [[] if isinstance(each, BaseException) else each for each in came]
