"""The interface between strategies and ideators: a strategy asks, an ideator answers with ideas.

Neither runs anything: the engine has the ideas run by the reward buffer.

    class Repeater(Ideator):
        '''Proposes the best past ideas again.'''

        name = "repeater"

        @classmethod
        def from_settings(cls, settings, subject, ledger):
            return cls()

        async def ideas(self, ask, archive):
            return [record.idea for record in archive.elites(ask.count)]
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.bases import Bases, Inherit
from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.screen.predictor import IdeatorModel
from ideator_rl.storage.idea_context import IdeaContext
from ideator_rl.storage.ledger import BudgetSpent
from ideator_rl.text.display import visible

FREE, EXPLOIT, EXPLORE = "free", "exploit", "explore"


@dataclass(frozen=True)
class Ask:
    """One question to an ideator."""

    kind: str
    """`free`, `exploit` (do better than the shown ideas), `explore` (differ from them), or a word of the strategy's
    own; it is stored in the journal."""
    count: int
    """Ideas wanted."""
    shown: tuple[Experiment, ...] = ()
    """Past ideas that the question shows, in this order; their results are in the archive."""
    avoid: tuple[str, ...] = ()
    """Texts of ideas that the answers should not resemble."""
    salt: str = ""
    """Names this question and seeds its answers: a repeated question has the same answer.  Set by the engine."""
    descends: bool = True
    """Whether the answers improve on the shown ideas, which are then stored as their parents."""


class Answer(str):
    """A completion with the shown ideas it was made from; a plain `str` counts as made from all of them."""

    parents: tuple[Experiment, ...]
    context: IdeaContext | None
    """Its prompt, and the codebase that it changes; None where the ideator leaves the choice to the search."""

    def __new__(cls, text: str, parents: Sequence[Experiment], context: IdeaContext | None = None) -> Answer:
        answer = super().__new__(cls, text)
        answer.parents = tuple(parents)
        answer.context = context
        return answer


def parents_of(ask: Ask, text: str) -> Sequence[Experiment]:
    """Parents of an answer: those it names itself (`Answer`), else all past ideas that its question showed."""
    if isinstance(text, Answer):
        return text.parents
    return ask.shown if ask.descends else ()


def with_context(ask: Ask, text: str, archive: Archive, bases: Bases) -> Answer:
    """An answer with its context: the one that the ideator gave it, else the base that its parents lead to."""
    parents = parents_of(ask, text)
    if isinstance(text, Answer) and text.context is not None:
        return text
    return Answer(text, parents, IdeaContext(base=bases.of_answer(text, parents, archive)))


@dataclass(frozen=True)
class Subject:
    """What the ideas are about."""

    environment: Environment
    preset: str
    kind: str = "short"
    """Which of the environment's prompts asks for an idea."""
    inherit: Inherit = "none"
    """Whose code an idea changes; see `archive.bases`."""

    def prompt(self) -> str:
        """That prompt.

        Raises:
            IdeatorError: the environment has none of that name.
        """
        return self.environment.prompt(self.preset, self.kind)


@runtime_checkable
class Ideator(Protocol):
    """Writes ideas: a chat endpoint, a local model, or the environment's catalogue.

    A class need not inherit from this one: see `with_defaults`.
    """

    name: str

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        """Completions in answer to a question, with their thoughts.

        Fewer or more than `ask.count` are allowed; one without an idea counts as malformed.

        Raises:
            IdeatorError: the ideator cannot answer, now or later; the message names the remedy.
        """
        ...

    async def ideas_many(self, asks: Sequence[Ask], archive: Archive) -> list[list[str]]:
        """The answers to several questions.  Optional: by default every question goes to `ideas`, all at once.

        Raises:
            IdeatorError: no question was answered.
        """

        async def ask_one(ask: Ask) -> list[str]:
            with plugin_errors(f"The ideator {self.name}"):
                return _checked_texts(self.name, await self.ideas(ask, archive))

        results = await asyncio.gather(*map(ask_one, asks), return_exceptions=True)
        return successful(results, "questions")

    async def probe(self) -> None:
        """Ask the ideator's service for as little as possible, before a search pays for more.

        Optional; the default asks nothing.

        Raises:
            IdeatorError: it would not answer: the key, the address or a model is wrong.
        """
        return

    def check(self) -> list[str]:
        """Try, before the baseline runs, what an answer needs.  Optional: by default nothing is tried.

        Returns:
            sentences for people, none of which stops the search.

        Raises:
            IdeatorError: the ideator could not answer; the message names the remedy.
        """
        return []

    def remember(self, texts: Sequence[str]) -> None:
        """Receives, once, the answers of earlier sessions, those included that a screen did not run.

        Optional, for an ideator that does not repeat itself: with it, a killed search goes on with the ideas that an
        untouched one has.
        """
        return

    def local_model(self) -> IdeatorModel | None:
        """The language model that writes the ideas, if this process can load it.  Optional: by default there is none.

        A screen's predictor `hidden` reads its hidden states.
        """
        return None

    def close(self) -> None:
        """Release what the ideator holds."""
        return


