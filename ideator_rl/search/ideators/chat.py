"""The ideator `chat`: any server with OpenAI's chat completions, through the client of `ideator_rl.llm`.

A call asks for several ideas.  A question for more is split into concurrent calls, each with a salt of its own, which
picks its model by weight.  Cost is reserved on the run's ledger before every attempt and booked after it.

Guarantees: a bad answer (junk, refused, cut off, too few ideas) costs only itself: its complete ideas count, the rest
is malformed.  If some calls of a question fail for good, the answers of the others are returned, and the next question
shows whether the fault lasts: after two permanent faults in a row of any model, it raises at once.  Not guaranteed: the
same ideas twice from a live endpoint.  With `record`, answers are stored, and a resumed search does not pay for them
again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.bases import NONE
from ideator_rl.config.base import Count, read_config
from ideator_rl.llm import ChatClient, ContextTooLong, LLMSettings, Reply
from ideator_rl.patch.shown_files import tokens
from ideator_rl.search.ideator import Ask, Ideator, Subject, successful
from ideator_rl.search.ideators.prompt_writer import PromptWriter
from ideator_rl.search.ideators.replies import ideas_of_reply
from ideator_rl.search.ideators.settings import PromptStyle
from ideator_rl.storage.ledger import Ledger

IDEAS_PER_CALL = 10
HALVINGS = 4
"""How often a prompt is shortened when the server refuses it as too long."""


@dataclass(frozen=True)
class ChatSettings(PromptStyle, LLMSettings):
    """How to ask for ideas: one flat mapping with the settings of the client."""

    ideas_per_call: Count | None = None
    """Ideas per call; null for 1 as trained, else 10, as Si et al. (arXiv 2601.14525)."""

    @model_validator(mode="after")
    def _one_idea_as_trained(self) -> ChatSettings:
        if self.as_trained and self.ideas_per_call not in (None, 1):
            raise ValueError(
                f"as_trained: true and ideas_per_call: {self.ideas_per_call}. A model was trained to write one idea "
                "per completion: leave ideas_per_call out, or as_trained."
            )
        return self

    @property
    def call_size(self) -> int:
        """Ideas per call, at most."""
        return self.ideas_per_call or (1 if self.as_trained else IDEAS_PER_CALL)


class ChatIdeator(Ideator):
    name = "chat"

    def __init__(self, client: ChatClient, settings: ChatSettings, prompts: PromptWriter):
        self._client, self.settings, self._prompts = client, settings, prompts
        self._has_warned = False

    @classmethod
    def from_settings(cls, settings: dict[str, Any], subject: Subject, ledger: Ledger) -> ChatIdeator:
        """From one flat mapping: these settings and the client's.

        Raises:
            IdeatorError: an unknown key, a wrong value, no API key in the environment, or no such prompt.
        """
        # Raises now if there is no such prompt, and not after the baseline has run.
        subject.prompt()
        chat = read_config(ChatSettings, settings, "The settings of the ideator chat have")
        return cls(ChatClient(chat, ledger), chat, PromptWriter(subject, chat, tokens, chat.room))

    def check(self) -> list[str]:
        """A sentence if the prompt shows no code, which a model that was not trained on it needs."""
        subject = self._prompts.subject
        is_blind = subject.inherit == NONE and not subject.environment.shows_code(subject.preset, subject.kind)
        if self.settings.as_trained or subject.environment.in_process or not is_blind:
            return []
        kinds = [
            kind for kind in subject.environment.prompt_files if subject.environment.shows_code(subject.preset, kind)
        ]
        remedy = f"Set prompts: {kinds[0]}" if kinds else "Put {files} into it"
        return [f"The ideator sees no code: the prompt {subject.kind} does not show it. {remedy}."]

    async def probe(self) -> None:
        """Ask every model for a few tokens.

        Raises:
            LLMUnavailable: one would not answer.
        """
        await self._client.probe([{"role": "user", "content": "Answer in one word: write OK."}])

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        """See `Ideator`.

        Raises:
            BudgetSpent: the ledger has no room for any call of the question.
            IdeatorError: all calls failed for good.
        """
        per_call = self.settings.call_size
        sizes = [min(per_call, ask.count - start) for start in range(0, ask.count, per_call)]
        # Concurrent calls; one that fails for good does not take the others' answers with it.
        calls = (self._call(ask, archive, size, index) for index, size in enumerate(sizes))
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [idea for ideas in successful(results, "calls of a question") for idea in ideas]

    async def _call(self, ask: Ask, archive: Archive, count: int, index: int) -> list[str]:
        """One call for `count` ideas; a prompt that the server refuses as too long is halved and sent again.

        Raises:
            IdeatorError: the client has no answer, or even the prompt without past ideas is too long.
        """
        # The server's tokenizer decides what fits; ours only estimates.
        for halvings in range(HALVINGS + 1):
            prompt = self._prompts.write(ask, archive, count, index, 0.5**halvings)
            messages = [{"role": "user", "content": prompt.text}]
            try:
                reply = await self._client.complete(messages, salt=f"{ask.salt} call {index}")
            except ContextTooLong:
                if halvings == HALVINGS or not (prompt.past_ideas or ask.avoid):
                    raise
                continue
            self._warn_once(reply)
            return [prompt.answer(idea) for idea in ideas_of_reply(reply, count)]
        raise AssertionError("the last attempt returns or raises")

    def _warn_once(self, reply: Reply) -> None:
        """Log why a reply has no text: the outcome of its idea only states that there is none."""
        if not self._has_warned and not reply.text.strip():
            self._has_warned = True
            logging.getLogger(__name__).warning("The ideator gave no ideas: %s.", reply.lack)
