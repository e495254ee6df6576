"""The implementer `llm`: a code LLM turns an idea into a patch.

For each idea `samples` drafts are written at once.  A draft whose answer gives no valid codebase is revised up to
`revisions` times, with the error in the prompt.  The first valid draft wins; if several are valid at that moment, the
one with the lowest number.  The others are cancelled, and `implement` returns after all of them have ended.

Guaranteed: with `replay`, the winner is that of the recorded run, byte for byte.  All drafts are awaited; the only
drafts with all their answers in the recording are those that were valid before the others were cancelled.
Not guaranteed: the same winner twice from a live endpoint, whose answers arrive in another order each time.

Outcomes: if at least one draft was answered to its end and none is valid, the idea is at fault (unpatchable, or
rejected if it broke a rule).  If no draft was, because the endpoint failed or a cap was reached, the idea is `lost`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from ideator_rl.config.base import Config, CountOrZero, Integer, read_config
from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import Idea
from ideator_rl.implementers.coder_answer import REASONS, Fault, read_answer
from ideator_rl.implementers.coder_prompt import Message, Prompt, prompts_version
from ideator_rl.implementers.implementer import Crash, Implementation, ImplementerUnavailable, NotImplementable
from ideator_rl.llm import ChatClient, ContextTooLong, LLMSettings, LLMUnavailable, Reply
from ideator_rl.llm.estimate import Estimate, estimate
from ideator_rl.llm.prices import FREE, mean
from ideator_rl.patch import Tree, diff
from ideator_rl.patch.shown_files import BYTES_PER_TOKEN, tokens
from ideator_rl.storage.ledger import BudgetSpent, Ledger

HALVINGS = 4
"""How often less of the codebase is shown when a server answers that the prompt is too long: down to a sixteenth."""
UNLIMITED = 1 << 40
"""Tokens of a prompt where the settings give no context length: all is shown until the server refuses it."""
PROBE = [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Write OK."}]
"""The roles are those of a draft's prompt: some models take no system message."""
TYPICAL_IDEA = 300
"""Tokens of an idea in a cost estimate."""


@config_dataclass(frozen=True)
class CoderSettings(Config):
    """How drafts are requested; all other settings are those of the client."""

    samples: Annotated[Integer, Field(ge=1, le=1000)] = 10
    """Drafts an idea, at once; Si et al. (arXiv 2601.14525) take ten."""
    revisions: CountOrZero = 2
    """Times that a draft is requested again, with the error."""
    edit_format: Literal["blocks", "diff", "auto"] = "blocks"
    """`blocks` (SEARCH/REPLACE), `diff` (unified), or `auto`: the model chooses."""
    debug_rounds: Annotated[Integer, Field(ge=0, le=3)] = 0
    """Times that a crashed experiment is given back to the coder, with the end of its traceback.  The next run is an
    experiment of its own in every count and budget."""


@config_dataclass(frozen=True)
class CoderMapping(CoderSettings, LLMSettings):
    """The flat mapping `coder` of a recipe: the coder's settings and those of its client."""


def read_settings(settings: dict[str, Any]) -> tuple[CoderSettings, LLMSettings]:
    """The coder's settings and the client's, from one mapping.

    Raises:
        ConfigError: an unknown key, or a value out of range.
    """
    values = read_config(CoderMapping, settings, "The coder's settings have")
    return CoderSettings(values.samples, values.revisions, values.edit_format, values.debug_rounds), values


class Client(Protocol):
    """The part of `llm.ChatClient` that a coder needs."""

    @property
    def version(self) -> str: ...

    async def complete(self, messages: list[Message], *, salt: str) -> Reply: ...

    async def probe(self, messages: list[Message]) -> None: ...


@dataclass
class Draft:
    """The state of one draft; its own task writes it, `implement` reads it after that task has ended."""

    number: int
    replies: list[Reply] = field(default_factory=list)
    tree: Tree | None = None
    """The patched codebase, once an answer is valid."""
    fault: Fault | None = None
    """The fault of the last answer, once no other will follow."""
    unavailable: IdeatorError | None = None
    """The error that ended the draft before its last answer."""
    halvings: int = 0


