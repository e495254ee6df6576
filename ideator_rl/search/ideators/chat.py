"""The ideator `chat`: any server with OpenAI's chat completions, through the client of `ideator_rl.llm`.

A call asks for several ideas.  A question for more is split into concurrent calls, each with a salt of its own, which
picks its model by weight.  Cost is reserved on the run's ledger before every attempt and booked after it.

Guarantees: a bad answer (junk, refused, cut off, too few ideas) costs only itself: its complete ideas count, the rest
is malformed.  If some calls of a question fail for good, the answers of the others are returned, and the next question
shows whether the fault lasts.  Not guaranteed: the same ideas twice from a live endpoint.  With `record`, answers are
stored, and a resumed search does not pay for them again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.implementers.shown_files import tokens
from ideator_rl.llm import ChatClient, ContextTooLong, LLMSettings
from ideator_rl.search.ideator import Ask, Ideator, Subject, successful
from ideator_rl.search.ideators.prompt_writer import PromptStyle, PromptWriter
from ideator_rl.search.ideators.replies import ideas_of_reply
from ideator_rl.search.ideators.settings import MANNER_CHECKS, checked, names, number
from ideator_rl.storage.ledger import Ledger

HALVINGS = 4
"""How often a prompt is shortened when the server refuses it as too long."""


@dataclass(frozen=True)
class ChatSettings:
    """How to ask for ideas; all other settings are the client's."""

    ideas_per_call: int = 10
    """As Si et al. (arXiv 2601.14525); 1 for a small model, together with `as_trained`."""
    as_trained: bool = False
    """Ask with exactly the prompts of warm-up and training, one idea a call."""
    max_shown: int | None = None
    """Past ideas in a prompt; null for 100, or for 2 as trained."""
    idea_chars: int = 2000
    """Characters of one past idea, at most."""


CHECKS = {"ideas_per_call": (number(1, whole=True), "a whole number of at least 1"), **MANNER_CHECKS}


class ChatIdeator(Ideator):
    name = "chat"

    def __init__(self, client: ChatClient, settings: ChatSettings, prompts: PromptWriter):
        self._client, self.settings, self._prompts = client, settings, prompts

    @classmethod
    def from_settings(cls, settings: dict[str, Any], subject: Subject, ledger: Ledger) -> ChatIdeator:
        """From one flat mapping: these settings and the client's.

        Raises:
            IdeatorError: an unknown key, a wrong value, no API key in the environment, or no such prompt.
        """
        subject.prompt()  # raises before the baseline is run
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
        style = PromptStyle(own.as_trained, own.max_shown, own.idea_chars)
        return cls(ChatClient(client, ledger), own, PromptWriter(subject, style, tokens, room))

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        """See `Ideator`.

        Raises:
            BudgetSpent: the ledger has no room for any call of the question.
            IdeatorError: all calls failed for good.
        """
        per_call = self.settings.ideas_per_call
        sizes = [min(per_call, ask.count - start) for start in range(0, ask.count, per_call)]
        calls = (self._call(ask, archive, size, index) for index, size in enumerate(sizes))
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [idea for ideas in successful(results, "calls of a question") for idea in ideas]

    async def _call(self, ask: Ask, archive: Archive, count: int, index: int) -> list[str]:
        """One call for `count` ideas; a prompt that the server refuses as too long is halved and sent again.

        Raises:
            IdeatorError: the client has no answer, or even the prompt without past ideas is too long.
        """
        for halvings in range(HALVINGS + 1):
            prompt = self._prompts.write(ask, archive, count, index, 0.5**halvings)
            messages = [{"role": "user", "content": prompt.text}]
            try:
                reply = await self._client.complete(messages, salt=f"{ask.salt} call {index}")
            except ContextTooLong:
                if halvings == HALVINGS or not (prompt.shown or ask.avoid):
                    raise
                continue
            return [prompt.answer(idea) for idea in ideas_of_reply(reply.text, count)]
        raise AssertionError("the last attempt returns or raises")
