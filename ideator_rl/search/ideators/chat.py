"""The ideator `chat`: any server that speaks OpenAI's chat completions, asked through the client of `ideator_rl.llm`.

A call asks for several ideas at once; a question for more is split into calls that run side by side, each with a salt
of its own, which picks its model by weight.  Cost is reserved before and booked after every try on the run's ledger.

Guarantees: an odd answer (junk, refused, cut off, fewer ideas than asked for) costs only itself: what is whole in it is
kept, and what is not counts as malformed.  Where some calls of a question fail for good and others do not, what came is
given, and the next question tells whether the fault lasts.  Not guaranteed: the same ideas twice from a live endpoint;
`record` keeps its answers, and a search that goes on pays for none of them again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.implementers.shown_files import tokens
from ideator_rl.llm import ChatClient, ContextTooLong, LLMSettings
from ideator_rl.search.ideator import Ask, Subject, answered
from ideator_rl.search.ideators.prompt_writer import Manner, Questions
from ideator_rl.search.ideators.replies import ideas_of_reply
from ideator_rl.search.ideators.settings import MANNER_CHECKS, checked, names, number
from ideator_rl.storage.ledger import Ledger

HALVINGS = 4
"""How often less is shown when a server says that the prompt is too long."""


@dataclass(frozen=True)
class ChatSettings:
    """How ideas are asked for; all other settings are the client's."""

    ideas_per_call: int = 10
    """As Si et al. (arXiv 2601.14525); 1 for a small model, together with `as_trained`."""
    as_trained: bool = False
    """Ask with the prompts of a warm-up and of training, to the letter, one idea a call."""
    max_shown: int | None = None
    """Past ideas in a prompt; null for 100, or for 2 as trained."""
    idea_chars: int = 2000
    """The most characters of one of them."""


CHECKS = {"ideas_per_call": (number(1, whole=True), "a whole number of at least 1"), **MANNER_CHECKS}


class ChatIdeator:
    name = "chat"

    def __init__(self, client: ChatClient, settings: ChatSettings, questions: Questions):
        self._client, self.settings, self._questions = client, settings, questions

    @classmethod
    def from_settings(cls, settings: dict[str, Any], subject: Subject, ledger: Ledger) -> ChatIdeator:
        """Made from one flat mapping: these settings and the client's.

        Raises:
            IdeatorError: an unknown key, a value that cannot be, no key of the server in the environment, or no such
                prompt.
        """
        subject.prompt()  # one that is not there is told before the baseline is run
        mine = checked(cls.name, settings, CHECKS, names(LLMSettings))
        if mine.get("as_trained"):
            mine.setdefault("ideas_per_call", 1)
        own = ChatSettings(**mine)
        if own.as_trained and own.ideas_per_call != 1:
            raise IdeatorError(
                f"The settings of the ideator chat have as_trained: true and ideas_per_call: {own.ideas_per_call}. A "
                "model was trained to write one idea a completion: leave ideas_per_call out, or as_trained."
            )
        client = LLMSettings.from_mapping({key: value for key, value in settings.items() if key not in CHECKS})
        room = client.context_tokens - client.max_tokens if client.context_tokens else None
        manner = Manner(own.as_trained, own.max_shown, own.idea_chars)
        return cls(ChatClient(client, ledger), own, Questions(subject, manner, tokens, room))

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        """See `ideator.Ideator`.

        Raises:
            BudgetSpent: a cap leaves no room for any call of the question.
            IdeatorError: none of its calls was answered, for good.
        """
        most = self.settings.ideas_per_call
        sizes = [min(most, ask.count - done) for done in range(0, ask.count, most)]
        came = await asyncio.gather(
            *(self._call(ask, archive, size, part) for part, size in enumerate(sizes)), return_exceptions=True
        )
        return [idea for ideas in answered(came, "calls of a question") for idea in ideas]

    def close(self) -> None:
        """Connections end with the loop that they belong to."""

    async def _call(self, ask: Ask, archive: Archive, count: int, part: int) -> list[str]:
        """One call; of a prompt that is too long for the server, it shows half as much.

        Raises:
            IdeatorError: the client gives no answer, or even a prompt that shows nothing is too long.
        """
        for halvings in range(HALVINGS + 1):
            question = self._questions.put(ask, archive, count, part, 0.5**halvings)
            messages = [{"role": "user", "content": question.text}]
            try:
                reply = await self._client.complete(messages, salt=f"{ask.salt} call {part}")
            except ContextTooLong:
                if halvings == HALVINGS or not (question.shown or ask.avoid):
                    raise
                continue
            return [question.answer(idea) for idea in ideas_of_reply(reply.text, count)]
        raise AssertionError("the last try returns or raises")