class CoderImplementer:
    name = "llm"
    trusted = False

    def __init__(self, client: Client, settings: CoderSettings, prompt_budget: int, replay: bool = False):
        self._client, self.settings = client, settings
        self._prompt_budget = prompt_budget
        """Tokens of the model's context without the longest answer."""
        self._replay = replay

    @classmethod
    def from_settings(cls, settings: dict[str, Any], ledger: Ledger) -> CoderImplementer:
        """An instance from one flat mapping: these settings and those of the client.

        Raises:
            IdeatorError: an unknown key, or a value out of range.
        """
        own, client = read_settings(settings)
        return cls(ChatClient(client, ledger), own, _prompt_budget(client), replay=bool(client.replay))

    @staticmethod
    def estimate(settings: dict[str, Any], ideas: int, environment: Environment, preset: str) -> Estimate:
        """The cost of ideas; see `llm.estimate`.  Assumes `TYPICAL_IDEA` tokens an idea; no known price counts as free.

        Raises:
            IdeatorError: unusable settings.
        """
        own, client = read_settings(settings)
        idea = Idea("x" * (BYTES_PER_TOKEN * TYPICAL_IDEA), "x")
        base, budget = environment.baseline(preset), _prompt_budget(client)
        prompt = Prompt(idea, base, environment, preset, own.edit_format, budget)
        prompt_tokens = sum(tokens(message["content"]) for message in prompt.messages())
        price = mean(client.models, {name: client.price(name) or FREE for name in client.models})
        once = estimate(ideas, own.samples, own.revisions, prompt_tokens, client.max_tokens, price)
        # At the high end each idea crashes in every round.
        runs = ideas * (1 + own.debug_rounds)
        most = estimate(runs, own.samples, own.revisions, prompt_tokens, client.max_tokens, price)
        return Estimate(once.low, most.high, 1 + own.debug_rounds)

    def version(self, environment: Environment) -> str:
        """A hash of the models and their sampling, the drafts, and the prompts."""
        settings = asdict(self.settings)
        # The first answer does not depend on what follows a crash.
        del settings["debug_rounds"]
        parts = [self._client.version, settings, self._prompt_budget, prompts_version()]
        return f"{self.name} {hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"

    async def probe(self) -> None:
        """Ask every model for a few tokens.

        Raises:
            LLMUnavailable: one would not answer.
        """
        await self._client.probe(PROBE)

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """The diff of the winning draft, and the cost of all drafts' answers.

        Raises:
            NotImplementable: at least one draft was answered to its end, and none gave a valid codebase.
            ImplementerUnavailable: no draft was answered to its end.
        """
        prompt = Prompt(idea, base, environment, preset, self.settings.edit_format, self._prompt_budget)
        return await self._best_draft(_Race(self._client, prompt, self.settings.revisions, self._replay))

    @property
    def debug_rounds(self) -> int:
        return self.settings.debug_rounds

    async def debug(
        self, idea: Idea, base: Tree, environment: Environment, preset: str, crash: Crash
    ) -> Implementation:
        """As `implement`, after the change that the coder wrote before has crashed."""
        prompt = Prompt(idea, base, environment, preset, self.settings.edit_format, self._prompt_budget)
        follow_up = prompt.debug(crash.patch, crash.words)
        race = _Race(
            self._client, prompt, self.settings.revisions, self._replay, follow_up, f"debug {crash.tree_hash}, "
        )
        return await self._best_draft(race)

    async def _best_draft(self, race: _Race) -> Implementation:
        """The diff of the winning draft.  Raises: as `implement`."""
        drafts = [Draft(number) for number in range(self.settings.samples)]
        await race.run(drafts)
        replies = [reply for draft in drafts for reply in draft.replies]
        # Calls that were cancelled on the wire report no cost: they are in the run's ledger only.
        usage = {
            "usd": sum(reply.usd for reply in replies),
            "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
            "completion_tokens": sum(reply.completion_tokens for reply in replies),
            "calls": len(replies),
        }
        # The lowest number among the valid ones: a replay then finds the same winner.
        for draft in drafts:
            if draft.tree is not None:
                return Implementation(diff(race.base, draft.tree), usage)
        raise _failure(drafts, self.settings, usage)


def _prompt_budget(client: LLMSettings) -> int:
    return client.room or UNLIMITED


