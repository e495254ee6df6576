"""The implementer `llm`: a code LLM turns an idea into a patch.

For each idea `samples` drafts are written at once.  A draft that gives no valid codebase is told why and revised, up to
`revisions` times.  The first valid one wins: the others are cancelled and waited for, so that nothing goes on after
`implement`.  Of drafts that are valid by then, the one with the lowest number wins.

Guaranteed: with `replay`, the winner is that of the recorded run, byte for byte: all drafts are waited for, and only
those have all their answers in the record that were valid before the others were cancelled.
Not guaranteed: the same winner twice from a live endpoint, whose answers come in another order each time.

Outcomes: a draft whose last answer is unusable counts against the idea (unpatchable, or rejected if it broke a rule).
Only if no draft came so far, because the endpoint failed or a cap was reached, nothing was learned: `lost`.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import Idea
from ideator_rl.implementers.coder_answer import REASONS, Fault, read_answer
from ideator_rl.implementers.coder_prompt import FORMATS, Message, Prompt, prompts_version
from ideator_rl.implementers.implementer import Implementation, ImplementerUnavailable, NotImplementable
from ideator_rl.implementers.shown_files import BYTES_PER_TOKEN, tokens
from ideator_rl.llm import ChatClient, ContextTooLong, LLMSettings, LLMUnavailable, Reply
from ideator_rl.llm.estimate import Estimate, estimate
from ideator_rl.llm.prices import Price, mean
from ideator_rl.patch import Tree, diff
from ideator_rl.storage.ledger import BudgetSpent, Ledger

HALVINGS = 4
"""How often less of the codebase is shown when a server says that the context is too long: down to a sixteenth."""


NO_LIMIT = 1 << 40
"""Tokens, where nobody said how long the context is: all is shown, until the server says that it is too long."""


TYPICAL_IDEA = 300
"""Tokens, where a cost is estimated."""


@dataclass(frozen=True)
class CoderSettings:
    """How drafts are asked for; all other settings are the client's."""

    samples: int = 10
    """Drafts an idea, at once; Si et al. (arXiv 2601.14525) take ten."""
    revisions: int = 2
    """Times that a draft is asked again, with what was wrong."""
    edit_format: str = "blocks"
    """`blocks` (SEARCH/REPLACE), `diff` (unified), or `auto`, which leaves it to the model."""


class Client(Protocol):
    """What is needed of `llm.ChatClient`."""

    @property
    def version(self) -> str: ...

    async def complete(self, messages: list[Message], *, salt: str) -> Reply: ...


@dataclass
class Draft:
    number: int
    replies: list[Reply] = field(default_factory=list)
    tree: Tree | None = None
    fault: Fault | None = None
    """What was wrong with the last answer, once there is none to come."""
    unavailable: IdeatorError | None = None
    halvings: int = 0