def with_defaults(ideator: Any) -> Ideator:
    """The ideator itself, or, where its class lacks an optional method, one that has the default for it."""
    return ideator if isinstance(ideator, Ideator) else _WithDefaults(ideator)  # type: ignore[abstract]


class _WithDefaults(Ideator):
    # Instance attributes hide the methods of the class: the plugin's own, or the default bound to this object.
    def __init__(self, ideator: Any):
        self.name = ideator.name
        for method in ("ideas", "ideas_many", "check", "probe", "remember", "local_model", "close"):
            setattr(self, method, getattr(ideator, method, getattr(self, method)))


async def ask_ideator(ideator: Ideator, asks: Sequence[Ask], archive: Archive) -> list[list[str]]:
    """The completions for each of several questions that are asked together.

    Raises:
        BudgetSpent: no question was answered, one of them because the ledger had no room.
        IdeatorError: no question was answered, or the answers are not lists of texts.
    """
    with plugin_errors(f"The ideator {ideator.name}"):
        answers = await ideator.ideas_many(asks, archive)
    # A plugin's answers are checked here once, so that the engine can rely on their shape.
    if not isinstance(answers, list | tuple) or len(answers) != len(asks):
        got = f"{len(answers)} answers" if isinstance(answers, list | tuple) else type(answers).__name__
        raise IdeatorError(
            f"The ideator {ideator.name} returned {got} to {len(asks)} questions. Expected a list of texts for each."
        )
    return [_checked_texts(ideator.name, answer) for answer in answers]


@contextmanager
def plugin_errors(plugin: str) -> Iterator[None]:
    """Turn an exception of a plugin into an IdeatorError, which ends the search after the ideas that still run.

    Raises:
        IdeatorError: the plugin raised something; the traceback is logged for its author.
    """
    try:
        yield
    except IdeatorError:
        raise
    except Exception as error:
        logging.getLogger(__name__).error("%s failed.", plugin, exc_info=True)
        raise IdeatorError(f"{plugin} failed: {error!r}. Correct it, then continue with --resume.") from error


def _checked_texts(name: str, answer: object) -> list[str]:
    if not isinstance(answer, list | tuple):
        raise IdeatorError(
            f"The ideator {name} returned {type(answer).__name__}. Expected a list of texts, one per idea."
        )
    for text in answer:
        if not isinstance(text, str):
            raise IdeatorError(f"The ideator {name} returned a list with {type(text).__name__} in it. Expected texts.")
    return list(answer)


def successful(results: Sequence[list[str] | BaseException], calls: str) -> list[list[str]]:
    """The results of concurrent calls, an empty list for a failed one: the other calls are paid for.

    Args:
        results: from `asyncio.gather(return_exceptions=True)`.
        calls: what the calls are called in the log, such as `questions`.

    Raises:
        BudgetSpent: all calls failed, at least one for this reason.
        IdeatorError: all calls failed.
    """
    errors = [result for result in results if isinstance(result, BaseException)]
    # A cancellation or a bug is no failed call: it ends the search.
    for error in errors:
        if not isinstance(error, IdeatorError):
            raise error
    # If nothing came back, the reason is raised that the engine can act on: a spent budget, then a permanent fault.
    if errors and len(errors) == len(results):
        raise max(errors, key=lambda error: (isinstance(error, BudgetSpent), getattr(error, "permanent", False)))
    if errors:
        reason = visible(str(errors[0]))  # it may quote a server
        logging.getLogger(__name__).warning("%d of %d %s failed: %s", len(errors), len(results), calls, reason)
    return [[] if isinstance(result, BaseException) else result for result in results]