class _Race:
    """The drafts for one idea."""

    def __init__(
        self, client: Client, prompt: Prompt, revisions: int, replay: bool, follow_up: Sequence[Message] = (),
        salt: str = "",
    ):  # fmt: skip
        """
        Args:
            follow_up: messages after the first ones, for all drafts.
            salt: names these drafts apart from others about the same idea.
        """
        self._client, self._prompt, self._revisions, self._replay = client, prompt, revisions, replay
        # A draft may be for a parent's codebase, and the limits of the rules count from the baseline.
        self._baseline = prompt.environment.baseline(prompt.preset)
        self._follow_up, self._salt, self.base = list(follow_up), salt, prompt.base
        self._first_messages: dict[int, list[Message]] = {}
        """By number of halvings; all drafts share them."""

    async def run(self, drafts: list[Draft]) -> None:
        """Write drafts until one is valid or, with a recording, all to their end.  None is still running afterwards."""
        tasks = [asyncio.create_task(self._write(draft)) for draft in drafts]
        try:
            pending = set(tasks)
            while pending and (self._replay or all(draft.tree is None for draft in drafts)):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also on a cancelled `implement`: no draft may call the model, or book its cost, after the return.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()  # raises an error of our own code

    async def _write(self, draft: Draft) -> None:
        follow_up = self._follow_up
        try:
            for revision in range(self._revisions + 1):
                salt = f"{self._prompt.idea.key} {self._salt}draft {draft.number}, revision {revision}"
                reply = await self._ask(draft, follow_up, salt)
                # No `await` from here to the next call: a replay then sees every answer of the recording judged.
                draft.replies.append(reply)
                answer = read_answer(reply, self._prompt.base, self._prompt.environment.rules, self._baseline)
                if not isinstance(answer, Fault):
                    draft.tree = answer
                    return
                if answer.final or revision == self._revisions:
                    draft.fault = answer
                    return
                follow_up = self._prompt.revision(reply.text, answer.reason, answer.message)
        except IdeatorError as error:
            draft.unavailable = error

    async def _ask(self, draft: Draft, follow_up: list[Message], salt: str) -> Reply:
        """An answer.  If the prompt is too long for the server, the draft sees half of the codebase from then on.

        Raises:
            IdeatorError: the client gives no answer, or the smallest prompt is still too long.
        """
        # A recording holds answers only: a prompt without an answer may have been too long.
        retry_shorter = (ContextTooLong, LLMUnavailable) if self._replay else ContextTooLong
        while True:
            if draft.halvings not in self._first_messages:
                self._first_messages[draft.halvings] = self._prompt.messages(draft.halvings)
            try:
                return await self._client.complete(self._first_messages[draft.halvings] + follow_up, salt=salt)
            except retry_shorter:
                if draft.halvings == HALVINGS:
                    raise
                draft.halvings += 1


def _permanence(error: IdeatorError) -> tuple[bool, bool]:
    """Whether no wait cures the error, and whether it was not the first such one in a row."""
    return (error.permanent, error.repeated) if isinstance(error, LLMUnavailable) else (False, False)


def _failure(drafts: list[Draft], settings: CoderSettings, usage: dict[str, float]) -> IdeatorError:
    """The error when no draft is valid: the idea's fault if a draft was answered to its end, else ours."""
    faults = [(draft.fault, draft.replies[-1].text) for draft in drafts if draft.fault is not None]
    if not faults:
        errors = [draft.unavailable for draft in drafts if draft.unavailable is not None]
        # The budget first, which has an error kind of its own in records; then a permanent fault, which ends a run.
        cause = max(errors, key=lambda error: (isinstance(error, BudgetSpent), *_permanence(error)))
        text = f"The coder gave no answer to judge the idea by: {cause}"
        unavailable = ImplementerUnavailable(text, *_permanence(cause))
        unavailable.__cause__ = cause
        return unavailable
    # Of several faults, the most common reason is reported, with its last message and answer.
    common, count = Counter(fault.reason for fault, _ in faults).most_common(1)[0]
    last, answer = [pair for pair in faults if pair[0].reason == common][-1]
    return NotImplementable(
        f"Of {len(drafts)} drafts {len(faults)} were answered, with up to {settings.revisions} revisions each; none "
        f"gave a codebase. Most often ({count} of {len(faults)}): {REASONS[common]}. The last time: {last.message}",
        last.kind,
        usage,
        answer,
    )