class CoderImplementer:
    name = "llm"
    trusted = False

    def __init__(self, client: Client, settings: CoderSettings, room: int, replay: bool = False):
        self._client, self.settings = client, settings
        self._room = room
        """Tokens of the model's context beside the longest answer."""
        self._replay = replay

    @classmethod
    def from_settings(cls, settings: dict[str, Any], ledger: Ledger) -> CoderImplementer:
        """Made from one flat mapping: these settings and the client's.

        Raises:
            IdeatorError: an unknown key, or a value that cannot be.
        """
        own, rest = _split(settings)
        client = LLMSettings.from_mapping(rest)
        return cls(ChatClient(client, ledger), own, _room(client), replay=bool(client.replay))

    @staticmethod
    def estimate(settings: dict[str, Any], ideas: int, environment: Environment, preset: str) -> Estimate:
        """What ideas may cost; see `llm.estimate`.  An idea counts as `TYPICAL_IDEA`, a model without a price as free.

        Raises:
            IdeatorError: unusable settings.
        """
        own, rest = _split(settings)
        client = LLMSettings.from_mapping(rest)
        idea = Idea("x" * (BYTES_PER_TOKEN * TYPICAL_IDEA), "x")
        prompt = Prompt(idea, environment.baseline(preset), environment, preset, own.edit_format, _room(client))
        asked = sum(tokens(message["content"]) for message in prompt.messages())
        price = mean(client.models, {name: client.price(name) or Price() for name in client.models})
        return estimate(ideas, own.samples, own.revisions, asked, client.max_tokens, price)

    def version(self, environment: Environment) -> str:
        """The models and how they are sampled, the drafts, and the prompts."""
        parts = [self._client.version, asdict(self.settings), self._room, prompts_version()]
        return f"{self.name} {hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """The diff of the winning draft, and the cost of all drafts' answers.

        Raises:
            NotImplementable: at least one draft was answered to its end, and none gave a valid codebase.
            ImplementerUnavailable: no draft was answered to its end.
        """
        prompt = Prompt(idea, base, environment, preset, self.settings.edit_format, self._room)
        race = _Race(self._client, prompt, self.settings.revisions, self._replay)
        drafts = [Draft(number) for number in range(self.settings.samples)]
        await race.run(drafts)
        usage = _usage([reply for draft in drafts for reply in draft.replies])
        for draft in drafts:
            if draft.tree is not None:
                return Implementation(diff(base, draft.tree), usage)
        raise _failure(drafts, self.settings, usage)


def _room(client: LLMSettings) -> int:
    return client.context_tokens - client.max_tokens if client.context_tokens else NO_LIMIT


class _Race:
    """The drafts for one idea."""

    def __init__(self, client: Client, prompt: Prompt, revisions: int, replay: bool):
        self._client, self._prompt, self._revisions, self._replay = client, prompt, revisions, replay
        self._first: dict[int, list[Message]] = {}

    async def run(self, drafts: list[Draft]) -> None:
        """Write drafts until one is valid, or, from a record, all to their end; none goes on afterwards."""
        tasks = [asyncio.create_task(self._write(draft)) for draft in drafts]
        try:
            pending = set(tasks)
            while pending and (self._replay or all(draft.tree is None for draft in drafts)):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _write(self, draft: Draft) -> None:
        more: list[Message] = []
        try:
            for revision in range(self._revisions + 1):
                reply = await self._ask(
                    draft, more, f"{self._prompt.idea.key} draft {draft.number}, revision {revision}"
                )
                # No `await` from here to the next question: an answer that is in the record has been read too.
                draft.replies.append(reply)
                read = read_answer(reply, self._prompt.base, self._prompt.environment.rules)
                if not isinstance(read, Fault):
                    draft.tree = read
                    return
                if read.final or revision == self._revisions:
                    draft.fault = read
                    return
                more = self._prompt.revision(reply.text, read.reason, read.message)
        except IdeatorError as error:
            draft.unavailable = error

    async def _ask(self, draft: Draft, more: list[Message], salt: str) -> Reply:
        """An answer; of a codebase too long for the server, the draft sees half as much from then on.

        Raises:
            IdeatorError: the client gives none, or even little of the codebase is too long.
        """
        # A record holds answers only: a question that is not in it may have been too long.
        smaller = (ContextTooLong, LLMUnavailable) if self._replay else ContextTooLong
        while True:
            if draft.halvings not in self._first:
                self._first[draft.halvings] = self._prompt.messages(draft.halvings)
            try:
                return await self._client.complete(self._first[draft.halvings] + more, salt=salt)
            except smaller:
                if draft.halvings == HALVINGS:
                    raise
                draft.halvings += 1


def _usage(replies: list[Reply]) -> dict[str, float]:
    """What all answers did cost.  Calls that were cancelled told nothing: these stand in the run's ledger only."""
    return {
        "usd": sum(reply.usd for reply in replies),
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
        "calls": len(replies),
    }


def _failure(drafts: list[Draft], settings: CoderSettings, usage: dict[str, float]) -> IdeatorError:
    """Why there is no codebase: the idea's fault if a draft was answered to its end, else ours."""
    faults = [(draft.fault, draft.replies[-1].text) for draft in drafts if draft.fault is not None]
    if not faults:
        errors = [draft.unavailable for draft in drafts if draft.unavailable is not None]
        cause = next((error for error in errors if isinstance(error, BudgetSpent)), errors[0])
        unavailable = ImplementerUnavailable(f"The coder gave no answer to judge the idea by: {cause}")
        unavailable.__cause__ = cause
        return unavailable
    common, count = Counter(fault.reason for fault, _ in faults).most_common(1)[0]
    last, answer = [pair for pair in faults if pair[0].reason == common][-1]
    return NotImplementable(
        f"Of {len(drafts)} drafts {len(faults)} were answered, with up to {settings.revisions} revisions each; none "
        f"gave a codebase. Most often ({count} of {len(faults)}): {REASONS[common]}. The last time: {last.message}",
        last.kind,
        usage,
        answer,
    )


def _split(settings: dict[str, Any]) -> tuple[CoderSettings, dict[str, Any]]:
    """Our own settings, checked, and the client's, of which only the names are checked."""
    mine = {item.name: item.default for item in fields(CoderSettings)}
    known = [*mine, *(item.name for item in fields(LLMSettings))]
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise IdeatorError(f"The coder's settings have the unknown key {key!r}. {hint}")
        if key in mine and type(value) is not type(mine[key]):
            raise IdeatorError(f"The coder's setting {key} is {value!r}; expected something like {mine[key]!r}.")
    own = CoderSettings(**{key: value for key, value in settings.items() if key in mine})
    if own.samples < 1 or own.revisions < 0:
        raise IdeatorError(
            f"The coder has samples: {own.samples}, revisions: {own.revisions}. Expected 1 and 0 or more."
        )
    if own.edit_format not in FORMATS:
        raise IdeatorError(f"The coder's edit_format is {own.edit_format!r}. Expected one of {', '.join(FORMATS)}.")
    return own, {key: value for key, value in settings.items() if key not in mine}
